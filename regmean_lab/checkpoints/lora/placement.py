"""Where each parameter of a model lies in a LoRA adapter, as PEFT lays it out.

Weights of linear layers are low-rank factors. What a LoRA cannot hold lies there whole: heads, tables, layer norms and
what else changed as ``modules_to_save``, biases of the adapted layers beside them (``bias="all"``), and a weight that
several modules share under its own name, where PEFT loads it into all of them (a module to save would be separate).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.models.pretrained import adapter_task

WHOLE_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""By PEFT's kind of task, the modules that it looks for in an adapter's file whether or not they were trained."""

Kind = Literal["factors", "bias", "whole", "shared"]


@dataclass(frozen=True)
class Place:
    """Where a parameter lies.

    Attributes:
        kind: ``factors`` of a linear layer, its ``bias``, in a module that is saved ``whole``, or ``shared``.
        module: the linear layer, or the module that is saved; of shared weights the module of the first name.
    """

    kind: Kind
    module: str


class Placement:
    """The places of a model's parameters.

    Args:
        architecture: the model.
        headless: whether the adapter is one of its encoder alone, without the head.
    """

    def __init__(self, architecture: Architecture, headless: bool = False) -> None:
        self.architecture = architecture
        self.prefix = architecture.encoder_prefix if headless else ""
        self.headless = headless
        self.layers = {
            layer.name: layer for name, layer in architecture.layout.linear.items() if name not in architecture.head
        }
        """The linear layers that may have factors, by name."""

    def of(self, name: str, new: bool = False) -> Place | None:
        """The place of a parameter; None where an adapter has none for it: a parameter of the model itself.

        Args:
            name: its name; of tied ones the first.
            new: whether the base does not have it, so that there is no change that could be of low rank.
        """
        module, _, last = name.rpartition(".")
        if name in self.architecture.head:
            top = name.partition(".")[0]
            return Place("whole", top) if module else None
        if not new and len(self._together.get(name, ())) > 1:
            return Place("shared", module)
        if module in self.layers and not new:
            return Place("factors" if last == "weight" else "bias", module)
        holds_layers = any(layer.startswith(f"{module}.") for layer in self.layers)
        return Place("whole", module) if module and not holds_layers else None

    @cached_property
    def task(self) -> str | None:
        """PEFT's kind of task; None where it has none for models like this."""
        if self.headless or self.architecture.is_bare:
            return "FEATURE_EXTRACTION"
        return adapter_task(self.architecture.model)

    def saved(self, modules: Iterable[str]) -> tuple[list[str], list[str]]:
        """The modules that PEFT saves when some are to be saved: it takes all whose names end like one of them.

        Returns:
            Those of which PEFT is told, and all that it then takes.
        """
        told = dict.fromkeys(modules)
        heads = () if self.headless else WHOLE_HEADS.get(self.task or "", ())
        endings = (*told, *heads)
        found = [name for name in self._modules if name and endings and name.endswith(endings)]
        return list(told), [name for name in found if not any(name.startswith(f"{other}.") for other in found)]

    def parameters(self, module: str) -> list[str]:
        """Names of all parameters and buffers of a module and of those inside, tied ones under each name."""
        return [name for name in self.architecture.shapes if name.startswith(f"{module}.")]

    def targets(self, layers: Collection[str], saved: Collection[str]) -> list[str]:
        """What PEFT calls the layers with factors: an ending that is that of all of them, or else whole names.

        Args:
            layers: the layers.
            saved: modules that are saved whole, inside of which PEFT adapts nothing.
        """
        open_names = [
            name for name in self._modules if not any(name == one or name.startswith(f"{one}.") for one in saved)
        ]
        found = dict.fromkeys(
            last if all(name in layers for name in open_names if name.rpartition(".")[2] == last) else self.shown(layer)
            for layer in layers
            for last in (layer.rpartition(".")[2],)
        )
        return sorted(found)

    def shown(self, name: str) -> str:
        """A name as the model that the adapter is loaded into has it."""
        return name.removeprefix(self.prefix)

    @cached_property
    def _modules(self) -> list[str]:
        return [name for name, _ in self.architecture.model.named_modules(remove_duplicate=False)]

    @cached_property
    def _together(self) -> dict[str, tuple[str, ...]]:
        return {names[0]: names for names in self.architecture.groups()}
