"""An adapter's files, as PEFT reads them: written from a model's changes, one parameter at a time.

Factors stay in memory until all are there; whatever lies in an adapter whole goes to a file at once.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regmean_lab.checkpoints.adapter_tensors import PREFIX
from regmean_lab.checkpoints.lora.placement import Placement
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.checkpoints.writing import PlannedTensor, Shard, write_shards
from regmean_lab.merging.low_rank import LowRank, truncated
from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.weights import StoredWeights
from regmean_lab.models.folders import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from regmean_lab.models.headers import StoredTensor, read_header
from regmean_lab.models.hub import split_reference
from regmean_lab.utils.files import write_json
from regmean_lab.utils.names import abbreviated

ROUNDING = 1e-6
"""Relative difference of two float32 numbers below which they are taken for one: merging equal numbers may round."""

Change = LowRank | Tensor
"""What became of a parameter: the low-rank change of a linear layer's weight [out, in], or the whole new value."""


@dataclass
class WrittenAdapter:
    """What an adapter holds.

    Attributes:
        layers: by linear layer, the rank of its factors, the squared Frobenius norm of its change, and of what is kept.
        whole: modules that are saved whole.
        biases: layers whose biases are there.
        shared: parameters that several modules share, which are there whole.
    """

    layers: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)

    @property
    def kept(self) -> float:
        """Share of the squared Frobenius norm of the changes of all linear layers that is kept."""
        total = sum(squares for _, squares, _ in self.layers.values())
        return sum(kept for _, _, kept in self.layers.values()) / total if total else 1.0

    def share(self, layer: str) -> float:
        """Share of the squared Frobenius norm of one layer's change that is kept."""
        _, squares, kept = self.layers[layer]
        return kept / squares if squares else 1.0

    def record(self) -> dict[str, Any]:
        """What ``merge.json`` says of it."""
        return {
            "kept": self.kept,
            "layers": {name: {"rank": self.layers[name][0], "kept": self.share(name)} for name in self.layers},
            "modules_to_save": self.whole,
            "biases": self.biases,
            "shared": self.shared,
        }

    def lines(self) -> list[str]:
        """What a user should know of it."""
        least = min(self.layers, key=self.share)
        found = [
            f"kept of the squared Frobenius norm of the changes of {len(self.layers)} linear layers: "
            f"{_percent(self.kept)} (the least: {_percent(self.share(least))}, of {least})"
        ]
        held = [
            ("modules_to_save", self.whole),
            ("biases of", self.biases),
            ("weights that several modules share", self.shared),
        ]
        found += [f"held whole, {what}: {abbreviated(names)}" for what, names in held if names]
        return found


