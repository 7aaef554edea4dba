"""``experiment=collect_statistics``: statistics of one fine-tuned model, written beside it for others to merge with."""

from __future__ import annotations

import copy
import logging
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from regmean_lab.callbacks.requests import published_path
from regmean_lab.callbacks.statistics import StatisticsRequest
from regmean_lab.checkpoints.empty_models import Like, empty_model
from regmean_lab.checkpoints.publishing.blocks import KIND as BLOCK_KIND
from regmean_lab.checkpoints.publishing.blocks import BlockCollection, choice_problem, file_states, is_by_blocks
from regmean_lab.checkpoints.publishing.card import write_cards
from regmean_lab.checkpoints.publishing.collect import Publication, collect
from regmean_lab.checkpoints.publishing.corpus import OneCorpus
from regmean_lab.checkpoints.publishing.guard import guard_file
from regmean_lab.checkpoints.publishing.imported import KIND as GRAM
from regmean_lab.checkpoints.publishing.imported import import_gram
from regmean_lab.checkpoints.publishing.layers import input_widths
from regmean_lab.checkpoints.publishing.models import empty_module, is_local, load_module, read_checkpoint
from regmean_lab.checkpoints.publishing.pushing import (
    StatisticsPush,
    push_statistics,
    statistics_push,
    weights_problem,
)
from regmean_lab.checkpoints.table_settings import HEADERS, table_problems, texts_of
from regmean_lab.checkpoints.tasks import TASKS, longest_text, task_name, task_of
from regmean_lab.checkpoints.writing import parse_size
from regmean_lab.config.checkpoint_commands import CollectConfig, pushed_to
from regmean_lab.config.groups import (
    ModelConfig,
    label_source_problem,
)
from regmean_lab.config.schema import ConfigurationError, plain_config
from regmean_lab.merging.base import matches
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub import digests, find_on_hub
from regmean_lab.models.pretrained import Checkpoint, ModelError, quiet_transformers
from regmean_lab.models.sentence_folders import SentenceFolder, read_sentence_folder
from regmean_lab.modules import TaskModule
from regmean_lab.statistics import FORMS, KINDS, StatisticsError, expert_layers, linear_layers
from regmean_lab.suites.base import DataError, Task
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.tables.columns import choose_columns, examples_of, public_names
from regmean_lab.suites.tables.table import missing_file, read_table
from regmean_lab.suites.text_encoding import template_problem
from regmean_lab.training.processes import device_problems
from regmean_lab.training.trainers import test_trainer
from regmean_lab.utils.files import STATISTICS_FOLDER, WEIGHTS_FILE, file_sha256, write_json

RECORD_FILE = "collection.json"
log = logging.getLogger(__name__)


