"""Settings that came after version 0.1, left out of hashes where they have the value that 0.1 took for granted.

Addresses of zoo entries, names of statistics files and fingerprints of results are hashes of settings. A new setting
must not change them for those who do not use it, or everything that was computed before would be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LATER_SETTINGS: dict[str, Any] = {
    "method.epsilon_added": "after",
    "method.label_head": "merged",
}
"""By dotted key of the configuration, the value that means what version 0.1 did."""


def without_later_settings(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``content`` without the settings of ``LATER_SETTINGS`` that have the value named there.

    Args:
        content: a configuration, or a part of it.
        prefix: dotted key of the part, with a dot at its end.
    """
    kept = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if key in LATER_SETTINGS and value == LATER_SETTINGS[key]:
            continue
        kept[name] = without_later_settings(value, f"{key}.") if isinstance(value, Mapping) else value
    return kept
