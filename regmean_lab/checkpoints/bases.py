"""The models that LoRA adapters were made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.checkpoints.adapters import adapter_base
from regmean_lab.checkpoints.sources import Source, find_sources
from regmean_lab.models.headers import CheckpointError


@dataclass(frozen=True)
class Bases:
    """The bases of the adapters among some checkpoints.

    Attributes:
        references: by an adapter's name, how its base is referred to.
        located: the bases that were found, by reference; one that was given is among them.
        problems: why others were not.
    """

    references: dict[str, str]
    located: dict[str, Source]
    problems: list[str]

    @property
    def by_adapter(self) -> dict[str, Source]:
        """The base of each adapter whose base was found, by the adapter's name."""
        return {
            name: self.located[reference] for name, reference in self.references.items() if reference in self.located
        }


def find_bases(
    sources: Sequence[Source], base: str | None, models_folder: Path, own: Sequence[str | None] = ()
) -> Bases:
    """Find the base of each adapter.

    Args:
        sources: checkpoints, adapters among them or not.
        base: the base of all adapters; None takes the one that each names.
        models_folder: where converted models are kept.
        own: for each checkpoint the base that was named with it, or None; empty where none was.
    """
    found: list[str] = []
    references: dict[str, str] = {}
    for source, given in zip(sources, own or [None] * len(sources), strict=True):
        if given is not None and not source.is_adapter:
            found.append(f"{source.name}: {source.reference} is a whole model; expected an adapter on {given}")
        if source.is_adapter:
            try:
                named = given or base or adapter_base(source.folder)
            except CheckpointError as error:
                found += error.problems
                continue
            if named is None:
                found.append(f"{source.name} is an adapter that names no base; give it: base=FOLDER_OR_NAME")
            else:
                references[source.name] = named
    located: dict[str, Source] = {}
    for reference in dict.fromkeys([*([base] if base else []), *references.values()]):
        try:
            located[reference] = find_sources([reference], models_folder)[0]
        except CheckpointError as error:
            found += [f"base: {problem} (set base=FOLDER_OR_NAME)" for problem in error.problems]
    return Bases(references, located, found)
