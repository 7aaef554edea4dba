"""A recipe as a method of ours, with settings for each tensor and each model where those differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from regmean_lab.checkpoints.recipe.methods import WITHOUT_EFFECT, KnownMethod
from regmean_lab.checkpoints.recipe.reading import Recipe
from regmean_lab.checkpoints.recipe.settings import Scalar, Setting
from regmean_lab.merging import MergeMethod, method_types
from regmean_lab.merging.depth import depths
from regmean_lab.merging.free_weights import FreeWeights, shares
from regmean_lab.merging.parameters import TensorSettings
from regmean_lab.models.headers import CheckpointError

T = "t"
"""SLERP's place on the arc: not a setting of ours, but the second coefficient."""


@dataclass(frozen=True)
class RecipeSettings:
    """What a recipe says of each tensor.

    Attributes:
        recipe: the recipe.
    """

    recipe: Recipe

    def of(self, names: Sequence[str]) -> Callable[[str], TensorSettings]:
        """The settings of each tensor of a model.

        Args:
            names: names of all tensors that are merged.

        Raises:
            CheckpointError: when a filter is in no name, or values for a tensor make no sense.
        """
        recipe = self.recipe
        found = [
            f"{recipe.path}:{condition.line}: parameters: {key}: filter {condition.filter!r} is in no tensor's name; "
            f"there are names such as {', '.join(list(names)[:3])}"
            for key, setting in _all_settings(recipe)
            for condition in setting.idle_filters(names)
        ]
        if found:
            raise CheckpointError(found)
        places = depths(names)
        method, _, _ = translated(recipe)

        def at(name: str) -> TensorSettings:
            return tensor_settings(recipe, name, places[name])

        for name in names:
            own = at(name)
            here = replace(own, method={**own.method, "weights": own.weights}) if own.weights is not None else own
            if problems := list(_type_problems(recipe, own.method).values()):
                raise CheckpointError([f"{problem} (for {name})" for problem in problems])
            if problems := [*_problems(recipe, here.applied(method)), *_weight_problems(recipe, own)]:
                raise CheckpointError([f"{problem} (for {name})" for problem in problems])
        return at


def translated(recipe: Recipe) -> tuple[MergeMethod, RecipeSettings | None, list[str]]:
    """The method of ours that a recipe asks for.

    Returns:
        The method, with all settings that are the same for all tensors and models; the others, if there are any; and
        what is wrong with the values.
    """
    known, kind = recipe.method, method_types()[recipe.method.method]
    everywhere = tensor_settings(recipe, "", 0.0)
    differing = any(not setting.is_scalar for _, setting in _all_settings(recipe))
    chosen: dict[str, Any] = {**known.fixed, **everywhere.method}
    own = {entry.name: entry for entry in fields(kind) if entry.init}
    if "from_base" in own:
        chosen["from_base"] = recipe.base is not None
    found = []
    lists = recipe.content.get("parameters") or {}
    for key, setting in recipe.settings.items():
        if not setting.conditions:
            chosen[known.shared[key]] = lists[key]
    alike = not everywhere.members or all(one == everywhere.members[0] for one in everywhere.members)
    if alike and everywhere.members:
        chosen.update(everywhere.members[0])
    elif everywhere.members:
        differing = True
    if known.free and issubclass(kind, FreeWeights):
        chosen["weights"] = list(everywhere.weights or [])
    elif everywhere.coefficients is not None:
        if min(everywhere.coefficients) < 0:
            differing = True  # beyond the ends of an arc
        elif any(everywhere.coefficients):
            chosen["coefficients"] = list(everywhere.coefficients)
    for key, problem in _type_problems(recipe, chosen).items():
        found.append(problem)
        del chosen[key]
    for key, setting in recipe.settings.items():
        ours = known.shared.get(key)
        if ours in own and isinstance(own[ours].default, str) and setting.conditions and not setting.is_scalar:
            found.append(f"{recipe.path}:{setting.line}: parameters: {key}: it is one for all tensors")
    method = kind(**chosen)
    if not any(not setting.is_scalar for _, setting in _all_settings(recipe)):  # else each tensor's are checked
        found += [*_problems(recipe, method), *_weight_problems(recipe, everywhere)]
    if getattr(method, "scope", None) == "model" and (differing and _varies(recipe, "density")):
        found.append(f"{_where(recipe, 'density')}: with scope: model all tensors and models have one density")
    return method, RecipeSettings(recipe) if differing else None, found