def check(config: DictConfig) -> None:
    """Check a composed configuration: its values, and whether model and data are there, and where they are pushed.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    plain = _plain(config)
    found = _problems(plain)
    if plain.matrices is None and (problem := missing_file(plain.data)):
        found.append(problem)
    try:
        checkpoint, sentence = _checkpoint(plain)
        if plain.matrices is None and plain.task in (None, *TASKS):
            model_config, _ = read_checkpoint(checkpoint)
            name = task_name(model_config, plain.task, sentence)
            found += _label_problems(plain, name, task_of(model_config, name))
    except ModelError as error:
        found.append(str(error))
    if plain.push is not None:
        found += _push(plain, _output(plain, Path(plain.paths.output_dir)))[1]
    if found:
        raise ConfigurationError(found)


def written(config: DictConfig) -> list[tuple[str, Path]]:
    """What a job writes outside of its own folder: the key that says so, and the path of each file of statistics."""
    found = pushed_to(config)
    key = "checkpoint" if config.output is None else "output"
    if key == "checkpoint" and not is_local(config.checkpoint):
        return found
    folder = Path(str(config[key])).expanduser() / STATISTICS_FOLDER
    return found + [(key, folder / f"{kind}.safetensors") for kind in dict.fromkeys(config.kinds)]


def run(config: DictConfig, folder: Path) -> None:
    """Collect what is not there yet, write it with its card, and push it if the configuration asks for that.

    Args:
        config: a composed configuration.
        folder: the job's folder.

    Raises:
        ConfigurationError: as :func:`check` does.
        ModelError: when the model cannot be loaded.
        DataError: when the data cannot be read.
        StatisticsError: when too few rows were seen, or something is not finite.
        PushError: when what was written could not be pushed.
    """
    check(config)
    plain = _plain(config)
    checkpoint, sentence = _checkpoint(plain)
    output, model = _output(plain, folder), _identity(checkpoint, sentence, plain.push is not None)
    push_to, found = _push(plain, output)
    if push_to is not None and (problem := weights_problem(push_to, model)):
        found.append(problem)
    if found:
        raise ConfigurationError(found)
    if push_to is not None:
        log.info("when they are finished, the statistics are pushed to %s", push_to.destination.told)
    if plain.matrices is not None:
        done = _converted(plain, checkpoint, output, model)
    else:
        done = _measured(plain, checkpoint, sentence, folder, output, model)
    title = Path(plain.checkpoint).expanduser().resolve().name if is_local(plain.checkpoint) else plain.checkpoint
    try:
        cards = write_cards(output, title, both=plain.card)
    except ValueError as error:
        raise StatisticsError(str(error)) from None
    files = {kind: str(published_path(output, kind)) for kind in done}
    write_json(folder / RECORD_FILE, {"done": done, "files": files, "cards": [str(path) for path in cards]})
    for kind, path in files.items():
        print(f"{kind}: {done[kind]}, {path} ({Path(path).stat().st_size} bytes)")
    print(f"described in {', '.join(str(path) for path in cards)}")
    if push_to is not None:
        for line in push_statistics(push_to, output):
            print(line)


def _plain(config: DictConfig) -> CollectConfig:
    """The configuration as a dataclass; where there are matrices, there need be no data."""
    if OmegaConf.select(config, "matrices") is not None and OmegaConf.is_missing(config, "data"):
        config = copy.deepcopy(config)
        config.data = ""
    return plain_config(config, CollectConfig)


def _push(plain: CollectConfig, folder: Path) -> tuple[StatisticsPush | None, list[str]]:
    """Where statistics are pushed, if they are, and everything that stands against it."""
    if plain.push is None:
        return None, []
    return statistics_push(plain.push, private=plain.private, folder=folder, kinds=plain.kinds, card=plain.card)


def _converted(plain: CollectConfig, checkpoint: Checkpoint, output: Path, model: dict[str, Any]) -> dict[str, str]:
    """Convert matrices that another program has measured; what was done by kind."""
    assert plain.matrices is not None
    try:
        with quiet_transformers():
            empty, _ = empty_model(checkpoint.config(), Like(), None, lenient=True)
    except CheckpointError as error:
        raise ConfigurationError([f"checkpoint: {problem}" for problem in error.problems]) from None
    widths = input_widths(empty)
    _check_excluded(plain, widths)
    kept = {layer: width for layer, width in widths.items() if not matches(layer, plain.exclude_layers)}
    # Nothing in the file tells these; what the command says of them decides which jobs the matrices serve.
    told = {key: getattr(plain.statistics.gram, key) for key in ("count_padding", "extra_rows")}
    publication = _publication(plain, output, model, told, _public_command(plain, {}))
    source = Path(plain.matrices).expanduser()
    done = import_gram(source, kept, publication, plain.rows, force=plain.force)
    if publication.pushed and publication.minimum is not None:
        guard_file(publication.path(GRAM), publication.minimum)
    return {GRAM: done}


def _measured(
    plain: CollectConfig,
    checkpoint: Checkpoint,
    sentence: SentenceFolder | None,
    folder: Path,
    output: Path,
    model: dict[str, Any],
) -> dict[str, str]:
    """Measure statistics of a model on data, or find them; what was done by kind."""
    model_config, tokenizer = read_checkpoint(checkpoint)
    name = task_name(model_config, plain.task, sentence)
    task = task_of(model_config, name)
    typed = [*(texts_of(plain.text) or ()), *(name for name in (plain.target, plain.label) if name is not None)]
    table = read_table(
        plain.data,
        subset=plain.subset,
        split=plain.split,
        revision=plain.data_revision,
        header=HEADERS[plain.header],
        typed=typed,
    )
    columns = choose_columns(
        table,
        task,
        text=texts_of(plain.text),
        target=plain.target,
        label=plain.label,
        has_encoder=bool(model_config.is_encoder_decoder),
        needs_label=_needs_label(plain, task),
    )
    public = public_names(table, columns, typed)
    examples = examples_of(table, columns, task)
    if problem := template_problem(examples, lambda: tokenizer):
        raise DataError(problem)
    own_length = None if sentence is None else sentence.longest_text
    if sentence is not None and task.kind == "unlabelled" and sentence.modules[0].settings.get("do_lower_case"):
        examples = [replace(example, text=example.text.lower()) for example in examples]
    corpus = OneCorpus(examples, task)
    max_length = longest_text(model_config, tokenizer, plain.max_length or own_length)
    data = CorpusDataModule(
        corpus,
        tokenizer,
        batch_size=plain.batch_size,
        eval_batch_size=plain.batch_size,
        max_length=max_length,
        seed=plain.statistics.seed,
        num_workers=plain.trainer.workers,
    )
    load = partial(load_module, checkpoint, name, task, sentence)
    module, blocks = _module(plain, checkpoint, name, task, sentence, folder)
    trainer = test_trainer(plain.trainer)
    described = {
        "task": name,
        "max_length": max_length,
        "text": tuple(public[column] for column in columns.text),
        **{key: public[column] for key, column in (("target", columns.target), ("label", columns.label)) if column},
    }
    publication = _publication(plain, output, model, described, _public_command(plain, public))
    done = {}
    for request in _requests(plain, module):
        try:
            done[request.kind] = collect(
                trainer, request, module, data, publication, force=plain.force, blocks=blocks, load=load
            )
        except StatisticsError as error:
            remedy = "leave it out with exclude_layers=[name]"
            raise StatisticsError(str(error).replace("leave it out of `layers`", remedy)) from None
    return done


def _publication(
    plain: CollectConfig, output: Path, model: dict[str, Any], described: dict[str, Any], command: str
) -> Publication:
    return Publication(
        folder=output,
        form=plain.form,  # type: ignore[arg-type]  # checked
        rank=plain.rank if plain.form == "low_rank" else None,
        minimum=None if plain.allow_few_rows else plain.minimum_rows_per_column,
        excluded=tuple(plain.exclude_layers),
        described=described,
        command=command,
        model=model,
        pushed=plain.push is not None,
    )


def _module(
    plain: CollectConfig,
    checkpoint: Checkpoint,
    name: str,
    task: Task,
    sentence: SentenceFolder | None,
    folder: Path,
) -> tuple[TaskModule, BlockCollection | None]:
    """The model, and if it is measured block by block, how; it has no weights then."""
    tensors = stored_tensors(checkpoint.weights_folder())
    if _not_by_blocks(plain) or not is_by_blocks(plain.blocks, tensors, plain.trainer):
        return load_module(checkpoint, name, task, sentence), None
    files = file_states(tensor.path for tensor in tensors.values())
    module, read = empty_module(checkpoint, name, task, sentence)
    return module, BlockCollection(module, read, plain.trainer, parse_size(plain.held_activations), folder, files)


def _not_by_blocks(plain: CollectConfig) -> list[str]:
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


def _problems(plain: CollectConfig) -> list[str]:
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
        found += _not_by_blocks(plain)
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
    if plain.kinds != [GRAM]:
        found.append(f"kinds: matrices are Gram matrices; expected [{GRAM}], got {plain.kinds}")
    if plain.rows is not None and plain.rows < 1:
        found.append(f"rows: expected at least 1, got {plain.rows}")
    if plain.rows is None and plain.push is not None and not plain.allow_few_rows:
        found.append(
            "rows: matrices of few rows give away the inputs, and the file does not say how many rows its were; give "
            "rows=NUMBER, or, where the data may be public, allow_few_rows=true; without push nothing is asked"
        )
    return found


def _label_problems(plain: CollectConfig, name: str, task: Task) -> list[str]:
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


def _needs_label(plain: CollectConfig, task: Task) -> bool:
    """Whether a kind of statistics needs a column of true labels; a language model's are its texts themselves."""
    if task.kind == "text":
        return False
    sources = _label_sources(plain).values()
    needing = {"true", "batch_mean", "batch_loss"} | ({"batch_hard"} if task.kind == "regression" else set())
    return any(source in needing for source in sources)


