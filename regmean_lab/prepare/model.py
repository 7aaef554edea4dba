"""``python -m regmean_lab.prepare model=NAME``: have a pretrained model here, with weights as safetensors."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock
from omegaconf import OmegaConf

import regmean_lab
from regmean_lab.config.groups import ModelConfig
from regmean_lab.config.locations import configuration_root
from regmean_lab.models.converted_weights import (
    PICKLED_INDEX,
    RECORD_FILE,
    SMALL_FILES,
    converted_name,
    converted_name_of_folder,
    copy_small,
    has_safetensors,
    hub_weights,
    is_converted,
    matching,
    pickled_files,
    read_record,
)
from regmean_lab.models.find import find_checkpoint, hub_reference
from regmean_lab.models.hub import HubModel, digests, fetch, find_on_hub
from regmean_lab.models.pretrained import PACKAGE_PREFIX, PICO_PREFIX, Checkpoint, ModelError
from regmean_lab.prepare.base import PrepareError
from regmean_lab.tracking.environment import versions
from regmean_lab.utils.files import file_sha256, new_folder, write_json

SCHEMA = 1
NOTICE = (
    "Pickled weights can run code when they are loaded. They are loaded here once in a separate process, with "
    "torch.load(weights_only=True), which builds tensors and nothing else."
)

_logger = logging.getLogger(__name__)


def prepare_model(reference: str, models_folder: Path, force: bool = False) -> str:
    """Have a model here: fetch what is of the hub, and convert pickled weights where there are no others.

    Args:
        reference: name of a configuration in group ``model``, a model of the hub (``name@revision``), or a folder.
        models_folder: where converted models are kept.
        force: convert again what was converted before.

    Returns:
        What is there now, in a sentence.

    Raises:
        PrepareError: when it cannot be had or converted.
    """
    config = model_config(reference)
    models_folder.mkdir(parents=True, exist_ok=True)
    try:
        folder = Path(config.checkpoint).expanduser()
        if config.checkpoint.startswith((PICO_PREFIX, PACKAGE_PREFIX)):
            ready = "nothing is to be prepared"
        elif folder.is_dir():
            ready = _prepare_folder(folder, models_folder, force)
        else:
            ready = _prepare_hub_model(config, models_folder, force)
        if _is_adapter(config):
            return f"{config.checkpoint}: {ready}."
        checkpoint = find_checkpoint(config, models_folder)
        _load_small(checkpoint)
    except ModelError as error:
        raise PrepareError(str(error).replace("model.checkpoint: ", "")) from None
    return f"{config.checkpoint}: {ready}. It is used as {checkpoint.fingerprint}."


def model_config(reference: str) -> ModelConfig:
    """The configuration of a model: one of group ``model``, or one for a name or folder."""
    known = configuration_root() / "conf" / "model" / f"{reference}.yaml"
    if "/" not in reference and known.is_file():
        content = OmegaConf.to_container(OmegaConf.load(known))
        assert isinstance(content, dict)
        keys = ("name", "checkpoint", "revision")
        return ModelConfig(**{key: content[key] for key in keys if key in content})
    return ModelConfig(name="model", checkpoint=reference)


def _is_adapter(config: ModelConfig) -> bool:
    """Whether it is an adapter, whose base has configuration and tokenizer."""
    folder = Path(config.checkpoint).expanduser()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if not names and not config.checkpoint.startswith((PICO_PREFIX, PACKAGE_PREFIX)):
        names = list(find_on_hub(*hub_reference(config)).files or ())
    return "adapter_config.json" in names and "config.json" not in names


def _load_small(checkpoint: Checkpoint) -> None:
    """Configuration and tokenizer, so that a missing package is reported now."""
    try:
        checkpoint.config()
        checkpoint.tokenizer()
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _logger.warning("its configuration or tokenizer cannot be loaded: %s", reason)


def _prepare_folder(folder: Path, models_folder: Path, force: bool) -> str:
    names = [path.name for path in folder.iterdir()]
    if has_safetensors(names):
        return "it has safetensors already"
    pickled = pickled_files(names)
    if not pickled:
        raise PrepareError(f"{folder}: no weights there that can be converted (pytorch_model.bin)")
    target = models_folder / converted_name_of_folder(folder)
    return _converted(folder, pickled, target, {"folder": folder.resolve().name}, {}, force)


def _prepare_hub_model(config: ModelConfig, models_folder: Path, force: bool) -> str:
    name, revision = hub_reference(config)
    found = find_on_hub(name, revision)
    if found.problem is not None:
        raise ModelError(found.problem)
    weights = hub_weights(name, found, models_folder, "")
    if weights.commit is not None:
        _fetch(name, found, SMALL_FILES, revision or "main")
        # Of everything, the hub's own conversion has only weights that are wanted.
        own = weights.commit == found.commit
        _fetch(name, found if own else find_on_hub(name, weights.commit), ("*.safetensors", "*.safetensors.index.json"))
        return "it is fetched" if own else f"it is fetched, with the hub's own conversion (commit {weights.commit})"
    pickled = pickled_files(found.files or ())
    if not pickled:
        raise PrepareError(weights.problem or f"{name}: no weights there that can be converted (pytorch_model.bin)")
    target = models_folder / converted_name(name, found.commit)
    folder = _fetch(name, found, (*SMALL_FILES, *pickled, PICKLED_INDEX), revision or "main")
    expected = {} if found.folder is not None else digests(name, found.commit, pickled)
    source = {"name": name, "commit": found.commit}
    return _converted(folder, pickled, target, source, expected, force)


def _fetch(name: str, found: HubModel, patterns: tuple[str, ...], revision: str | None = None) -> Path:
    """Have files of a commit in the cache; returns their folder."""
    if found.problem is not None:
        raise PrepareError(found.problem)
    if found.folder is not None:
        return found.folder
    files = None if found.files is None else matching(found.files, patterns)
    try:
        return fetch(name, found.commit, files, patterns, revision)
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PrepareError(f"{name}: could not be fetched from the hub ({reason})") from None


def _converted(
    folder: Path,
    pickled: tuple[str, ...],
    target: Path,
    source: Mapping[str, str],
    expected: Mapping[str, str],
    force: bool,
) -> str:
    """Convert, or find the finished conversion and check that it is as it was written."""
    with FileLock(str(target.parent / f".{target.name}.lock")):
        if not force and is_converted(target):
            if _is_intact(target):
                return f"it was converted before, to {target}"
            _logger.warning("%s is not as it was written, and is made again", target)
        lacking = [name for name in pickled if not (folder / name).is_file()]
        if lacking:
            raise PrepareError(f"{folder}: {', '.join(lacking)} not there")
        given = {name: file_sha256(folder / name) for name in pickled}
        checked = [name for name in pickled if len(expected.get(name, "")) == len(given[name])]
        if wrong := [name for name in checked if given[name] != expected[name]]:
            raise PrepareError(
                "; ".join(f"{folder / name}: SHA-256 is {given[name]}, the hub says {expected[name]}" for name in wrong)
                + ": delete what is damaged and run again"
            )
        with new_folder(target) as temporary:
            convert_apart(folder, temporary)
            copy_small(folder, temporary)
            made = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
            record = {
                "schema": SCHEMA,
                "source": dict(source),
                "read": given,
                "compared_with_the_hub": checked,
                "written": {path.as_posix(): file_sha256(temporary / path) for path in made},
                "versions": versions(),
            }
            write_json(temporary / RECORD_FILE, record)
    return f"it is converted, to {target}"


def _is_intact(folder: Path) -> bool:
    try:
        written = read_record(folder)["written"]
        return all(file_sha256(folder / name) == digest for name, digest in written.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def convert_apart(source: Path, target: Path) -> None:
    """Convert a folder's pickled weights, or one pickled file of tensors, in a separate process.

    Args:
        source: see :mod:`regmean_lab.models.convert_pickled`.
        target: what is written: of one file another one, or where this is a folder that is there, one for each tensor.

    Raises:
        PrepareError: saying why it is not converted.
    """
    package = str(Path(regmean_lab.__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    finished = subprocess.run(
        [sys.executable, "-m", "regmean_lab.models.convert_pickled", str(source), str(target)],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.splitlines() if line.strip()]
        said = "\n".join(lines[-5:]) or f"exit status {finished.returncode}"
        raise PrepareError(f"not converted: {said}")
