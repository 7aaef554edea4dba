"""What a push to the Hugging Face hub would upload, told without network and token."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import constants, get_token

from regmean_lab.checkpoints.card_metadata import card_licence, split_card
from regmean_lab.models.hub_uploads import TOKENS
from regmean_lab.utils.quantities import counted

BRANCH = "main"


def push_lines(
    name: str, *, private: bool, files: Mapping[str, int | None], card: str | None, licence: str
) -> list[str]:
    """What would be pushed, in lines: where, who sees it, each file with its bytes, and how the card begins.

    Args:
        name: ``owner/name``.
        private: whether only its owner would see it.
        files: by their names in the repository, bytes; None where they are not known yet.
        card: text of the repository's card, as far as it is known; None: it is left alone.
        licence: what to tell where the card names no licence.
    """
    seen = "only its owner sees it" if private else "everybody sees it (private=false)"
    known = sum(size for size in files.values() if size is not None)
    more = " and what is marked –" if None in files.values() else ""
    lines = [
        f"push to {constants.ENDPOINT}/{name}, branch {BRANCH}; {seen}",
        f"  {counted(len(files), 'file')}, {known:,} bytes{more}:",
        *(f"    {file} ({'–' if size is None else f'{size:,} bytes'})" for file, size in sorted(files.items())),
    ]
    if card is not None:
        matter, _ = split_card(card.replace("\r\n", "\n"))
        lines += ["  the card begins:", *(f"    {line}" for line in ["---", *(matter or "").splitlines(), "---"])]
        if card_licence(card) is None:
            lines.append(f"  note: {licence}")
    if get_token() is None:
        lines.append(f"  note: no token of the hub is here; run hf auth login, or set HF_TOKEN ({TOKENS})")
    if constants.HF_HUB_OFFLINE:
        lines.append("  note: offline mode is on (HF_HUB_OFFLINE), in which nothing can be pushed")
    lines.append(
        "  note: the hub was not asked: whether the repository is there, what it has, and whether the token may write "
        "there, is told before the work by the command without plan=true"
    )
    return lines
