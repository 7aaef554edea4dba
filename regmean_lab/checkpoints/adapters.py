"""Low-rank adapters (LoRA; Hu et al., ICLR 2022) in folders as PEFT writes them, added to the model they were made for.

W + s B A with s = α / r, or α / √r for rank-stabilised adapters (Kalajdzievski, 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regmean_lab.checkpoints.adapter_tensors import ADVICE, FACTOR, PREFIX, Adapter, SortedTensors, listed
from regmean_lab.checkpoints.architecture import Architecture, untied_architecture
from regmean_lab.checkpoints.empty_models import Like
from regmean_lab.checkpoints.labels import label_problems
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.merging.weights import StoredWeights
from regmean_lab.models.folders import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    CONFIG_FILE,
    PICKLED,
    conversion_command,
    read_json_file,
)
from regmean_lab.models.headers import CheckpointError, StoredTensor, read_header
from regmean_lab.models.pretrained import ADAPTER_TASKS, PROBLEM_TYPES

UNDERSTOOD = (
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "ensure_weight_tying",
    "init_lora_weights",
)
"""Settings of PEFT that are read."""

WITHOUT_EFFECT = (
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "runtime_config",
    "lora_dropout",
    "bias",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
)
"""Settings that change nothing in what a file's tensors mean: where adapters were put (the tensors' names tell), how
they were trained, and options of settings that are off or refused. Any other setting that is on is refused."""

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base model as it is; all others change it before training."""

MAX_PATTERN_LENGTH = 200

