"""The command that is published with statistics."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regmean_lab.config.checkpoint_commands import CollectConfig


def public_command(plain: CollectConfig, public: Mapping[str, str]) -> str:
    """The command with what determines the result: of paths only their last part, of columns their public names."""
    default = CollectConfig(checkpoint=plain.checkpoint, data=plain.data)
    what = f"data={Path(plain.data).name}" if plain.matrices is None else f"matrices={Path(plain.matrices).name}"
    parts = [f"checkpoint={Path(plain.checkpoint).name}", what]
    left_out = (
        *("experiment", "checkpoint", "data", "matrices", "output", "card", "push", "private", "force"),
        *("blocks", "held_activations", "trainer", "paths", "statistics"),
    )
    for key, value in asdict(plain).items():
        if key not in left_out and value != getattr(default, key):
            named = key in ("text", "target", "label")
            parts.append(f"{key}={_override(_renamed(value, public) if named else value)}")
    before, after = asdict(default.statistics), asdict(plain.statistics)
    for key, value in after.items():
        for part, inner in value.items() if isinstance(value, dict) else ():
            if inner != before[key][part]:
                parts.append(f"statistics.{key}.{part}={_override(inner)}")
        if not isinstance(value, dict) and value != before[key]:
            parts.append(f"statistics.{key}={_override(value)}")
    return shlex.join(["python", "-m", "regmean_lab", "experiment=collect_statistics", *parts])


def _renamed(value: Any, public: Mapping[str, str]) -> Any:
    """One name of a column, or several, as they are published; one that is not read is not."""
    return [_renamed(part, public) for part in value] if isinstance(value, list) else public.get(value, "unused")


def _override(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
