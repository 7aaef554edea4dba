"""What version 0.1 named otherwise, and what to write instead (docs/migration.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from regmean_lab.command.own_folders import FILE_SCHEME
from regmean_lab.config.locations import configuration_root

SETTINGS = dict.fromkeys(
    ("stage", "stage_members"),
    "a sweep trains members and collects statistics by itself; with -m, hydra.sweeper.until=train or "
    "hydra.sweeper.until=statistics ends it there (docs/migration.md)",
)
"""By setting of version 0.1, what is there instead."""

FOLDERS = {
    "training_for": "published/SUITE-MODEL.yaml, below the key training",
    "method_for": "published/SUITE-MODEL.yaml, below the key method.NAME",
    "launcher_for": "hydra/launcher/NAME.yaml",
}
"""By folder of the configuration in version 0.1, which file is read instead."""

_SCHEMA = re.compile(r"Could not load '(?P<group>suite|method)/schema/(?P<name>\w+)'")
_UNKNOWN_KEY = re.compile(r"Key '(?P<key>\w+)' not in 'Config'")


def folder_problems(folders: Sequence[str]) -> list[str]:
    """One message for each folder that version 0.1 read and this version does not.

    Args:
        folders: of a user's own YAML, as Hydra's search path has them. The project's own is looked at as well: in a
            checkout, files that a user has added stay there.
    """
    own = [Path(folder.removeprefix(FILE_SCHEME)) for folder in folders if folder.startswith(FILE_SCHEME)]
    return [
        f"{root / name}: version 0.1 read this folder; what it says goes to {place} (docs/migration.md)"
        for root in (configuration_root() / "conf", *own)
        for name, place in FOLDERS.items()
        if next((root / name).rglob("*.yaml"), None) is not None
    ]


def with_new_name(message: str) -> str:
    """What Hydra says of a file that cannot be composed, with the new name if the file has one of version 0.1."""
    if (schema := _SCHEMA.search(message)) is not None:
        old, new = f"schema/{schema['name']}@", f"/schema/{schema['group']}/{schema['name']}@"
        return f"{message[: schema.start()]}{old}… of version 0.1 is {new}… now (docs/migration.md)"
    if (unknown := _UNKNOWN_KEY.search(message)) is not None and unknown["key"] in SETTINGS:
        return f"{message[: unknown.start()]}{unknown['key']}: {SETTINGS[unknown['key']]}"
    return message
