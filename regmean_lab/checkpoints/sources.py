"""Where checkpoints lie: local folders, and models of the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.checkpoints.folders import ADAPTER_CONFIG_FILE, CONFIG_FILE
from regmean_lab.checkpoints.headers import CheckpointError
from regmean_lab.hub import find_on_hub

FILES = ("*.json", "*.safetensors", "*.model", "vocab*", "merges*", "*.txt", "statistics/*.safetensors")
"""What is fetched from the hub."""

_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class Source:
    """A checkpoint that was asked for.

    Attributes:
        name: what messages and folders call it; no two of a merge are called the same.
        reference: how it was asked for.
        folder: where its files lie.
        revision: the commit of a model of the hub, or None.
    """

    name: str
    reference: str
    folder: Path
    revision: str | None = None

    @property
    def public_reference(self) -> str:
        """How others may be told where it is from: a model's name on the hub, or the last part of a path."""
        return self.reference if self.revision is not None else self.folder.resolve().name

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter, which needs the weights of another model."""
        return (self.folder / ADAPTER_CONFIG_FILE).is_file()


def find_sources(references: list[str]) -> list[Source]:
    """Find all checkpoints of a merge and give each a name.

    Raises:
        CheckpointError: with all that cannot be had.
    """
    found: list[str] = []
    located = []
    for reference in references:
        try:
            located.append(locate(reference))
        except CheckpointError as error:
            found += error.problems
    if found:
        raise CheckpointError(found)
    names = unique_names(references)
    return [
        Source(name, reference, folder, revision)
        for name, reference, (folder, revision) in zip(names, references, located, strict=True)
    ]


def locate(reference: str) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit if it is of the hub.

    Args:
        reference: a folder, or a model's name on the hub, which is fetched (weights as safetensors, never code).

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
            raise CheckpointError([f"{path}: no {CONFIG_FILE} there; expected a Hugging Face model folder"])
        return path, None
    if not _HUB_NAME.fullmatch(reference):
        raise CheckpointError([f"{reference}: neither a folder nor the name of a model on the hub (owner/model)"])
    model = find_on_hub(reference, None)
    if model.problem is not None:
        raise CheckpointError([model.problem.replace("model.checkpoint=", "checkpoints: ")])
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(reference, revision=model.commit, allow_patterns=list(FILES))
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError([f"{reference}: could not be fetched from the hub ({reason})"]) from None
    return Path(folder), model.commit


def unique_names(references: list[str]) -> list[str]:
    """A short name for each reference, fit for a folder: its last part, with a number where two are alike."""
    short = [
        re.sub(r"[^\w.+-]", "_", Path(reference).expanduser().name).lstrip(".") or "model" for reference in references
    ]
    names: list[str] = []
    for number, name in enumerate(short, start=1):
        names.append(name if short.count(name) == 1 else f"{name}-{number}")
    while len(set(names)) < len(names):  # a name with a number may be that of another one
        names = [f"{name}_" if names.index(name) != place else name for place, name in enumerate(names)]
    return names
