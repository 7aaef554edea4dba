"""Where pico models lie, which are made when they are first asked for; `pico_models.py` makes them."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from regmean_lab.models.pretrained import ModelError, quiet_transformers

VERSION = "2"
"""Changes when the models do, so that a cached folder is never mistaken for the current ones."""


def pico_folder(architecture: str, cache_dir: Path) -> Path:
    """Folder of a pico model below ``cache_dir``; made when it is not there yet, always with the same weights.

    Raises:
        ModelError: for an architecture that there is not.
    """
    folder = cache_dir / f"pico-{architecture}-{VERSION}"
    if folder.is_dir():
        return folder
    from regmean_lab.models.pico_models import ARCHITECTURES, write_pico_model  # imports transformers

    if architecture not in ARCHITECTURES:
        raise ModelError(f"model.checkpoint: no pico model {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(str(cache_dir / f".{folder.name}.lock")):
        if not folder.is_dir():  # another process may have made it meanwhile
            with quiet_transformers():
                write_pico_model(architecture, folder)
    return folder
