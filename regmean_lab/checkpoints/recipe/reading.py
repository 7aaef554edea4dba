"""Parses a recipe and reports all errors together, each with its line and the nearest valid name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.recipe.located import Located, read_yaml
from regmean_lab.checkpoints.recipe.methods import (
    BASE,
    BASE_IS_FIRST,
    BASE_IS_MEMBER,
    FOLLOWED,
    NO_BASE,
    OTHER_NAMES,
    UNSUPPORTED,
    KnownMethod,
    method_of,
    names,
)
from regmean_lab.checkpoints.recipe.settings import Scalar, Setting, read_setting
from regmean_lab.models.headers import CheckpointError
from regmean_lab.utils.names import did_you_mean, nearest

TOP = (
    "merge_method",
    "models",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)
"""Keys of a recipe."""

REFUSED = {
    "slices": "layers of models are not put together here; where one slice has all layers, list its sources as models",
    "modules": "modules of a model are not merged one by one here; expected models",
    "experts": "mixtures of experts are not built here (mergekit-moe does)",
    "experts_per_token": "mixtures of experts are not built here (mergekit-moe does)",
    "gate_mode": "mixtures of experts are not built here (mergekit-moe does)",
    "shared_experts": "mixtures of experts are not built here (mergekit-moe does)",
}
"""Keys of mergekit's programs that are not supported, and why."""

DTYPES = ("float32", "bfloat16", "float16")
UNION, OF_BASE = "union", "base"
SWITCHES = ("normalize", "rescale", "int8_mask", "normalize_weights", "nuslerp_flatten", "nuslerp_row_wise")
FRACTIONS = ("density", "gamma", "select_topk")


@dataclass(frozen=True)
class Reference:
    """A model, and an adapter on it: ``model@revision+adapter@revision``."""

    model: str
    adapter: str | None = None

    def __str__(self) -> str:
        """As in a recipe."""
        return self.model if self.adapter is None else f"{self.model}+{self.adapter}"


@dataclass(frozen=True)
class RecipeModel:
    """One of the models that a recipe merges.

    Attributes:
        reference: which.
        settings: its own parameters.
        line: where it stands.
    """

    reference: Reference
    settings: Mapping[str, Setting]
    line: int