def tensor_settings(recipe: Recipe, name: str, depth: float) -> TensorSettings:
    """What a recipe says of one tensor.

    Args:
        recipe: the recipe.
        name: the tensor's name.
        depth: how deep it lies, from 0 to 1.
    """
    known = recipe.method
    defaults = {entry.name: entry.default for entry in fields(method_types()[known.method])}
    shared = {
        ours: int(value) if _is_whole(defaults[ours], value) else value
        for key, ours in known.shared.items()
        if key != T and (value := _value(recipe.settings.get(key), name, depth)) is not None
    }
    members = [
        {
            ours: float(value)
            for key, ours in known.per_model.items()
            if (value := _of_model(recipe, number, key, name, depth)) is not None
        }
        for number in range(len(recipe.models))
    ]
    if not any(members):
        members = []
    else:
        usual = {ours: known.fixed[ours] for ours in known.per_model.values()}
        members = [{**usual, **own} for own in members]
    if T in known.shared:
        value = _value(recipe.settings.get(T), name, depth)
        place = 0.5 if value is None else float(value)
        return TensorSettings(shared, coefficients=[1 - place, place])
    if not known.weighted:
        return TensorSettings(shared, members=members)
    weights = []
    for number in range(len(recipe.models)):
        value = _of_model(recipe, number, "weight", name, depth)
        weights.append(1.0 if value is None else float(value))
    if known.free:
        return TensorSettings(shared, weights=weights, members=members)
    equal = weights[0] != 0 and all(weight == weights[0] for weight in weights)
    return TensorSettings(shared, coefficients=None if equal else shares(weights), members=members)


def _of_model(recipe: Recipe, number: int, key: str, name: str, depth: float) -> Scalar | None:
    own = _value(recipe.models[number].settings.get(key), name, depth)
    return own if own is not None else _value(recipe.settings.get(key), name, depth)


def _value(setting: Setting | None, name: str, depth: float) -> Scalar | None:
    return None if setting is None else setting.at(name, depth)


def _all_settings(recipe: Recipe) -> list[tuple[str, Setting]]:
    pairs = [*recipe.settings.items(), *(pair for model in recipe.models for pair in model.settings.items())]
    return [(key, setting) for key, setting in pairs if key not in WITHOUT_EFFECT and setting.conditions]


def _varies(recipe: Recipe, key: str) -> bool:
    return any(name == key for model in recipe.models for name in model.settings) or not (
        key not in recipe.settings or recipe.settings[key].is_scalar
    )


def _problems(recipe: Recipe, method: MergeMethod) -> list[str]:
    """What is wrong with a method's settings, by the names that the recipe has for them."""
    known: KnownMethod = recipe.method
    names = {ours: key for key, ours in [*known.shared.items(), *known.per_model.items()]}
    names["weights"] = "weight"
    found = []
    for problem in method.problems():
        ours, _, reason = problem.partition(": ")
        if ours == "density" and math.isclose(getattr(method, "density", 0) or 0, 0):
            continue  # nothing of a task vector is kept
        found.append(f"{_where(recipe, names.get(ours, ours))}: {reason}")
    return found


def _weight_problems(recipe: Recipe, own: TensorSettings) -> list[str]:
    """Weights that must add up to 1 once divided by their sum, and are all zero."""
    if own.coefficients is not None and T not in recipe.method.shared and not any(own.coefficients):
        return [f"{_where(recipe, 'weight')}: all are 0"]
    return []


def _where(recipe: Recipe, key: str) -> str:
    lines = [setting.line for name, setting in _all_settings(recipe) if name == key]
    return f"{recipe.path}:{(lines or [recipe.lines.get('merge_method', 1)])[0]}: parameters: {key}"


def _type_problems(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of ours that are of another type than they should be, and what to say of each."""
    defaults = {entry.name: entry.default for entry in fields(method_types()[recipe.method.method])}
    names = {ours: key for key, ours in recipe.method.shared.items()}
    return {
        key: f"{_where(recipe, names.get(key, key))}: {problem}, got {value!r}"
        for key, value in settings.items()
        if (problem := _type_problem(defaults[key], value)) is not None
    }


def _is_whole(default: Any, value: Any) -> bool:
    """Whether a setting is a whole number, and the value is one."""
    if isinstance(default, bool) or not isinstance(default, int):
        return False
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()


def _type_problem(default: Any, value: Any) -> str | None:
    """Why a value cannot be a setting with that default."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "expected true or false"
    if isinstance(default, int):
        return None if _is_whole(default, value) else "expected a whole number"
    if isinstance(default, float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "expected a number"
    if isinstance(default, str):
        return None if isinstance(value, str) else "expected a word"
    return None


def method_settings(recipe: Recipe) -> Mapping[str, Any]:
    """The part of a recipe that says how is merged, for records and fingerprints: no names of models."""
    models = [entry for entry in recipe.content["models"] if isinstance(entry, Mapping)]
    listed = {str(entry["model"]): entry.get("parameters") or {} for entry in models}
    return {
        "merge_method": recipe.merge_method,
        "parameters": recipe.content.get("parameters") or {},
        "models": [listed.get(str(model.reference), {}) for model in recipe.models],
    }