class AdapterFiles:
    """Collects what an adapter holds, and writes it.

    Args:
        placement: where the model's parameters lie.
        base: the base's weights, by the model's names, float32 at least.
        rank: largest rank of factors.
        dtypes: of parameters that are held whole, by name.
        dtype: of the factors.
        spill: an empty folder for what is held whole, until all is there.
    """

    def __init__(
        self,
        placement: Placement,
        base: StoredWeights,
        rank: int,
        dtypes: dict[str, torch.dtype],
        dtype: torch.dtype,
        spill: Path,
    ) -> None:
        self.placement = placement
        self.base = base
        self.rank = rank
        self.dtypes = dtypes
        self.dtype = dtype
        self.spill = spill
        self.factors: dict[str, LowRank] = {}
        self.biases: dict[str, str] = {}
        self.shared: list[str] = []
        self.modules: dict[str, None] = {}
        self._whole: dict[str, StoredTensor] = {}

    def add(self, name: str, change: Change) -> None:
        """Take what became of a parameter; one that is as in the base is left out.

        Raises:
            MergeError: for a change that an adapter cannot hold.
        """
        new = name not in self.base
        if isinstance(change, LowRank):
            self.factors[name.rpartition(".")[0]] = _on_cpu(change)
            return
        base = None if new else self.base[name].to(change)
        if base is not None and _same(change, base):
            return
        place = self.placement.of(name, new)
        if place is None:
            raise MergeError(
                f"{name}: it differs from the base, and a LoRA adapter cannot hold it, as it is a parameter beside "
                "layers and not of a module of its own; write the whole model instead"
            )
        if place.kind == "factors":
            assert base is not None
            difference = change - base
            if self.placement.layers[place.module].transposed:
                difference = difference.T
            try:
                factors = truncated(difference, self.rank)
            except ValueError as error:
                raise MergeError(f"{name}: {error}") from None
            self.factors[place.module] = _on_cpu(factors)
            return
        if place.kind == "bias":
            self.biases[name] = place.module
        elif place.kind == "shared":
            self.shared.append(name)
        else:
            self.modules[place.module] = None
        file = f"{len(self._whole):06d}.safetensors"
        planned = PlannedTensor(name, self.dtypes[name], tuple(change.shape))
        write_shards(self.spill, [Shard(file, (planned,))], [(name, change)])
        self._whole |= read_header(self.spill / file)

    def write(self, folder: Path, base: Source) -> WrittenAdapter:
        """Write the adapter's two files.

        Args:
            folder: where.
            base: the model that it is for, which its configuration names.

        Raises:
            MergeError: when no linear layer has changed, or two things that an adapter holds exclude each other.
        """
        if not self.factors:
            raise MergeError("no linear layer has changed from the base: there is nothing to be a LoRA adapter of")
        told, saved = self.placement.saved(self.modules)
        inside = [layer for layer in self.factors if any(f"{layer}.".startswith(f"{one}.") for one in saved)]
        if inside:
            raise MergeError(
                f"PEFT saves modules by the ends of their names, and {', '.join(told)} would be taken for "
                f"{abbreviated(inside)} as well; write the whole model instead"
            )
        planned, values = self._planned(saved)
        write_shards(folder, [Shard(ADAPTER_WEIGHTS_FILE, tuple(planned))], values(planned))
        write_json(folder / ADAPTER_CONFIG_FILE, self._configuration(base, told, saved))
        return WrittenAdapter(
            {name: (part.rank, part.squares, part.kept) for name, part in self.factors.items()},
            saved,
            sorted(set(self.biases.values())),
            list(self.shared),
        )

    def _planned(self, saved: list[str]) -> tuple[list[PlannedTensor], Any]:
        """The tensors of the file, and what gives their values in that order."""
        shown, leaders = self.placement.shown, self.placement.architecture.leaders
        whole = FileWeights(self._whole)
        factors: dict[str, Tensor] = {}
        origins: dict[str, str] = {}
        for layer, part in self.factors.items():
            factors[f"{PREFIX}{shown(layer)}.lora_A.weight"] = part.right
            factors[f"{PREFIX}{shown(layer)}.lora_B.weight"] = part.left
        for name, layer in self.biases.items():
            wrapped = ".base_layer" if layer in self.factors else ""
            origins[f"{PREFIX}{shown(layer)}{wrapped}.bias"] = name
        for name in self.shared:
            origins[f"{PREFIX}{shown(name)}"] = name
        for module in saved:
            origins |= {f"{PREFIX}{shown(name)}": leaders[name] for name in self.placement.parameters(module)}
        planned = [PlannedTensor(name, self.dtype, tuple(value.shape)) for name, value in factors.items()]
        shapes = self.placement.architecture.shapes
        for stored, name in origins.items():
            if name not in whole and name not in self.base:
                continue  # a buffer that files do not have
            planned.append(PlannedTensor(stored, self.dtypes.get(name) or self.base[name].dtype, shapes[name]))

        def values(listed: list[PlannedTensor]) -> Iterator[tuple[str, Tensor]]:
            for tensor in listed:
                if tensor.name in factors:
                    yield tensor.name, factors[tensor.name]
                else:
                    name = origins[tensor.name]
                    yield tensor.name, whole[name] if name in whole else self.base[name]

        # In a file, wide dtypes come first, so that every tensor is aligned.
        return sorted(planned, key=lambda tensor: -tensor.dtype.itemsize), values

    def _configuration(self, base: Source, told: list[str], saved: list[str]) -> dict[str, Any]:
        shown = self.placement.shown
        ranks = {layer: part.rank for layer, part in self.factors.items()}
        rank = Counter(ranks.values()).most_common(1)[0][0]
        others = {shown(layer): own for layer, own in ranks.items() if own != rank}
        named, _ = split_reference(base.reference) if base.revision is not None else (base.reference, None)
        return {
            "peft_type": "LORA",
            "task_type": self.placement.task,
            "base_model_name_or_path": named,
            "revision": base.revision,
            "inference_mode": True,
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "lora_dropout": 0.0,
            "bias": "all" if self.biases else "none",
            "fan_in_fan_out": any(self.placement.layers[layer].transposed for layer in self.factors),
            "target_modules": self.placement.targets(set(self.factors), saved),
            "modules_to_save": [shown(module) for module in told] or None,
            "use_rslora": False,
            "init_lora_weights": True,
        }


def write_adapter(
    folder: Path,
    changes: Iterable[tuple[str, Change]],
    placement: Placement,
    base: StoredWeights,
    base_source: Source,
    rank: int,
    dtypes: dict[str, torch.dtype],
    dtype: torch.dtype = torch.float32,
) -> WrittenAdapter:
    """Write a model's changes as an adapter to its base.

    Args:
        folder: where; it is there.
        changes: name and change, or new value, of every parameter that may have changed.
        placement: where the model's parameters lie.
        base: the base's weights, by the model's names.
        base_source: the base, as the adapter names it.
        rank: largest rank of factors.
        dtypes: of parameters that are held whole, by name.
        dtype: of the factors.

    Raises:
        MergeError: for changes that an adapter cannot hold.
    """
    with tempfile.TemporaryDirectory(prefix=".whole-", dir=folder) as spill:
        files = AdapterFiles(placement, base, rank, dtypes, dtype, Path(spill))
        for name, change in changes:
            files.add(name, change)
        return files.write(folder, base_source)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype are equal up to rounding."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=ROUNDING, atol=0)


def _on_cpu(part: LowRank) -> LowRank:
    return LowRank(part.left.cpu(), part.right.cpu(), part.squares, part.kept)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