@dataclass(frozen=True)
class Recipe:
    """A merge as it is written down.

    Attributes:
        path: the file.
        merge_method: the name that it gives the method.
        method: what that is.
        models: what is merged, without the base of task vectors.
        base: the base model, or None.
        settings: parameters for all models.
        dtype: of the merged weights, or None for the first model's.
        tokenizer_source: ``union``, ``base``, a model, or None.
        chat_template: ``auto``, a template, or None.
        content: the recipe's plain values.
        lines: the line of each key on top.
    """

    path: Path
    merge_method: str
    method: KnownMethod
    models: tuple[RecipeModel, ...]
    base: Reference | None
    settings: Mapping[str, Setting]
    dtype: str | None
    tokenizer_source: str | None
    chat_template: str | None
    content: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """File and line of a key, as messages begin."""
        return f"{self.path}:{self.lines.get(key, 1)}: {key}"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        CheckpointError: with everything that is wrong with it, each problem with file and line.
    """
    root = read_yaml(path)
    if not isinstance(root.value, dict):
        raise CheckpointError([f"{path}:{root.line}: expected keys such as merge_method and models, got {root.kind}"])
    found: list[str] = []
    for key in root.value:
        if key in REFUSED:
            found.append(f"{path}:{root.keys[key]}: {key}: not supported: {REFUSED[key]}")
        elif key not in TOP:
            found.append(f"{path}:{root.keys[key]}: {key}: unknown key; {did_you_mean(key, TOP)}")
    name, method = _method(root, path, found)
    base = _reference(root.value["base_model"], "base_model", path, found) if _given(root, "base_model") else None
    settings = _settings(root, method, name, path, found)
    models = _models(root, method, name, path, found)
    dtype = _choice(root, "out_dtype", DTYPES, path, found) or _choice(root, "dtype", DTYPES, path, found)
    source = _tokenizer_source(root, base, path, found)
    template = _text(root, "chat_template", path, found)
    if method is not None and "models" in root.value:
        models = _apart(models, base, method, name, root, path, found)
        _values(method, settings, models, path, found)
    if found:
        raise CheckpointError(sorted(found, key=lambda problem: _line(problem, path)))
    assert method is not None
    return Recipe(path, name, method, tuple(models), base, settings, dtype, source, template, root.plain(), root.keys)


def _line(problem: str, path: Path) -> int:
    """The line that a problem names."""
    number = problem.removeprefix(f"{path}:").partition(":")[0]
    return int(number) if number.isdigit() else 0


def _given(root: Located, key: str) -> bool:
    return key in root.value and root.value[key].value is not None


def _missing(root: Located, key: str, path: Path, found: list[str]) -> None:
    """Append that a key is missing, where no other one explains it."""
    if not any(name in REFUSED or _stands_for(name, key) for name in root.value):
        found.append(f"{path}:{root.line}: {key}: required, but not given")


def _stands_for(name: str, key: str) -> bool:
    """Whether an unknown key is a misspelt one."""
    return name not in TOP and name not in REFUSED and nearest(name, TOP)[:1] == [key]


def _method(root: Located, path: Path, found: list[str]) -> tuple[str, KnownMethod | None]:
    meant = [key for key in root.value if key == "merge_method" or _stands_for(key, "merge_method")]
    if not meant:
        _missing(root, "merge_method", path, found)
        return "", None
    part = root.value[meant[0]]
    name = str(part.value)
    if name in UNSUPPORTED:
        found.append(f"{path}:{part.line}: merge_method: {name} is not supported: {UNSUPPORTED[name]}")
        return name, None
    parameters = root.value.get("parameters")
    followed = parameters is not None and isinstance(parameters.value, dict) and FOLLOWED in parameters.value
    method = method_of(name, followed=followed)
    if method is None:
        found.append(f"{path}:{part.line}: merge_method: {name}: unknown method; {did_you_mean(name, names())}")
    return OTHER_NAMES.get(name, name), method


def _models(root: Located, method: KnownMethod | None, name: str, path: Path, found: list[str]) -> list[RecipeModel]:
    if "models" not in root.value:
        _missing(root, "models", path, found)
        return []
    part = root.value["models"]
    if not isinstance(part.value, list) or not part.value:
        found.append(f"{path}:{part.line}: models: expected a list of models, got {part.kind}")
        return []
    models = []
    for entry in part.value:
        if isinstance(entry.value, str):
            entry = Located({"model": entry}, entry.line, {"model": entry.line})
        if not isinstance(entry.value, dict):
            found.append(f"{path}:{entry.line}: models: expected 'model: NAME', got {entry.kind}")
            continue
        for key in entry.value:
            if key in ("model", "parameters"):
                continue
            known = [] if method is None else method.parameters
            hint = "it belongs below parameters" if key in known else did_you_mean(key, ("model", "parameters"))
            if key in ("layer_range", "sources"):
                hint = "slices of layers are not supported"
            found.append(f"{path}:{entry.keys[key]}: models: {key}: unknown key; {hint}")
        if "model" not in entry.value:
            found.append(f"{path}:{entry.line}: models: an entry without model")
            continue
        reference = _reference(entry.value["model"], "model", path, found)
        settings = _settings(entry, method, name, path, found)
        if reference is not None:
            models.append(RecipeModel(reference, settings, entry.line))
    return models


def _reference(part: Located, key: str, path: Path, found: list[str]) -> Reference | None:
    if isinstance(part.value, dict) and isinstance((inner := part.value.get("model")), Located):
        texts = [_path_of(inner), _path_of(part.value["lora"]) if "lora" in part.value else None]
        if texts[0] is not None:
            return Reference(texts[0], texts[1])
    if not isinstance(part.value, str) or not part.value.strip():
        found.append(f"{path}:{part.line}: {key}: expected a folder or the name of a model, got {part.kind}")
        return None
    text = part.value.strip()
    if "+" not in text or Path(text).expanduser().exists():
        return Reference(text)
    model, _, adapter = text.partition("+")
    if not model or not adapter or "+" in adapter:
        found.append(f"{path}:{part.line}: {key}: {text}: expected MODEL+ADAPTER")
        return None
    return Reference(model, adapter)


def _path_of(part: Located) -> str | None:
    """``name`` or ``{path: name, revision: …}``, as mergekit writes references out."""
    if isinstance(part.value, dict) and "path" in part.value:
        revision = part.value.get("revision")
        path = str(part.value["path"].value)
        return path if revision is None or revision.value is None else f"{path}@{revision.value}"
    return part.value if isinstance(part.value, str) else None


def _settings(
    holder: Located, method: KnownMethod | None, name: str, path: Path, found: list[str]
) -> dict[str, Setting]:
    if "parameters" not in holder.value or holder.value["parameters"].value is None:
        return {}
    part = holder.value["parameters"]
    if not isinstance(part.value, dict):
        found.append(f"{path}:{part.line}: parameters: expected names with values, got {part.kind}")
        return {}
    settings = {}
    for key, value in part.value.items():
        line = part.keys[key]
        if method is not None and key not in method.parameters:
            known = method.parameters
            found.append(f"{path}:{line}: parameters: {key}: {name} has no such parameter; {did_you_mean(key, known)}")
            continue
        if method is not None and key in method.lists and isinstance(value.value, list):
            settings[key] = Setting((), line)  # a list is the value of a setting of ours
            continue
        setting = read_setting(value, f"parameters: {key}", str(path), found)
        if setting is not None:
            settings[key] = setting
    return settings


def _apart(
    models: list[RecipeModel],
    base: Reference | None,
    method: KnownMethod,
    name: str,
    root: Located,
    path: Path,
    found: list[str],
) -> list[RecipeModel]:
    """The models that are merged, from those that are listed and the base."""
    line = root.keys.get("base_model", root.keys["models"])
    listed = {str(model.reference) for model in models}
    if base is None:
        if method.base in (BASE, BASE_IS_FIRST):
            found.append(f"{path}:{root.keys['models']}: base_model: {name} needs one, and none is given")
    elif method.base == NO_BASE and str(base) not in listed:
        found.append(f"{path}:{line}: base_model: {name} merges the models that are listed; list it with its weight")
    elif method.base == BASE_IS_MEMBER and str(base) not in listed:
        models = [*models, RecipeModel(base, {}, line)]
    elif method.base in (BASE, BASE_IS_FIRST) or (method.base != NO_BASE and method.base != BASE_IS_MEMBER):
        models = [model for model in models if str(model.reference) != str(base)]
    if method.base == BASE_IS_FIRST and base is not None:
        if len(models) != 1:
            found.append(
                f"{path}:{root.keys['models']}: models: {name} merges base_model and one other, got {len(models)} more"
            )
        return [RecipeModel(base, {}, line), *models]
    if len(models) < method.least or (method.most is not None and len(models) > method.most):
        wanted = f"{method.least}" if method.most == method.least else f"{method.least} or more"
        beside = " beside base_model" if base is not None and method.base != NO_BASE else ""
        found.append(f"{path}:{root.keys['models']}: models: {name} needs {wanted}{beside}, got {len(models)}")
    return models


def _values(
    method: KnownMethod, shared: Mapping[str, Setting], models: list[RecipeModel], path: Path, found: list[str]
) -> None:
    """Append what is wrong with the values of parameters."""
    for key, setting in [*shared.items(), *(pair for model in models for pair in model.settings.items())]:
        for condition in setting.conditions:
            for value in condition.values:
                if (wrong := _wrong(key, value, method)) is not None:
                    found.append(f"{path}:{condition.line}: parameters: {key}: {wrong}, got {value!r}")
                    break
    for model in models:
        for key, setting in model.settings.items():
            if key in method.shared:
                found.append(
                    f"{path}:{setting.line}: parameters: {key}: it is one for all models; give it below parameters of "
                    "the recipe"
                )


def _wrong(key: str, value: Scalar, method: KnownMethod) -> str | None:
    if key in method.must:
        wanted = method.must[key]
        return None if value == wanted else f"expected {wanted}, anything else is not supported for {method.method}"
    if key in SWITCHES:
        return None if isinstance(value, bool) else "expected true or false"
    if key in ("weight", "lambda", "t", "epsilon", "tol", "max_iter", *FRACTIONS):
        if isinstance(value, bool | str) or not math.isfinite(value):
            return "expected a number"
        if key in FRACTIONS and not 0 <= value <= 1:
            return "expected a number from 0 to 1"
        if key == "weight" and not method.free and value < 0:
            return "expected a number of at least 0"
    return None


def _tokenizer_source(root: Located, base: Reference | None, path: Path, found: list[str]) -> str | None:
    part, key = root.value.get("tokenizer_source"), "tokenizer_source"
    if _given(root, "tokenizer"):
        nested = root.value["tokenizer"]
        if _given(root, key):
            found.append(f"{path}:{root.keys['tokenizer']}: tokenizer: given beside tokenizer_source; expected one")
        if not isinstance(nested.value, dict):
            found.append(f"{path}:{nested.line}: tokenizer: expected a mapping with source, got {nested.kind}")
            return None
        for name in nested.value:
            if name in ("tokens", "pad_to_multiple_of"):
                found.append(f"{path}:{nested.keys[name]}: tokenizer: {name}: not supported")
            elif name != "source":
                hint = did_you_mean(name, ("source",))
                found.append(f"{path}:{nested.keys[name]}: tokenizer: {name}: unknown key; {hint}")
        part, key = nested.value.get("source"), "tokenizer: source"
    if part is None or part.value is None:
        return None
    reference = _reference(part, key, path, found)
    text = None if reference is None else str(reference)
    if text == OF_BASE and base is None:
        found.append(f"{path}:{part.line}: {key}: base, but there is no base_model")
    return text


def _choice(root: Located, key: str, allowed: tuple[str, ...], path: Path, found: list[str]) -> str | None:
    text = _text(root, key, path, found)
    if text is not None and text not in allowed:
        found.append(f"{path}:{root.value[key].line}: {key}: expected one of {', '.join(allowed)}, got {text!r}")
    return text


def _text(root: Located, key: str, path: Path, found: list[str]) -> str | None:
    if not _given(root, key):
        return None
    part = root.value[key]
    if not isinstance(part.value, str):
        found.append(f"{path}:{part.line}: {key}: expected a text, got {part.kind}")
        return None
    return part.value