def _checkpoint(plain: CollectConfig) -> tuple[Checkpoint, SentenceFolder | None]:
    """The model, and the folder of sentence-transformers whose transformer it is."""
    sentence = None
    reference = plain.checkpoint
    if is_local(reference):
        try:
            sentence = read_sentence_folder(Path(reference).expanduser())
        except CheckpointError as error:
            raise ModelError(f"checkpoint: {error}") from None
        if sentence is not None and sentence.modules[0].path:
            reference = str(sentence.transformer)
    config = ModelConfig(name="checkpoint", checkpoint=reference, revision=plain.revision)
    try:
        return find_checkpoint(config, Path(plain.paths.zoo_dir) / MODELS_FOLDER), sentence
    except ModelError as error:
        raise ModelError(str(error).replace("model.checkpoint", "checkpoint")) from None


def _output(plain: CollectConfig, folder: Path) -> Path:
    if plain.output is not None:
        return Path(plain.output).expanduser()
    return Path(plain.checkpoint).expanduser() if is_local(plain.checkpoint) else folder


def _identity(checkpoint: Checkpoint, sentence: SentenceFolder | None, pushed: bool) -> dict[str, Any]:
    """What tells others whether they have the same weights: hashes of a folder's files, or a commit of the hub.

    What is pushed makes a new commit, so that there the files of the hub have to be told by their hashes as well.
    """
    if checkpoint.revision is not None:
        sums = _sums_on_hub(checkpoint) if pushed else {}
        return {"hub": checkpoint.fingerprint, **({"weights_sha256": sums} if sums else {})}
    files = sorted({tensor.path for tensor in stored_tensors(Path(checkpoint.location)).values()})
    sums = {path.name: file_sha256(path) for path in files}
    if sentence is not None:
        sums |= {name: file_sha256(path) for name, path in sentence.weight_files.items()}
    return {"weights_sha256": sums}


