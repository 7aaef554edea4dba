"""Folders of sentence-transformers: a transformer and the modules that make one vector of its tokens' vectors.

``modules.json`` lists them. The transformer lies in the folder itself, or in ``0_Transformer``; each other module has a
folder with a ``config.json``, and weights where it has any. Nothing of sentence-transformers is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from regmean_lab.models.folders import CONFIG_FILE, MAX_JSON_BYTES, PICKLED, escape_problem, read_json_file
from regmean_lab.models.headers import CheckpointError, StoredTensor, parse_json, read_header
from regmean_lab.utils.files import WEIGHTS_FILE

MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
TRANSFORMER_SETTINGS = "sentence_bert_config.json"
OLD_TRANSFORMER_SETTINGS = re.compile(r"sentence_[\w-]+_config\.json")
"""Names that the settings of a transformer of another type used to have."""

FOLDER_FILES = ("[0-9]_*/config.json", "[0-9]_*/model.safetensors")
"""Files of modules (``1_Pooling``, ``2_Dense``), as they are fetched from the hub."""

TRANSFORMERS = ("Transformer", "MLMTransformer")
"""Modules that are models of transformers."""

NAMESPACE = "sentence_transformers."
TASK_KEY = "transformer_task"
EMBEDDING_TASK = "feature-extraction"

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Switches of older versions, in the order in which their vectors are put together; and what they are called now."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "Transformer": {"do_lower_case": False, TASK_KEY: EMBEDDING_TASK},
    "Pooling": {"include_prompt": True},
    "Dense": {"bias": True, "use_residual": False, "module_input_name": "sentence_embedding"},
    SETTINGS_FILE: {"similarity_fn_name": "cosine", "model_type": "SentenceTransformer"},
}
"""What a setting is where a file does not say it."""

_NOT_COMPARED = ("__version__",)


@dataclass(frozen=True)
class SentenceModule:
    """One of the modules.

    Attributes:
        path: its folder, relative to the model's; of the transformer it may be empty.
        type: name of its class, as ``modules.json`` has it.
        settings: what decides what it computes, in the newest spelling.
        tensors: its weights; empty for the transformer, whose own are read as those of any model.
    """

    path: str
    type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The class's own name: the package that it lies in has changed."""
        return self.type.rpartition(".")[2]

    def __str__(self) -> str:
        """How messages call it."""
        return f"{self.path} ({self.kind})" if self.path else self.kind


@dataclass(frozen=True)
class SentenceFolder:
    """What ``modules.json`` of a folder describes.

    Attributes:
        root: the folder.
        listed: the content of ``modules.json``.
        modules: all of them, the transformer first.
        settings: of the model as a whole: prompts, and how vectors are compared.
    """

    root: Path
    listed: list[dict[str, Any]]
    modules: list[SentenceModule]
    settings: Mapping[str, Any]

    @property
    def transformer(self) -> Path:
        """The folder of the transformer."""
        return self.root / self.modules[0].path

    @property
    def on_top(self) -> list[SentenceModule]:
        """The modules that follow the transformer."""
        return self.modules[1:]

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Weights of the modules on top: the name of each begins with its module's folder."""
        return {
            f"{module.path}.{name}": tensor for module in self.on_top for name, tensor in sorted(module.tensors.items())
        }

    @cached_property
    def files(self) -> dict[str, Path]:
        """All files beside those of the transformer and its tokenizer, by their path in the folder."""
        found = {MODULES_FILE: self.root / MODULES_FILE}
        if (self.root / SETTINGS_FILE).is_file():
            found[SETTINGS_FILE] = self.root / SETTINGS_FILE
        if (path := transformer_settings(self.transformer)) is not None:
            found[path.name] = path
        for module in self.on_top:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                if (path := self.root / module.path / name).is_file():
                    found[f"{module.path}/{name}"] = path
        return found

    @property
    def weight_files(self) -> dict[str, Path]:
        """The files of weights of the modules on top, by their path in the folder."""
        return {name: path for name, path in self.files.items() if path.name == WEIGHTS_FILE}

    @property
    def longest_text(self) -> int | None:
        """Tokens to which texts are cut, if it is said."""
        length = self.modules[0].settings.get("max_seq_length")
        return length if isinstance(length, int) and length > 0 else None

    @property
    def is_embedding(self) -> bool:
        """Whether the transformer is read without a head."""
        return self.modules[0].kind == "Transformer" and self.modules[0].settings.get(TASK_KEY) == EMBEDDING_TASK

    @cached_property
    def auto_class(self) -> Any:
        """The ``AutoModel…`` whose class the transformer has; None for the class that its configuration names.

        That class does not count for embeddings: a model that was saved with a head is read without.
        """
        from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForTextEncoding
        from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

        task = self.modules[0].settings.get(TASK_KEY)
        if self.modules[0].kind == "MLMTransformer" or task == "fill-mask":
            return AutoModelForMaskedLM
        if task != EMBEDDING_TASK:
            return None
        # Of an encoder-decoder it is the encoder, which AutoModel does not give.
        kind = read_json_file(self.transformer / CONFIG_FILE).get("model_type")
        return AutoModelForTextEncoding if kind in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES else AutoModel


