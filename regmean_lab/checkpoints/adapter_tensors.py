"""The tensors of an adapter's file: which parameter of a model each is for, and what it does there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.models.headers import StoredTensor

ADVICE = "merge it into its base with PEFT's merge_and_unload(), save that, and give its folder instead"

PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.default)?(\.weight)?")
_TOKEN_ROWS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.default)?")
_WRAPPED = re.compile(
    r"(?P<module>.+?)\.(?P<kind>modules_to_save(\.default)?|(token_adapter\.)?base_layer|original_module)\.(?P<last>[^.]+)"
)


@dataclass
class Adapter:
    """What an adapter changes.

    Attributes:
        factors: by the parameter's name: the names of A [r, in] and B [out, r] in the file.
        scales: by the parameter's name, the factor on B A.
        replaced: by the parameter's name, the name in the file of what stands in its place.
        tensors: where its tensors lie.
        transposed: parameters that are stored as [in, out].
        token_rows: by the name of a table of tokens, the name in the file of new rows, and which rows they are.
        equal: pairs of names in the file that stand for one parameter, and must be equal.
        untied: whether it changes weights that its base ties to each other, each in its own way.
    """

    factors: dict[str, tuple[str, str]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    token_rows: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    equal: list[tuple[str, str]] = field(default_factory=list)
    untied: bool = False


@dataclass
class _Entry:
    """What a file holds for one parameter, by what PEFT calls it: names of tensors in the file."""

    factors: dict[str, str] = field(default_factory=dict)
    saved: list[str] = field(default_factory=list)
    base: list[str] = field(default_factory=list)
    original: list[str] = field(default_factory=list)
    token_rows: list[str] = field(default_factory=list)


class SortedTensors:
    """The tensors of an adapter's file by the parameter that they are for, tied ones under each of their names.

    Args:
        tensors: where they lie.
        settings: the adapter's configuration.
        architecture: of the base, with its ties.
    """

    def __init__(
        self, tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any], architecture: Architecture
    ) -> None:
        self.tensors = tensors
        self.settings = settings
        self.tied = architecture
        self.entries: dict[str, _Entry] = {}
        self.modules: dict[str, str] = {}
        """By the name of a parameter, what the file calls its module."""
        self.unknown: list[str] = []
        self.foreign: list[str] = []
        """Layers that the model does not have."""
        for stored in tensors:
            self._sort(stored)

    def names_untied(self) -> list[str]:
        """Tied weights of which the adapter changes one apart from the others."""
        found = []
        for name, entry in self.entries.items():
            ties = self._ties(name)
            # PEFT then stores one weight under all its names.
            same = self.settings.get("ensure_weight_tying") and all(
                tied in self.entries and (self.entries[tied].saved or self.entries[tied].base) for tied in ties
            )
            if len(ties) > 1 and (entry.factors or (entry.saved and not same)):
                found.append(name)
        return found

    def adapter(self, architecture: Architecture) -> tuple[Adapter, list[str]]:
        """What the tensors change in a model, and what is wrong.

        Args:
            architecture: of the adapted model: with the base's ties, or without those that the adapter changes apart.
        """
        adapter, found = Adapter(tensors=dict(self.tensors)), []
        if self.unknown:
            found.append(f"tensors that are not understood: {listed([ascii(name) for name in self.unknown])}")
        found += [f"layer {module!a}: the model has no such layer" for module in dict.fromkeys(self.foreign)]
        for leader, entry in self._gathered(architecture).items():
            shown = self.modules[leader]
            if entry.original and not entry.saved:
                found.append(f"{shown}: what was replaced is there ({entry.original[0]!a}), but not what replaces it")
            if entry.saved and (entry.factors or any("base_layer" in name for name in entry.base)):
                found.append(f"{shown}: both trained as a whole and adapted; {ADVICE}")
            if entry.token_rows and (entry.factors or entry.saved):
                found.append(f"{shown}: trained rows of tokens beside another change of the same layer; {ADVICE}")
            whole = [*entry.saved, *entry.base]
            for alike in (whole, entry.token_rows):
                adapter.equal += [(alike[0], other) for other in alike[1:]]
            if whole:
                adapter.replaced[leader] = whole[0]
            if entry.token_rows:
                problem = self._add_token_rows(leader, entry.token_rows[0], adapter, architecture)
                found += [problem] if problem else []
            if entry.factors:
                problem = self._add_factors(leader, entry.factors, adapter, architecture)
                found += [problem] if problem else []
        return adapter, found

    def _sort(self, stored: str) -> None:
        name = stored.removeprefix(PREFIX)
        if factor := FACTOR.fullmatch(name):
            entry = self._entry(factor["module"], "weight", foreign=True)
            if entry is not None and entry.factors.setdefault(factor["kind"], stored) != stored:
                self.unknown.append(stored)  # the same factor is there under another name
            return
        if (tokens := _TOKEN_ROWS.fullmatch(name)) and (entry := self._entry(tokens["module"], "weight")):
            entry.token_rows.append(stored)
            return
        wrapped = _WRAPPED.fullmatch(name)
        module, last = (wrapped["module"], wrapped["last"]) if wrapped else name.rpartition(".")[::2]
        entry = self._entry(module, last)
        if entry is None:
            self.unknown.append(stored)
            return
        kind = wrapped["kind"] if wrapped else "modules_to_save" if self._is_saved(module) else "base_layer"
        if kind.startswith("modules_to_save"):
            entry.saved.append(stored)
        else:
            (entry.original if kind == "original_module" else entry.base).append(stored)

    def _entry(self, module: str, last: str, foreign: bool = False) -> _Entry | None:
        """What there is for a parameter of a module; None where the model does not have it."""
        name = self.tied.own_name(f"{module}.{last}")
        if name is None:
            if foreign:
                self.foreign.append(module)
            return None
        self.modules.setdefault(name, module)
        return self.entries.setdefault(name, _Entry())

    def _is_saved(self, module: str) -> bool:
        """Whether a module was trained as a whole, as PEFT matches names."""
        named = self.settings.get("modules_to_save")
        listed = named if isinstance(named, list) else []
        return any(module == name or f".{module}.".find(f".{name}.") >= 0 for name in listed)

    def _ties(self, name: str) -> list[str]:
        """All names of a weight in the base."""
        leader = self.tied.leaders[name]
        return [other for other, first in self.tied.leaders.items() if first == leader]

    def _gathered(self, architecture: Architecture) -> dict[str, _Entry]:
        """What there is for each weight of the adapted model: what stands for the base counts for all tied names."""
        found: dict[str, _Entry] = {}
        for name, entry in self.entries.items():
            leader = architecture.leaders[name]
            gathered = found.setdefault(leader, _Entry())
            self.modules.setdefault(leader, self.modules[name])
            gathered.saved += entry.saved
            gathered.original += entry.original
            gathered.token_rows += entry.token_rows
            gathered.factors.update(entry.factors)
            for other in dict.fromkeys(architecture.leaders[tied] for tied in self._ties(name)):
                whole = self.entries[other].saved if other in self.entries else []
                if other == leader or not whole:
                    self.modules.setdefault(other, self.modules[name])
                    found.setdefault(other, _Entry()).base += entry.base
        places = {name: place for place, name in enumerate(architecture.shapes)}
        return dict(sorted(found.items(), key=lambda item: places[item[0]]))

    def _add_token_rows(self, target: str, stored: str, adapter: Adapter, architecture: Architecture) -> str | None:
        given = self.settings.get("trainable_token_indices")
        module = self.modules[target]
        if isinstance(given, dict):
            lists = [rows for name, rows in given.items() if f".{module}".endswith(f".{name}")]
            if len({tuple(rows) for rows in given.values()}) > 1 and len(self._ties(target)) > 1:
                return f"layer {module!a}: other rows were trained of weights that the model ties; {ADVICE}"
            given = lists[0] if lists else None
        shape, tokens = self.tensors[stored].shape, architecture.shapes[target]
        rows = tuple(given or ())
        if shape != (len(rows), *tokens[1:]) or any(row >= tokens[0] for row in rows):
            return f"layer {module!a}: rows {shape} for {len(rows)} tokens of {tokens}"
        adapter.token_rows[target] = (stored, rows)
        return None

    def _add_factors(
        self, target: str, factors: Mapping[str, str], adapter: Adapter, architecture: Architecture
    ) -> str | None:
        module, settings = self.modules[target], self.settings
        embedding = set(factors) == {"lora_embedding_A", "lora_embedding_B"}
        if not embedding and set(factors) != {"lora_A", "lora_B"}:
            return f"layer {module!a}: one of A and B is missing, or there are two"
        stored_a, stored_b = (factors[kind] for kind in sorted(factors))
        a, b = self.tensors[stored_a].shape, self.tensors[stored_b].shape
        rank = int(_by_pattern(module, settings.get("rank_pattern"), settings["r"]))
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] != rank:
            return f"layer {module!a}: A {a} and B {b} are not those of rank {rank}"
        shape = architecture.shapes[target]
        transposed = embedding or _is_transposed(target, architecture, settings)
        if (a[1], b[0]) != (shape if transposed else shape[::-1]):
            return f"layer {module!a}: B A has shape {(b[0], a[1])}, the weight {shape}"
        alpha = float(_by_pattern(module, settings.get("alpha_pattern"), settings["lora_alpha"]))
        adapter.factors[target] = (stored_a, stored_b)
        adapter.scales[target] = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        if transposed:
            adapter.transposed.add(target)
        return None


def _is_transposed(name: str, architecture: Architecture, settings: Mapping[str, Any]) -> bool:
    """Whether a layer's weight is [in, out]: as the model tells, or where it does not, the adapter's configuration."""
    from transformers.pytorch_utils import Conv1D

    module = architecture.model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, torch.nn.Linear | Conv1D):
        return isinstance(module, Conv1D)
    return bool(settings.get("fan_in_fan_out"))


def _by_pattern(module: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT takes it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in one line, of many the first ones."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