def _sums_on_hub(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of the files of a hub model's weights, or of the copy into which its pickles were converted."""
    if checkpoint.folder is not None:
        files = {tensor.path for tensor in stored_tensors(Path(checkpoint.folder)).values()}
        return {path.name: file_sha256(path) for path in sorted(files)}
    commit = checkpoint.weights_revision or checkpoint.revision
    assert commit is not None
    listed = find_on_hub(checkpoint.source, commit).files or ()
    weights = [name for name in listed if name == WEIGHTS_FILE]
    weights = weights or [name for name in listed if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    try:
        return digests(checkpoint.source, commit, weights)
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            [f"push: the hub does not tell the weights of {checkpoint.source} ({reason})"]
        ) from None


def _check_excluded(plain: CollectConfig, layers: Collection[str]) -> None:
    """Raise for patterns of layers that match none."""
    if unmatched := [text for text in plain.exclude_layers if not any(matches(layer, [text]) for layer in layers)]:
        raise ConfigurationError(
            [f"exclude_layers: no linear layer matches {', '.join(unmatched)}; there are {', '.join(layers)}"]
        )


def _requests(plain: CollectConfig, module: TaskModule) -> list[StatisticsRequest]:
    experts = expert_layers(module.model)
    layers = [*linear_layers(module.model), *experts]
    _check_excluded(plain, layers)
    kept = tuple(layer for layer in layers if not matches(layer, plain.exclude_layers))
    return [
        StatisticsRequest(
            kind,
            getattr(plain.statistics, kind),
            plain.batch_size,
            plain.statistics.seed,
            plain.trainer.precision,
            plain.statistics.batch_tokens,
            layers=_chosen(kind, kept, experts) if plain.exclude_layers else None,
            experts=KINDS[kind].of == "inputs" and not set(experts).isdisjoint(kept),
            devices=plain.trainer if plain.trainer.devices > 1 else None,
        )
        for kind in dict.fromkeys(plain.kinds)
    ]


def _chosen(kind: str, kept: tuple[str, ...], experts: list[str]) -> tuple[str, ...] | None:
    """The layers of one kind of statistics; None where they have none. Experts have Gram matrices of inputs only."""
    about = KINDS[kind]
    if not about.by_layer:
        return None
    return kept if about.of == "inputs" else tuple(layer for layer in kept if layer not in set(experts))


def _public_command(plain: CollectConfig, public: Mapping[str, str]) -> str:
    """The command with what determines the result: of paths only their last part, of columns their public names."""
    default = CollectConfig(checkpoint=plain.checkpoint, data=plain.data)
    what = f"data={Path(plain.data).name}" if plain.matrices is None else f"matrices={Path(plain.matrices).name}"
    parts = [f"checkpoint={Path(plain.checkpoint).name}", what]
    left_out = (
        *("experiment", "checkpoint", "data", "matrices", "output", "card", "push", "private", "force"),
        *("blocks", "held_activations", "trainer", "paths", "statistics"),
    )
    for key, value in asdict(plain).items():
        if key not in left_out and value != getattr(default, key):
            named = key in ("text", "target", "label")
            parts.append(f"{key}={_override(_renamed(value, public) if named else value)}")
    before, after = asdict(default.statistics), asdict(plain.statistics)
    for key, value in after.items():
        for part, inner in value.items() if isinstance(value, dict) else ():
            if inner != before[key][part]:
                parts.append(f"statistics.{key}.{part}={_override(inner)}")
        if not isinstance(value, dict) and value != before[key]:
            parts.append(f"statistics.{key}={_override(value)}")
    return shlex.join(["python", "-m", "regmean_lab", "experiment=collect_statistics", *parts])


def _renamed(value: Any, public: Mapping[str, str]) -> Any:
    """One name of a column, or several, as they are published; one that is not read is not."""
    return [_renamed(part, public) for part in value] if isinstance(value, list) else public.get(value, "unused")


def _override(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