def is_sentence_folder(folder: Path) -> bool:
    """Whether a folder is one of sentence-transformers."""
    return (folder / MODULES_FILE).is_file()


def transformer_settings(folder: Path) -> Path | None:
    """The file of settings beside a transformer, if there is one."""
    if (path := folder / TRANSFORMER_SETTINGS).is_file():
        return path
    old = sorted(path for path in folder.glob("sentence_*_config.json") if OLD_TRANSFORMER_SETTINGS.match(path.name))
    return old[0] if old else None


def transformer_folder(folder: Path) -> Path:
    """The folder of the transformer, if this is a folder of sentence-transformers; otherwise the folder.

    Raises:
        CheckpointError: when ``modules.json`` cannot be read.
    """
    if not is_sentence_folder(folder):
        return folder
    return folder / _modules(folder / MODULES_FILE)[0]["path"]


def read_sentence_folder(folder: Path) -> SentenceFolder | None:
    """What a folder of sentence-transformers consists of; None for any other. Of weights only headers are read.

    Raises:
        CheckpointError: with everything that is wrong with it.
    """
    if not is_sentence_folder(folder):
        return None
    listed = _modules(folder / MODULES_FILE)
    modules: list[SentenceModule] = []
    found: list[str] = []
    for number, entry in enumerate(listed):
        try:
            modules.append(_read_module(folder, entry["path"], entry["type"], first=number == 0))
        except CheckpointError as error:
            found += error.problems
    settings: dict[str, Any] = {}
    try:
        if (folder / SETTINGS_FILE).is_file():
            settings = read_json_file(folder / SETTINGS_FILE)
    except CheckpointError as error:
        found += error.problems
    if found:
        raise CheckpointError(found)
    return SentenceFolder(folder, listed, modules, _plain(settings, _DEFAULTS[SETTINGS_FILE]))


