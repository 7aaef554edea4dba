"""The zoo of the paper's released code: its folders, read as checkpoints with statistics beside them.

A model lies in ``<dataset>/<architecture>/<time>/``, as the Trainer of transformers saves it (``config.json``,
``pytorch_model.bin`` or ``model.safetensors``, often a tokenizer), with the settings of its training in
``model_config.json``, by which the released code's ``zoo_filter`` chooses. Statistics are ``gram_v*.pkl`` (by layer the
mean of the products of its inputs, and ``meta_info``) and ``fisher_v*.pkl`` (by parameter). Pickles are converted in a
process of its own that builds tensors and nothing else (:mod:`regmean_lab.models.convert_pickled`).

https://github.com/bloomberg/dataless-model-merging
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints.tasks import class_names
from regmean_lab.models.converted_weights import copy_small, has_safetensors, pickled_files, small_files
from regmean_lab.models.folders import CONFIG_FILE
from regmean_lab.models.pretrained import PROBLEM_TYPES, TOKENIZER_FILES, Checkpoint, label_names
from regmean_lab.prepare.base import PrepareError
from regmean_lab.prepare.model import convert_apart
from regmean_lab.statistics.settings import BATCH_LABEL_SOURCES
from regmean_lab.statistics.store import write_matrices, write_statistics
from regmean_lab.suites.base import Task
from regmean_lab.suites.released_names import released_corpus
from regmean_lab.utils.files import contents_sha256, new_folder

MODEL_CONFIG = "model_config.json"
MULTI_LABEL = "ForMultiLabelClassification"
"""Ending of the names of the released code's own classes, which compute what transformers' classifiers do."""

_GENERIC = re.compile(r"LABEL_\d+")
_STATISTICS = re.compile(r"(gram|fisher)_v(.+)\.pkl")
_OF_TRAINING = ("freq_dist", "reweight_loss_schema")
"""Settings of the released code's loss, which it keeps in ``config.json``."""

_LABEL_SOURCES = BATCH_LABEL_SOURCES[1:]


@dataclass(frozen=True)
class ReleasedModel:
    """One model of a released zoo.

    Attributes:
        folder: where it lies.
        dataset: what it was trained on, as the folder says.
        architecture: what it was trained from.
        settings: the content of ``model_config.json``; empty without.
    """

    folder: Path
    dataset: str
    architecture: str
    settings: Mapping[str, Any]

    @property
    def seed(self) -> int | None:
        """The seed of its training, if it is recorded."""
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None

    @property
    def time(self) -> float:
        """When it was put into the zoo, seconds."""
        return float(self.folder.name)

    def corpus(self, known: tuple[str, ...]) -> str | None:
        """The corpus of a suite that it was trained on; None if the suite has none of this name.

        Args:
            known: the suite's corpora. Parts of a corpus are told by ``partition``; the genres of OntoNotes are named
                ``ontonotes@GENRE``.
        """
        partition = self.settings.get("partition", -1)
        part = f"partition_{partition}"
        if part in known:
            return part
        return self.dataset if self.dataset in known else released_corpus(self.dataset, (), known)


def find_released(
    root: Path, wanted: Mapping[str, Any], architecture: str | None
) -> tuple[list[ReleasedModel], list[str]]:
    """The models of a released zoo, oldest first, and what is wrong with what looks like one.

    Args:
        root: the zoo, the released code's ``local_zoo_dir``.
        wanted: settings that ``model_config.json`` must have, the released code's ``zoo_filter``.
        architecture: name of the folders of the architecture; None takes all.
    """
    if not root.is_dir():
        return [], [f"{root}: no such folder"]
    models, found = [], []
    for folder in sorted(root.glob("*/*/*")):
        if not folder.is_dir() or not re.fullmatch(r"\d+(\.\d+)?", folder.name):
            continue
        if architecture is not None and folder.parent.name != architecture:
            continue
        settings: Any = {}
        path = folder / MODEL_CONFIG
        if path.is_file():
            try:
                settings = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                found.append(f"{path}: cannot be read ({error})")
                continue
        if not isinstance(settings, dict):
            found.append(f"{path}: expected settings by name, got {type(settings).__name__}")
            continue
        if any(key not in settings or settings[key] != value for key, value in wanted.items()):
            continue
        models.append(ReleasedModel(folder, folder.parent.parent.name, folder.parent.name, settings))
    if not models and not found:
        found.append(
            f"{root}: no model there; expected DATASET/ARCHITECTURE/TIME/ with {CONFIG_FILE}"
            + (", of this architecture and filter" if wanted or architecture else "")
        )
    return sorted(models, key=lambda model: model.time), found


