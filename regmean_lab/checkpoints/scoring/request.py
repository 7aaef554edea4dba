"""What a configuration asks to be scored on, checked: files or data sets by name, or corpora of a suite."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from regmean_lab.checkpoints.scoring.corpora import (
    KIND_NAMES,
    Corpus,
    FileCorpus,
    Reading,
    SuiteCorpus,
    kind_problem,
)
from regmean_lab.checkpoints.scoring.models import ScoredModel
from regmean_lab.checkpoints.table_settings import HEADERS, table_problems, texts_of
from regmean_lab.config.checkpoint_commands import EvaluateConfig, ScoringConfig
from regmean_lab.suites import suite_types
from regmean_lab.suites.base import DataError, Split, TaskKind
from regmean_lab.suites.key_scores import key_score_problem
from regmean_lab.suites.tables.table import is_file_name
from regmean_lab.suites.tables.tagged_columns import TAGGED
from regmean_lab.utils.files import name_problem
from regmean_lab.utils.names import did_you_mean

SUITE_NAMES: Mapping[TaskKind, str] = {
    "single_label": "text_classification",
    "multi_label": "text_labels",
    "regression": "text_regression",
    "token_labels": "token_classification",
    "text": "text_generation",
}
"""What results on files call their suite, by the kind of task."""


def scoring_config(given: Any) -> tuple[ScoringConfig, list[str]]:
    """A setting that is a file, several, or a mapping with the keys of :class:`ScoringConfig`; and what is wrong."""
    if not isinstance(given, Mapping) or not {"data", *_KEYS} & set(map(str, given)):
        return ScoringConfig(data=given), []
    values = {str(name): value for name, value in given.items()}
    found = [f"{name}: there is no such key; {did_you_mean(name, _KEYS)}" for name in values if name not in _KEYS]
    if values.get("data") is None:
        found.append("data: required, but not given")
    return ScoringConfig(**{name: value for name, value in values.items() if name in _KEYS}), found


_KEYS = tuple(entry.name for entry in fields(ScoringConfig))


def settings_problems(plain: ScoringConfig) -> list[str]:
    """What is wrong with the values alone."""
    data = _named_data(plain.data)
    found = [] if data is not None else [f"data: expected a file or a list of files, got {plain.data!r}"]
    found += table_problems(plain.text, plain.header, list((data or {}).values()))
    for name in ("max_length", "batch_size"):
        number = getattr(plain, name)
        if number is not None and not (isinstance(number, int) and number >= 1):
            found.append(f"{name}: expected at least 1, got {number}")
    if plain.labels is not None and not (isinstance(plain.labels, list) and _are_names(plain.labels)):
        found.append(f"labels: expected a list of names, got {plain.labels!r}")
    found += [problem for name in data or () if (problem := name_problem("data", name)) is not None]
    return found


def read_corpora(plain: ScoringConfig, models: Sequence[ScoredModel], found: list[str]) -> list[Corpus]:
    """The files of a configuration, read for what some checkpoints predict; adds what is wrong to ``found``."""
    kinds = {(model.task.kind, _form(model)): model.name for model in models}
    if len(kinds) > 1:
        shown = ", ".join(f"{name} ({form or kind})" for (kind, form), name in kinds.items())
        found.append(f"checkpoint: models of several kinds of task are not scored on the same files: {shown}")
        return []
    (((kind, form), name),) = kinds.items()
    if problem := kind_problem(name, kind):
        found.append(problem)
        return []
    if plain.score is not None and (problem := key_score_problem(plain.score, kind, len(models[0].task.labels))):
        found.append(f"score: of {name}: {problem}")
    text = texts_of(plain.text)
    reading = Reading(
        None if text is None else tuple(text),
        plain.label,
        plain.target,
        HEADERS.get(plain.header) if isinstance(plain.header, str | bool) else None,
        plain.subset,
        plain.split,
        plain.data_revision,
        plain.score,
    )
    for key in ("label", "target"):
        if getattr(plain, key) is not None and (kind == "text") == (key == "label"):
            found.append(f"{key}: {name} is {KIND_NAMES[kind]}, which has no column of this; expected null")
    named = (_named_data(plain.data) or {}).items()
    corpora = [FileCorpus(own, data, kind, reading, form) for own, data in named]
    if missing := [problem for corpus in corpora if (problem := corpus.missing) is not None]:
        found += missing
        return []
    local = sorted(corpora, key=lambda corpus: not is_file_name(corpus.data))
    before = len(found)
    for corpus in local:
        if len(found) > before and not is_file_name(corpus.data):
            break  # nothing is fetched while a local file is wrong
        try:
            _ = corpus.table, corpus.columns
        except DataError as error:
            found += str(error).splitlines()
    return cast(list[Corpus], corpora)


def _form(model: ScoredModel) -> str:
    """Whether a language model is an encoder-decoder or a decoder; empty of other models."""
    return model.task.labels[0] if model.task.kind == "text" else ""


def suite_corpora(plain: EvaluateConfig, found: list[str]) -> list[Corpus]:
    """Corpora of the suite of a configuration; adds what is wrong to ``found``."""
    suite_type = suite_types()[plain.suite.name]
    settings = {
        entry.name: getattr(plain.suite, entry.name) for entry in fields(suite_type.settings_type) if entry.init
    }
    suite = suite_type(Path(plain.paths.data_dir), suite_type.settings_type(**settings))
    problems = [f"suite.{problem}" for problem in suite.problems()]
    names = list(dict.fromkeys(suite.members if plain.corpora is None else plain.corpora))
    if plain.split not in ("dev", "test"):
        problems.append(f"split: expected test or dev of a suite's corpora, got {plain.split!r}")
    for key in ("score", "text", "label", "target", "subset", "data_revision"):
        if getattr(plain, key) is not None:
            problems.append(f"{key}: is for files; a suite has its own ({', '.join(settings)} below suite)")
    if not problems:
        known = list(dict.fromkeys((*suite.candidates, *suite.out_of_domain([]))))
        problems += [
            f"corpora: suite {suite.name} has no {name!r}; {did_you_mean(name, known)}"
            for name in names
            if name not in known
        ]
    if not problems:
        problems += suite.missing(names)
    if not problems:
        try:
            suite.prepare(names)
        except DataError as error:
            problems += str(error).splitlines()
    found += problems
    return [] if problems else [SuiteCorpus(name, suite, cast(Split, plain.split)) for name in names]


def suite_record(plain: ScoringConfig, kind: TaskKind | None = None) -> dict[str, Any]:
    """What results record of where the corpora are from: a suite, or files for a kind of task."""
    if kind is not None:
        return {"name": SUITE_NAMES.get(kind, kind)}
    suite = cast(EvaluateConfig, plain).suite
    own = {entry.name: getattr(suite, entry.name) for entry in fields(suite) if entry.name not in ("name", "corpora")}
    return {"name": suite.name, "split": plain.split, **own}


def _named_data(data: Any) -> dict[str, str] | None:
    """Files or data sets by name, which is that of the file where none is given; None for what is none of these."""
    if isinstance(data, Mapping):
        return {str(name): str(one) for name, one in data.items()} if _are_names(list(data.values())) else None
    listed = [] if data is None else data if isinstance(data, list) else [data]
    if not _are_names(listed):
        return None
    stems = [_stem(one) for one in listed]
    names = [stem if stems.count(stem) == 1 else f"{stem}-{place}" for place, stem in enumerate(stems, start=1)]
    return dict(zip(names, listed, strict=True))


def _stem(data: str) -> str:
    path = Path(data).expanduser()
    known = is_file_name(data) or path.suffix.lower() in TAGGED
    return re.sub(r"[^\w.+-]", "_", path.stem if known else path.name).lstrip(".") or "data"


def _are_names(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) and value for value in values)