def _modules(path: Path) -> list[dict[str, Any]]:
    """The entries of ``modules.json``, which lie in the folder and need no code but sentence-transformers' own."""
    if problem := escape_problem(path.parent, path):
        raise CheckpointError([problem])
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise CheckpointError([f"{path}: {size} bytes of JSON; at most {MAX_JSON_BYTES} are read"])
        # A list is no JSON object, which is what the reader of untrusted JSON takes.
        content = parse_json(b'{"modules":' + path.read_bytes() + b"}", path)
    except OSError as error:
        raise CheckpointError([f"{path}: cannot be read ({error.strerror})"]) from None
    entries: Any = content["modules"]
    sound = isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("path", "type"))
        for entry in entries
    )
    if not sound or not entries:
        raise CheckpointError([f"{path}: expected a list of modules, each with path and type"])
    listed: list[dict[str, Any]] = sorted(entries, key=lambda entry: _number(entry.get("idx")))
    found = []
    for number, entry in enumerate(listed):
        if not re.fullmatch(r"[\w-]+" if number else r"[\w-]*", entry["path"]):
            found.append(f"{path}: module {number}: path {entry['path'][:80]!a} is not the name of a folder in it")
        if not entry["type"].startswith(NAMESPACE):
            found.append(
                f"{path}: module {number}: {entry['type'][:80]} needs code of its own, which is never run; "
                f"without {MODULES_FILE} the transformer alone is read"
            )
    first = listed[0]["type"].rpartition(".")[2]
    if first not in TRANSFORMERS:
        found.append(
            f"{path}: module 0 is {first[:80]}; expected {TRANSFORMERS[0]}, a model of transformers that reads the text"
        )
    if found:
        raise CheckpointError(found)
    return listed


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _read_module(root: Path, path: str, kind: str, first: bool) -> SentenceModule:
    folder = root / path
    name = kind.rpartition(".")[2]
    if path and (problem := escape_problem(root, folder)):
        raise CheckpointError([problem])
    file = transformer_settings(folder) if first else folder / CONFIG_FILE
    settings: dict[str, Any] = {}
    if file is not None and file.is_file():
        if problem := escape_problem(root, file):
            raise CheckpointError([problem])
        settings = read_json_file(file)
    if name == "Pooling":
        settings = _pooling(settings)
    settings = _plain(settings, _DEFAULTS.get(name, {}))
    if first:
        return SentenceModule(path, kind, settings)
    weights = folder / WEIGHTS_FILE
    tensors: Mapping[str, StoredTensor] = {}
    if weights.is_file():
        if problem := escape_problem(root, weights):
            raise CheckpointError([problem])
        tensors = read_header(weights)
    elif folder.is_dir() and (pickled := [entry.name for entry in folder.iterdir() if entry.suffix in PICKLED]):
        raise CheckpointError(
            [
                f"{folder}: weights in {', '.join(sorted(pickled))}, which is not read: such a file can run code. Save "
                "the model again where you trust it: SentenceTransformer(folder).save(folder, safe_serialization=True)"
            ]
        )
    elif name == "Dense":
        raise CheckpointError([f"{folder}: no {WEIGHTS_FILE} there, but a Dense module has weights"])
    return SentenceModule(path, kind, settings, tensors)


def _pooling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a pooling in the newest spelling."""
    kept = {key: value for key, value in settings.items() if key not in _MODES}
    if "word_embedding_dimension" in kept:
        kept["embedding_dimension"] = kept.pop("word_embedding_dimension")
    modes = kept.get("pooling_mode")
    if modes is None:
        # Where nothing is said, older versions took the mean.
        modes = [mode for key, mode in _MODES.items() if settings.get(key, key == "pooling_mode_mean_tokens")]
    kept["pooling_mode"] = [modes] if isinstance(modes, str) else list(modes)
    return kept


def _plain(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that say something, with the defaults."""
    said = {key: value for key, value in settings.items() if value not in (None, {}, []) and key not in _NOT_COMPARED}
    return {**defaults, **said}


def differences(one: SentenceFolder, other: SentenceFolder) -> list[str]:
    """In what two models' modules differ, so that the same vectors of tokens would become other embeddings.

    Args:
        one: a model.
        other: another one; it is named first in the messages.
    """
    kinds = [[str(module) for module in model.on_top] for model in (one, other)]
    if one.modules[0].kind != other.modules[0].kind or kinds[0] != kinds[1]:
        shown = [", ".join([model.modules[0].kind, *names]) for model, names in zip((one, other), kinds, strict=True)]
        return [f"modules {shown[1]}, not {shown[0]}"]
    found = []
    for module, its in zip(one.modules, other.modules, strict=True):
        where = f"{module.path}/{CONFIG_FILE}" if module is not one.modules[0] else TRANSFORMER_SETTINGS
        found += _settings(where, module.settings, its.settings)
        if module.tensors.keys() != its.tensors.keys():
            apart = ", ".join(sorted(module.tensors.keys() ^ its.tensors.keys()))
            found.append(f"{module.path}/{WEIGHTS_FILE}: only one has {apart}")
            continue
        found += [
            f"{module.path}/{WEIGHTS_FILE}: {name}: shape {its.tensors[name].shape}, not {tensor.shape}"
            for name, tensor in module.tensors.items()
            if its.tensors[name].shape != tensor.shape
        ]
    return found + _settings(SETTINGS_FILE, one.settings, other.settings)


def _settings(where: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        f"{where}: {key} is {str(other.get(key))[:200]}, not {str(one.get(key))[:200]}"
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key)
    ]
