"""Small helpers for files that several people read."""

from __future__ import annotations

import os
from pathlib import Path


def share(path: Path) -> None:
    """Give a file the permissions that the umask asks for: safetensors makes files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
