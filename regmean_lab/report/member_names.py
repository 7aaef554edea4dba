"""What reports call the members of results, of which some may be different checkpoints for the same corpus."""

from __future__ import annotations

from collections.abc import Sequence

from regmean_lab.results import Result

FINGERPRINT_LENGTH = 8
JOINT = "multitask"


def member_names(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Of each result its members, in order: different members have different names.

    A member is called by its corpus. Where results have several models for one corpus, of which some are somebody's
    checkpoints, it is called by the checkpoint as well (``tweets=FOLDER``). Joint training has no members, and stands
    beside the merges of the only ones that there are.
    """
    seen: dict[str, dict[str, str]] = {}
    for result in results:
        if result.method == JOINT and not result.checkpoints:
            continue
        for corpus in result.members:
            fingerprint, reference = _checkpoint(result, corpus)
            seen.setdefault(corpus, {})[fingerprint] = reference
    return [
        tuple(_name(corpus, *_checkpoint(result, corpus), seen.get(corpus, {})) for corpus in result.members)
        for result in results
    ]


def _checkpoint(result: Result, corpus: str) -> tuple[str, str]:
    """What identifies the checkpoint that a member is, and where it is from; empty for one that was trained."""
    record = result.checkpoints.get(corpus)
    if record is None:
        return "", ""
    reference = str(record.get("from", ""))
    if revision := record.get("revision"):
        reference += f"@{revision}"
    return str(record.get("fingerprint", reference)), reference


def _name(corpus: str, fingerprint: str, reference: str, seen: dict[str, str]) -> str:
    if len(seen) < 2:
        return corpus
    if not fingerprint:
        return f"{corpus} (trained)"
    alike = [other for other, name in seen.items() if name == reference]
    return f"{corpus}={reference}" + (f" ({fingerprint[:FINGERPRINT_LENGTH]})" if len(alike) > 1 else "")
