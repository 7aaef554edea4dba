"""What is wrong with a command that collects statistics, by its values alone or by the model's task."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.checkpoints.publishing.block_choice import KIND as BLOCK_KIND
from regmean_lab.checkpoints.publishing.block_choice import choice_problem
from regmean_lab.checkpoints.table_settings import table_problems
from regmean_lab.checkpoints.tasks import TASKS
from regmean_lab.checkpoints.writing import parse_size
from regmean_lab.config.checkpoint_commands import CollectConfig
from regmean_lab.config.groups import label_source_problem
from regmean_lab.statistics import FORMS, KINDS
from regmean_lab.statistics.settings import MatrixConfig
from regmean_lab.suites.base import Task
from regmean_lab.training.processes import device_problems

MATRICES_KIND = "gram"
"""The kind of statistics that matrices of other programs can be."""


def not_by_blocks(plain: CollectConfig) -> list[str]:
    """Why statistics cannot be collected block by block, whatever the model; empty if they can."""
    found = []
    if others := [kind for kind in plain.kinds if kind != BLOCK_KIND]:
        found.append(
            f"blocks: {', '.join(others)} cannot be collected block by block, as gradients go through all of them; "
            f"expected kinds=[{BLOCK_KIND}], or blocks=false"
        )
    if plain.trainer.devices > 1:
        found.append(
            "blocks: one block after the other runs on one device; expected trainer.devices=1, or blocks=false"
        )
    if plain.statistics.gram.stops_early:
        found.append(
            "blocks: with statistics.gram.tolerance all layers are compared while examples are read; expected null, or "
            "blocks=false"
        )
    return found


def value_problems(plain: CollectConfig) -> list[str]:
    """What is wrong with the values alone."""
    found = [f"statistics.{problem}" for problem in plain.statistics.problems()]
    found += [f"trainer.{problem}" for problem in plain.trainer.problems()]
    for key, value, allowed in (("form", plain.form, FORMS), ("task", plain.task, (None, *TASKS))):
        if value not in allowed:
            found.append(f"{key}: expected one of {', '.join(str(one) for one in allowed if one)}, got {value!r}")
    unknown = [kind for kind in plain.kinds if kind not in KINDS]
    if unknown or not plain.kinds:
        found.append(f"kinds: expected some of {', '.join(KINDS)}, got {plain.kinds}")
    if plain.rank is None and plain.form == "low_rank":
        found.append("rank: required with form=low_rank; for example rank=64")
    found += _matrices_problems(plain)
    found += table_problems(plain.text, plain.header, [plain.data])
    for name in ("max_length", "batch_size", "rank"):
        number = getattr(plain, name)
        if number is not None and number < 1:
            found.append(f"{name}: expected at least 1, got {number}")
    if not plain.minimum_rows_per_column >= 0:
        found.append(f"minimum_rows_per_column: expected at least 0, got {plain.minimum_rows_per_column}")
    found += device_problems(plain.trainer)
    if (problem := choice_problem(plain.blocks)) is not None:
        found.append(problem)
    elif str(plain.blocks).lower() == "true":
        found += not_by_blocks(plain)
    try:
        parse_size(plain.held_activations)
    except ValueError as error:
        found.append(f"held_activations: {error}")
    if "tokens" in plain.kinds and plain.statistics.tokens.minimum_count < 2 and not plain.allow_few_rows:
        found.append(
            "statistics.tokens.minimum_count: at 1 every word of every text is told; expected at least 2, or, where "
            "the data may be public, allow_few_rows=true"
        )
    if plain.statistics.gram.generation:
        found.append("statistics.gram.generation: is for answers of suites; expected false")
    if plain.statistics.storage != "full":
        found.append("statistics.storage: is for the zoo; the form of what is published is form=packed")
    for kind in KINDS:
        settings = getattr(plain.statistics, kind)
        if isinstance(settings, MatrixConfig) and settings.form != "full":
            found.append(f"statistics.{kind}.form: is for jobs; the form of what is published is form={settings.form}")
    return found


def _matrices_problems(plain: CollectConfig) -> list[str]:
    """What is wrong with matrices that another program has measured, and with what is given beside them."""
    if plain.matrices is None:
        return [] if plain.rows is None else ["rows: is for matrices=FILE; of data they are counted"]
    found = [] if Path(plain.matrices).expanduser().is_file() else [f"matrices: {plain.matrices}: no such file"]
    default = CollectConfig()
    given = [
        key
        for key in ("data", "task", "subset", "split", "data_revision", "text", "target", "label", "max_length")
        if (value := getattr(plain, key)) != getattr(default, key) and not (key == "data" and value == "")
    ]
    if given:
        found.append(f"{given[0]}: matrices are there already, and nothing is read; leave out {', '.join(given)}")
    if plain.kinds != [MATRICES_KIND]:
        found.append(f"kinds: matrices are Gram matrices; expected [{MATRICES_KIND}], got {plain.kinds}")
    if plain.rows is not None and plain.rows < 1:
        found.append(f"rows: expected at least 1, got {plain.rows}")
    if plain.rows is None and plain.push is not None and not plain.allow_few_rows:
        found.append(
            "rows: matrices of few rows give away the inputs, and the file does not say how many rows its were; give "
            "rows=NUMBER, or, where the data may be public, allow_few_rows=true; without push nothing is asked"
        )
    return found


def label_problems(plain: CollectConfig, name: str, task: Task) -> list[str]:
    """Which kinds of statistics a model of this task cannot have, or not with labels from where they are to come."""
    wrong = {
        kind: KINDS[kind].task_problem(getattr(plain.statistics, kind), task.kind)
        for kind in plain.kinds
        if kind in KINDS
    }
    found = [f"statistics.{kind}.{problem}" for kind, problem in wrong.items() if problem]
    if task.kind == "unlabelled":
        return found + [
            f"kinds: {kind} needs labels, and of {name} models only texts are read; expected kinds of layers' inputs, "
            "such as gram"
            for kind in plain.kinds
            if kind in KINDS and KINDS[kind].of not in ("inputs", "texts")
        ]
    problems = {kind: label_source_problem(source, task.kind) for kind, source in _label_sources(plain).items()}
    return found + [f"statistics.{kind}.labels_from: {problem}" for kind, problem in problems.items() if problem]


def _label_sources(plain: CollectConfig) -> dict[str, str]:
    """By kind, where labels come from, of the kinds that are asked for and need any."""
    sources = {
        name: kind.needs_labels(getattr(plain.statistics, name)) for name, kind in KINDS.items() if name in plain.kinds
    }
    return {name: source for name, source in sources.items() if source is not None}


def needs_label(plain: CollectConfig, task: Task) -> bool:
    """Whether a kind of statistics needs a column of true labels; a language model's are its texts themselves."""
    if task.kind == "text":
        return False
    sources = _label_sources(plain).values()
    needing = {"true", "batch_mean", "batch_loss"} | ({"batch_hard"} if task.kind == "regression" else set())
    return any(source in needing for source in sources)