def as_checkpoint(
    model: ReleasedModel, task: Task, checkpoint: Checkpoint, models_folder: Path, fisher: str | None
) -> Path:
    """A copy of a released model as a checkpoint that can be read, with statistics beside it; made once.

    Args:
        model: the model.
        task: what members of the suite predict: outputs without names are taken to be its labels, in this order.
        checkpoint: the pretrained model, whose tokenizer is taken where the model has none.
        models_folder: where copies are kept.
        fisher: the source of labels that its Fisher information was computed with; None leaves it out.

    Raises:
        PrepareError: saying why it cannot be read.
    """
    names = [path.name for path in model.folder.iterdir()]
    weights = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if not has_safetensors(names) and not pickled_files(names):
        raise PrepareError(f"{model.folder}: no weights there (pytorch_model.bin or model.safetensors)")
    if not (model.folder / CONFIG_FILE).is_file():
        raise PrepareError(f"{model.folder}: no {CONFIG_FILE} there")
    statistics = {match[0]: match[1] for name in names if (match := _STATISTICS.fullmatch(name)) is not None}
    own = [model.folder / name for name in (*weights, *pickled_files(names), *statistics)]
    read = sorted({*small_files(model.folder), *own})
    digest = contents_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in read))
    target = models_folder / f"released-{model.dataset.replace('@', '-')}-{digest[:12]}-{fisher or 'gram'}"
    if target.is_dir():
        return target
    with new_folder(target) as temporary:
        if has_safetensors(names):
            for name in weights:
                shutil.copyfile(model.folder / name, temporary / name)
        else:
            convert_apart(model.folder, temporary)
        copy_small(model.folder, temporary)
        (temporary / MODEL_CONFIG).unlink(missing_ok=True)
        if not any(path for pattern in TOKENIZER_FILES for path in temporary.glob(pattern)):
            checkpoint.tokenizer().save_pretrained(temporary)
        path = temporary / CONFIG_FILE
        path.write_text(json.dumps(_readable(json.loads(path.read_text(encoding="utf-8")), task), indent=2) + "\n")
        for name, kind in sorted(statistics.items()):  # of several versions the last one stays
            if kind == "gram" or fisher is not None:
                _convert_statistics(model, name, kind, task, fisher, temporary)
    return target


def _readable(content: dict[str, Any], task: Task) -> dict[str, Any]:
    """A configuration with transformers' class for the released code's own, and with the names of the labels."""
    classes = class_names("sequence_classification")
    named = (content.get("architectures") or [""])[0]
    if named.endswith(MULTI_LABEL) and (own := classes.get(content.get("model_type"))):
        content["architectures"] = [own]
    for key in _OF_TRAINING:
        content.pop(key, None)
    if task.kind in PROBLEM_TYPES:
        content["problem_type"] = PROBLEM_TYPES[task.kind]
    labels = list((content.get("id2label") or {}).values())
    outputs = len(labels) or int(content.get("num_labels", 0))
    has_names = task.kind in ("answers", "text") or not all(_GENERIC.fullmatch(str(label)) for label in labels)
    if not has_names and outputs == len(task.labels):
        content |= {key: value for key, value in label_names(task).items() if key != "num_labels"}
    return content


def _convert_statistics(
    model: ReleasedModel, name: str, kind: str, task: Task, fisher: str | None, folder: Path
) -> None:
    """Write a pickled file of statistics again, with what is known of how they were computed."""
    tensors = folder / "tensors.safetensors"
    convert_apart(model.folder / name, tensors)
    content = {layer: value.float() for layer, value in load_file(tensors).items()}
    tensors.unlink()
    target = published_path(folder, kind)
    told = {"released": {"file": name}}
    if kind == "gram":
        # How many rows there were is not recorded; every input that a layer saw was counted.
        settings: dict[str, Any] = {"kind": kind, "count_padding": True, "extra_rows": True}
        if task.kind == "answers":
            settings |= {"generation": True, "generated_tokens": 3, "generated_padding": True}
        rows = dict.fromkeys(content, 1)
        header = {"kind": kind, "rows": rows, "shared": {one: one for one in content}, "examples": 0, "batches": 0}
        write_matrices(target, content, header, {"settings": settings, **told})
        return
    known = {"kind": kind, "rows": {}, "shared": {one: one for one in content}, "examples": 0, "batches": 0}
    header = {**known, "labels_from": "batch_mean", "likelihood": "categorical"}
    write_statistics(target, content, header, {"settings": {"kind": kind, "labels_from": fisher}, **told})


def fisher_problem(fisher: str | None) -> str | None:
    """Why this cannot be how the released code computed Fisher information."""
    if fisher is None or fisher in _LABEL_SOURCES:
        return None
    return f"fisher: expected {' or '.join(_LABEL_SOURCES)}, got {fisher!r}"
