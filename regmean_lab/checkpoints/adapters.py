"""Low-rank adapters (LoRA; Hu et al., ICLR 2022) in folders as PEFT writes them, added to the model they were made for.

W + s B A with s = α / r, or α / √r for rank-stabilised adapters (Kalajdzievski, 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from regmean_lab.checkpoints.architecture import Architecture, Like
from regmean_lab.checkpoints.folders import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    PICKLED,
    conversion_command,
    read_json_file,
)
from regmean_lab.checkpoints.headers import CheckpointError, StoredTensor, read_header
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.merging.weights import StoredWeights

UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "use_bdlora",
)
"""Settings of PEFT that change what an adapter adds, and that are not understood."""

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base model as it is; all others change it before training."""

MAX_PATTERN_LENGTH = 200

_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\[1-9]|[*+}][*+{]|(\*.*){4}|(\+.*){4}")
_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.default)?(\.weight)?"
)
_LABELS = re.compile(r"\b(classifier|score|out_proj)\.(modules_to_save\.)?(default\.)?weight$")
_TOKENS = re.compile(r"\b(embed_tokens|word_embeddings|wte|shared|embed_in)\.(modules_to_save\.)?(default\.)?weight$")
_AUTO_CLASSES = {
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": transformers.AutoModelForSeq2SeqLM,
    "QUESTION_ANS": transformers.AutoModelForQuestionAnswering,
}
_PARTS = {"lora_A": "a", "lora_B": "b", "lora_embedding_A": "a", "lora_embedding_B": "b"}


@dataclass
class Adapter:
    """What an adapter changes.

    Attributes:
        factors: by the parameter's name: the names of A [r, in] and B [out, r] in the file.
        scales: by the parameter's name, the factor on B A.
        replaced: by the parameter's name, the name in the file of what stands in its place.
        tensors: where its tensors lie.
        transposed: parameters that are stored as [in, out].
    """

    factors: dict[str, tuple[str, str]]
    scales: dict[str, float]
    replaced: dict[str, str]
    tensors: dict[str, StoredTensor]
    transposed: set[str] = field(default_factory=set)


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
            f"its origin, convert it once, in a process of its own: {conversion_command(folder)}"
        )
    else:
        found.append(f"{folder}: no {ADAPTER_WEIGHTS_FILE} there")
    if found:
        raise CheckpointError(found)
    return settings, tensors


def adapted_like(settings: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Like:
    """What an adapter makes of its base: a model for the adapter's task, with as many labels and tokens as it has."""
    auto_class = _AUTO_CLASSES.get(str(settings.get("task_type")))
    labels = tokens = None
    for stored, tensor in tensors.items():
        if _FACTOR.fullmatch(stored.removeprefix(_PREFIX)) or len(tensor.shape) != 2:
            continue
        if _TOKENS.search(stored):
            tokens = tensor.shape[0]
        elif _LABELS.search(stored):
            labels = tensor.shape[0]  # the last one, where a head has several layers
    return Like(auto_class, labels, tokens)


def fit_adapter(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, StoredTensor], architecture: Architecture
) -> Adapter:
    """What an adapter changes in a model of this architecture.

    Raises:
        CheckpointError: with all tensors that do not belong to the model.
    """
    adapter, found = _sorted_out(tensors, settings, architecture)
    if found:
        raise CheckpointError([f"{folder / ADAPTER_WEIGHTS_FILE}: {problem}" for problem in found])
    return adapter


def settings_problems(settings: Mapping[str, Any]) -> list[str]:
    """Why an adapter's configuration is not that of a plain LoRA adapter."""
    advice = "merge it into its base with PEFT's merge_and_unload(), save that, and give its folder instead"
    kind = settings.get("peft_type")
    if kind != "LORA":
        return [f"peft_type {str(kind)[:40]!r} is not understood, only LORA; {advice}"]
    found = [f"{key} is not understood; {advice}" for key in UNSUPPORTED if settings.get(key)]
    if (start := settings.get("init_lora_weights", True)) not in PLAIN_STARTS:
        found.append(f"init_lora_weights {str(start)[:40]!r} changes the base before training; {advice}")
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
        if name in self.adapter.replaced:
            stored = self.adapter.replaced[name]
            return self._own[stored] if rows is None else self._own.rows(stored, rows.start, rows.stop)
        weight = self.base[name] if rows is None else self.base.rows(name, rows.start, rows.stop)
        if name not in self.adapter.factors:
            return weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        a, b = (self._own[part].to(dtype) for part in self.adapter.factors[name])
        chosen = rows or slice(None)
        # The rows of what is added, without the others.
        change = a.T[chosen] @ b.T if name in self.adapter.transposed else b[chosen] @ a
        return weight.to(dtype).add(change, alpha=self.adapter.scales[name])


def _sorted_out(
    tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any], architecture: Architecture
) -> tuple[Adapter, list[str]]:
    """What each tensor of an adapter's file is for, and what is wrong."""
    found: list[str] = []
    parts: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    for stored in tensors:
        name = stored.removeprefix(_PREFIX)
        if factor := _FACTOR.fullmatch(name):
            parts.setdefault(factor["module"], {})[_PARTS[factor["kind"]]] = stored
            continue
        target = architecture.canonical(
            re.sub(r"\.(modules_to_save(\.default)?|base_layer|original_module)\.", ".", name)
        )
        if "lora" in name or target not in architecture.shapes:
            found.append(f"tensor {stored!a} is not understood")
        else:
            replaced[target] = stored
    adapter = Adapter({}, {}, replaced, dict(tensors))
    for module, pair in parts.items():
        target = architecture.canonical(f"{module}.weight")
        if target not in architecture.shapes or set(pair) != {"a", "b"}:
            lacking = (
                "the model has no such layer" if target not in architecture.shapes else "one of A and B is missing"
            )
            found.append(f"layer {module!a}: {lacking}")
            continue
        a, b = tensors[pair["a"]].shape, tensors[pair["b"]].shape
        rank = int(_by_pattern(module, settings.get("rank_pattern"), settings["r"]))
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] != rank:
            found.append(f"layer {module!a}: A {a} and B {b} are not those of rank {rank}")
            continue
        shape = architecture.shapes[target]
        embedding = "lora_embedding" in pair["a"]
        stored_transposed = embedding or _is_transposed(target, architecture, settings)
        if (a[1], b[0]) != (shape if stored_transposed else shape[::-1]):
            found.append(f"layer {module!a}: B A has shape {(b[0], a[1])}, the weight {shape}")
            continue
        alpha = float(_by_pattern(module, settings.get("alpha_pattern"), settings["lora_alpha"]))
        adapter.factors[target] = (pair["a"], pair["b"])
        adapter.scales[target] = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        if stored_transposed:
            adapter.transposed.add(target)
    return adapter, found


def _is_transposed(name: str, architecture: Architecture, settings: Mapping[str, Any]) -> bool:
    """Whether a layer's weight is [in, out]: as the model tells, or where it does not, the adapter's configuration."""
    layer = architecture.layout.linear.get(name)
    return layer.transposed if layer is not None else bool(settings.get("fan_in_fan_out"))


def _by_pattern(module: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT takes it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _is_simple(pattern: str) -> bool:
    """Whether a pattern is one that cannot take forever: nothing is repeated that has repetitions inside."""
    if len(pattern) > MAX_PATTERN_LENGTH or _REPEATED_GROUP.search(pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
