"""Addresses: hashes of everything that a content depends on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from regmean_lab.utils.files import sha256

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

ADDRESS_LENGTH = 16
"""Hexadecimal digits of an address: 64 bits, so that even a million entries hardly ever collide."""


def member_address(description: Mapping[str, JSON]) -> str:
    """The address of the member that a description determines.

    Args:
        description: everything that determines the member's weights, and nothing else.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of the description as canonical JSON: keys sorted, no spaces,
        ASCII, floats in their shortest form that reads back as the same number.

    Raises:
        ValueError: if the description holds NaN or an infinity.
        TypeError: if it holds something that JSON has no form for, or a key that is not a string.
    """
    return _address(description)


def statistics_key(settings: Mapping[str, JSON]) -> str:
    """The key of statistics that were collected with these settings; made and checked as `member_address` does."""
    return _address(settings)


def _address(content: Mapping[str, JSON]) -> str:
    canonical = json.dumps(plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(canonical)[:ADDRESS_LENGTH]


def plain(content: JSON, *, finite: bool = False) -> JSON:
    """``content`` in dicts and lists.

    Args:
        content: what to copy.
        finite: put None for numbers that are not finite, which JSON has no form for.

    Raises:
        TypeError: for a key that is not a string: `json.dumps` would turn ``1`` into ``"1"``, and two descriptions
            would get one address.
    """
    if isinstance(content, Mapping):
        for key in content:
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, but {key!r} is of type {type(key).__name__}")
        return {key: plain(value, finite=finite) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes, bytearray)):
        return [plain(value, finite=finite) for value in content]
    if finite and isinstance(content, float) and not math.isfinite(content):
        return None
    return content