_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\[1-9]|[*+}][*+{]|(\*.*){4}|(\+.*){4}")
_LABELS = re.compile(r"\b(classifier|score|out_proj)\.(modules_to_save\.)?(default\.)?weight$")
_TOKENS = re.compile(
    r"\b(embed_tokens|word_embeddings|wte|shared|embed_in)\.(modules_to_save\.|(token_adapter\.)?base_layer\.)?"
    r"(default\.)?weight$"
)


def adapter_base(folder: Path) -> str | None:
    """The model that an adapter was made for, as its configuration names it: a folder, or ``name@revision``."""
    settings = read_json_file(folder / ADAPTER_CONFIG_FILE)
    named, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(named, str) or not named:
        return None
    if not isinstance(revision, str) or revision in ("", "main") or Path(named).expanduser().is_dir():
        return named
    return f"{named}@{revision}"


def read_adapter_files(folder: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """An adapter's configuration, and where its tensors lie; reads headers only.

    Raises:
        CheckpointError: with everything that is wrong with its files, or that is not understood.
    """
    path, weights = folder / ADAPTER_CONFIG_FILE, folder / ADAPTER_WEIGHTS_FILE
    settings = read_json_file(path)
    found = [f"{path}: {problem}" for problem in settings_problems(settings)]
    tensors: dict[str, StoredTensor] = {}
    if weights.is_file():
        try:
            tensors = read_header(weights)
        except CheckpointError as error:
            found += error.problems
    elif pickled := sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED):
        found.append(
            f"{folder}: weights in {', '.join(pickled)}, which is not read: such a file can run code. Where you trust "
            f"its origin, convert it once in a separate process: {conversion_command(folder)}"
        )
    else:
        found.append(f"{folder}: no {ADAPTER_WEIGHTS_FILE} there")
    if found:
        raise CheckpointError(found)
    return settings, tensors


def adapted_like(settings: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Like:
    """What an adapter makes of its base: a model for the adapter's task, with as many labels and tokens as it has."""
    import transformers

    name = ADAPTER_TASKS.get(str(settings.get("task_type")))
    auto_class = None if name is None else getattr(transformers, name)
    labels = tokens = None
    for stored, tensor in tensors.items():
        if FACTOR.fullmatch(stored.removeprefix(PREFIX)) or len(tensor.shape) != 2:
            continue
        if _TOKENS.search(stored):
            tokens = tensor.shape[0]
        elif _LABELS.search(stored):
            labels = tensor.shape[0]  # the last one, where a head has several layers
    return Like(auto_class, labels, tokens)


def read_adapter_labels(folder: Path, architecture: Architecture) -> bool:
    """Give an adapted model the names of labels that a ``config.json`` beside the adapter has, if there is one.

    PEFT's own files do not name them, and the base has other labels, or none.

    Returns:
        Whether there is one that names as many labels as the model has.

    Raises:
        CheckpointError: when it cannot be read, or numbers labels otherwise than from 0.
    """
    path = folder / CONFIG_FILE
    if architecture.labels is None or not path.is_file():
        return False
    content = read_json_file(path)
    if found := label_problems(content):
        raise CheckpointError([f"{path}: {problem}" for problem in found])
    names = {int(number): str(name) for number, name in (content.get("id2label") or {}).items()}
    if len(names) != len(architecture.labels):
        return False
    config: Any = architecture.config
    config.id2label, config.label2id = names, {name: number for number, name in names.items()}
    if content.get("problem_type") in PROBLEM_TYPES.values():
        config.problem_type = content["problem_type"]
    del architecture.labels  # is found anew
    return True


def fit_adapter(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, StoredTensor], architecture: Architecture
) -> tuple[Adapter, Architecture]:
    """What an adapter changes in a model of this architecture.

    PEFT leaves weights tied in the file, but computes with one of them changed. So a model whose tied weights an
    adapter changes apart is one in which they are not tied.

    Returns:
        What it changes, and the architecture of the adapted model: where the adapter unties weights, an untied one.

    Raises:
        CheckpointError: with all tensors that do not belong to the model.
    """
    path = folder / ADAPTER_WEIGHTS_FILE
    sorted_out = SortedTensors(tensors, settings, architecture)
    apart = sorted_out.names_untied()
    if not apart:
        adapter, found = sorted_out.adapter(architecture)
    else:
        try:
            untied = untied_architecture(architecture, apart)
        except CheckpointError as error:
            raise CheckpointError([f"{path}: {problem}" for problem in error.problems]) from None
        adapter, found = sorted_out.adapter(untied)
        architecture, adapter.untied = untied, True
    if found:
        raise CheckpointError([f"{path}: {problem}" for problem in found])
    return adapter, architecture


def settings_problems(settings: Mapping[str, Any]) -> list[str]:
    """Why an adapter's configuration is not that of a plain LoRA adapter."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        return [f"peft_type {str(kind)[:40]!r} is not understood, only LORA; {ADVICE}"]
    found = []
    if unknown := sorted(key for key, value in settings.items() if value and key not in (*UNDERSTOOD, *WITHOUT_EFFECT)):
        found.append(f"{listed(unknown)} {'is' if len(unknown) == 1 else 'are'} not understood; {ADVICE}")
    if (start := settings.get("init_lora_weights", True)) not in PLAIN_STARTS:
        found.append(f"init_lora_weights {str(start)[:40]!r} changes the base before training; {ADVICE}")
    if not _are_token_rows(settings.get("trainable_token_indices")):
        found.append("trainable_token_indices: expected numbers of tokens, or such a list by module")
    if not _is_positive(settings.get("r")) or not isinstance(settings.get("r"), int):
        found.append(f"r: expected a positive number, got {settings.get('r')!r}")
    if not _is_positive(settings.get("lora_alpha")):
        found.append(f"lora_alpha: expected a positive number, got {settings.get('lora_alpha')!r}")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = settings.get(key) or {}
        if not isinstance(pattern, dict) or not all(_is_positive(value) for value in pattern.values()):
            found.append(f"{key}: expected positive numbers by pattern")
        else:
            found += [f"{key}: pattern {name[:80]!r} is not understood" for name in pattern if not _is_simple(name)]
    return found


class AdaptedWeights(StoredWeights):
    """The weights of a model with an adapter's changes; sums are computed in float32 and stay float32.

    Args:
        base: the weights of the model, under the names of its architecture.
        adapter: the changes.
    """

    def __init__(self, base: StoredWeights, adapter: Adapter) -> None:
        self.base = base
        self.adapter = adapter
        self._own = FileWeights(adapter.tensors)

    def __getitem__(self, name: str) -> Tensor:
        """One tensor, with what the adapter changes in it."""
        shape = self.shape(name)
        return self._tensor(name, None) if shape else self.base[name]

    def __contains__(self, name: object) -> bool:
        """Whether the adapted model has a tensor of this name."""
        return name in self.base or name in self.adapter.replaced

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors, those that only the adapter has last."""
        yield from self.base
        yield from (name for name in self.adapter.replaced if name not in self.base)

    def __len__(self) -> int:
        """Number of tensors."""
        return sum(1 for _ in self)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor: the base's, or that of what stands in its place."""
        return self._own.shape(self.adapter.replaced[name]) if name in self.adapter.replaced else self.base.shape(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of one tensor."""
        return self._tensor(name, slice(start, stop))

    def _tensor(self, name: str, rows: slice | None) -> Tensor:
        weights, own = (self._own, self.adapter.replaced[name]) if name in self.adapter.replaced else (self.base, name)
        weight = weights[own] if rows is None else weights.rows(own, rows.start, rows.stop)
        if name in self.adapter.token_rows:
            weight = self._with_token_rows(weight, name, rows.start if rows is not None else 0)
        if name not in self.adapter.factors:
            return weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        a, b = (self._own[part].to(dtype) for part in self.adapter.factors[name])
        chosen = rows or slice(None)
        # The rows of what is added, without the others.
        change = a.T[chosen] @ b.T if name in self.adapter.transposed else b[chosen] @ a
        return weight.to(dtype).add(change, alpha=self.adapter.scales[name])

    def _with_token_rows(self, weight: Tensor, name: str, start: int) -> Tensor:
        """Rows from ``start`` on of a table of tokens, those that were trained in place of the base's."""
        stored, numbers = self.adapter.token_rows[name]
        chosen = [place for place, number in enumerate(numbers) if start <= number < start + len(weight)]
        if not chosen:
            return weight
        rows = self._own[stored]
        weight = weight.to(torch.promote_types(weight.dtype, rows.dtype), copy=True)
        weight[torch.tensor([numbers[place] - start for place in chosen])] = rows[chosen].to(weight.dtype)
        return weight


def _is_simple(pattern: str) -> bool:
    """Whether a pattern is one that cannot take forever: nothing is repeated that has repetitions inside."""
    if len(pattern) > MAX_PATTERN_LENGTH or _REPEATED_GROUP.search(pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _are_token_rows(value: object) -> bool:
    """Whether this is a list of rows, none twice, or such lists by name; None is none."""
    lists = list(value.values()) if isinstance(value, dict) else [value or []]
    return all(
        isinstance(rows, list)
        and len(set(map(str, rows))) == len(rows)
        and all(isinstance(row, int) and not isinstance(row, bool) and row >= 0 for row in rows)
        for rows in lists
    )


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
