"""What is pushed to the Hugging Face hub of published statistics, and what stands against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.publishing.card import describe, page, section, tagged_card
from regmean_lab.models.hub import fetch
from regmean_lab.models.hub_uploads import Destination, PushError, find_destination, push, pushed_lines
from regmean_lab.statistics import KINDS
from regmean_lab.utils.files import CARD_FILE, STATISTICS_FOLDER, file_sha256
from regmean_lab.utils.names import abbreviated


@dataclass(frozen=True)
class StatisticsPush:
    """Where statistics are pushed.

    Attributes:
        destination: the repository.
        kinds: the kinds that are pushed.
        card: text of the model card into which their section is put; None leaves it alone.
    """

    destination: Destination
    kinds: tuple[str, ...]
    card: str | None


def statistics_push(
    name: str, *, private: bool, folder: Path, kinds: Sequence[str], card: bool
) -> tuple[StatisticsPush | None, list[str]]:
    """Where statistics are pushed, and everything that stands against it, as far as it is known without measuring.

    Args:
        name: ``owner/name``.
        private: whether only its owner is to see it.
        folder: where they are written, below ``statistics``, beside a model's own card.
        kinds: which kinds.
        card: whether the model card gets their section.
    """
    destination, found = find_destination(name, private=private)
    if destination is None:
        return None, found
    for kind in KINDS:
        path = f"{STATISTICS_FOLDER}/{kind}.safetensors"
        local = folder / path
        if kind in kinds:
            continue
        if local.is_file() and destination.files.get(path) != file_sha256(local):
            found.append(
                f"push: {local} is there too, and its card would tell of it, but it is not among kinds; add it there, "
                "or move it elsewhere"
            )
        elif path in destination.files and not local.is_file():
            found.append(
                f"push: {name} has {path}, which is not in {folder}, so that the new card would not tell of it; "
                "download it there, or delete it on the hub"
            )
    text = _card_before(destination, folder, found) if card else None
    return (None if found else StatisticsPush(destination, tuple(kinds), text)), found


def weights_problem(push_to: StatisticsPush, model: Mapping[str, Any]) -> str | None:
    """Why statistics do not belong to the weights in the repository that they are pushed to; None if they do.

    A repository without weights has none that they could contradict.

    Args:
        push_to: the repository.
        model: what identifies the weights that statistics are of.
    """
    destination = push_to.destination
    there = {digest for name, digest in destination.files.items() if _is_weights(name)}
    sums: Mapping[str, str] = model.get("weights_sha256") or {}
    wrong = [name for name, digest in sums.items() if digest not in there]
    if not there or not wrong:
        return None
    return (
        f"push: {destination.name} has other weights than those that statistics would be of ({abbreviated(wrong)}); "
        "push the model first, or choose its own repository"
    )


def push_statistics(push_to: StatisticsPush, folder: Path) -> list[str]:
    """Push statistics with their description; what was pushed, in words.

    Args:
        push_to: the repository.
        folder: the folder with ``statistics``.

    Raises:
        PushError: when they could not be pushed.
    """
    destination = push_to.destination
    text = section(describe(folder / STATISTICS_FOLDER), destination.name)
    files: dict[str, Path | bytes] = {
        f"{STATISTICS_FOLDER}/{kind}.safetensors": folder / STATISTICS_FOLDER / f"{kind}.safetensors"
        for kind in push_to.kinds
    }
    files[f"{STATISTICS_FOLDER}/{CARD_FILE}"] = page(text).encode()
    if push_to.card is not None:
        try:
            files[CARD_FILE] = tagged_card(push_to.card, text).encode()
        except ValueError as error:  # as it was found before; the new section holds nothing that could break it
            raise PushError(f"not pushed to {destination.name}: {CARD_FILE}: {error}") from None
    pushed = push(destination, files, f"Statistics for merging: {', '.join(push_to.kinds)}")
    lines = pushed_lines(destination, pushed)
    if not any(_is_weights(name) for name in destination.files):
        lines.append(f"  {destination.name} has no weights yet: they are merged with statistics that lie beside them")
    return lines


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith(f"{STATISTICS_FOLDER}/")


def _card_before(destination: Destination, folder: Path, found: list[str]) -> str:
    """The model card that gets the section: that of the repository, or the folder's own."""
    text, where = f"# {destination.name.partition('/')[2]}\n", folder / CARD_FILE
    if destination.commit is not None and CARD_FILE in destination.files:
        try:
            where = fetch(destination.name, destination.commit, [CARD_FILE]) / CARD_FILE
        except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            found.append(f"push: {CARD_FILE} of {destination.name} cannot be fetched ({reason})")
            return text
    try:
        if where.is_file():
            text = where.read_bytes().decode("utf-8")
        tagged_card(text, "## Nothing\n")
    except ValueError as error:
        found.append(f"push: {CARD_FILE} of {destination.name}: {error}")
    return text
