"""What is pushed to the Hugging Face hub of a merge, and what stands against it."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.checkpoints.heads import HEADS_FOLDER
from regmean_lab.checkpoints.lora.residuals import RESIDUALS_FOLDER
from regmean_lab.checkpoints.output import RECORD_FILE
from regmean_lab.checkpoints.recipe.record import RECIPE_FILE
from regmean_lab.checkpoints.sources import FILES
from regmean_lab.models.converted_weights import matching
from regmean_lab.models.hub_uploads import Destination, find_destination, push, pushed_lines
from regmean_lab.utils.files import CARD_FILE, STATISTICS_FOLDER, file_sha256
from regmean_lab.utils.names import abbreviated

OF_MODELS = (*FILES, f"{HEADS_FOLDER}/*/*", f"{RESIDUALS_FOLDER}/*/*", RECIPE_FILE)
"""Files that make a model what it is: those of an earlier merge do not stay beside a new one."""

NEUTRAL = (".gitattributes", ".gitignore", CARD_FILE, "LICENSE", "LICENSE.txt", "LICENSE.md")
"""What a repository may have that is still to be filled."""


def merge_destination(name: str, *, private: bool, folder: Path | None) -> tuple[Destination | None, list[str]]:
    """The repository that a merge is pushed to, and everything that stands against it.

    One that holds something else than a merge is not touched. Statistics that were measured of the merged model are
    pushed by the command that guards them, and not with it.

    Args:
        name: ``owner/name``.
        private: whether only its owner is to see it.
        folder: where the merged model is, or will be; None where that is not known yet.
    """
    destination, found = find_destination(name, private=private)
    if destination is not None and RECORD_FILE not in destination.files:
        others = [file for file in destination.files if file not in NEUTRAL]
        if others:
            found.append(
                f"push: {name} is there and no merge has written it (it has {abbreviated(others)}); choose another name"
            )
    if destination is not None and folder is not None:
        found += [
            f"push: {path} is there and not in {name}, and is not pushed with a merge; move it elsewhere, and push it "
            f"afterwards: regmean-lab collect checkpoint={folder} data=FILE push={name}"
            for path in sorted((folder / STATISTICS_FOLDER).glob("*.safetensors"))
            if destination.files.get(f"{STATISTICS_FOLDER}/{path.name}") != file_sha256(path)
        ]
    return (None if found else destination), found


def pushed_files(folder: Path) -> dict[str, Path]:
    """The files of a merged folder that are pushed, by their names in the repository: all but hidden ones."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def push_merge(destination: Destination, folder: Path, title: str) -> list[str]:
    """Push a merged folder, in place of an earlier merge; what was pushed, in words.

    Args:
        destination: the repository.
        folder: the merged model, complete.
        title: what the commit is called.

    Raises:
        PushError: when it could not be pushed.
    """
    pushed = push(destination, {**pushed_files(folder)}, title, removed=matching(destination.files, OF_MODELS))
    return pushed_lines(destination, pushed)
