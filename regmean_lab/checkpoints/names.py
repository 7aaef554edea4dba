"""Maps stored tensors to a model's parameters, by the rules that transformers itself uses to load files.

Files of other versions and tools name tensors otherwise: old layer norms (``gamma``, ``beta``), one tensor for each
expert of a mixture, what torch.compile and data-parallel wrappers put into names. Renaming and putting together are
those of ``transformers.conversion_mapping``, so that model types which it learns are understood here too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regmean_lab.checkpoints.weights import DTYPES
from regmean_lab.models.headers import StoredTensor
from regmean_lab.utils.names import abbreviated, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter

LEGACY_BUFFERS = re.compile(
    r"(^|\.)(position_ids|masked_bias|attn\.bias|attention\.bias|inv_freq|cos_cached|sin_cached|_float_tensor|version)$"
)
"""Buffers that old versions stored and that models compute themselves."""

MAX_PREFIX = 4
"""Most parts of names that are taken for a prefix which all names have."""


@dataclass(frozen=True)
class Conversion:
    """How some of a model's tensors are put together from stored ones.

    Attributes:
        converter: transformers' rule.
        name: the model's tensor that the rule is applied for; the others follow from it.
        parts: by the rule's pattern, names of the stored tensors in order.
        shapes: shapes of the model's tensors that come from it, in the order in which they come.
        dtypes: their dtypes.
    """

    converter: WeightConverter
    name: str
    parts: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]


@dataclass
class StoredNames:
    """What a file's tensors are for a model.

    Attributes:
        plain: by the model's name, the name of the stored tensor.
        converted: by the model's name, how it is put together.
        doubles: names of two stored tensors that stand for one of the model's.
        strangers: stored tensors that the model does not have, and that hold more than a buffer.
        problems: what cannot be put together.
    """

    plain: dict[str, str] = field(default_factory=dict)
    converted: dict[str, Conversion] = field(default_factory=dict)
    doubles: list[tuple[str, str]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor for this name of the model."""
        return name in self.plain or name in self.converted

    @property
    def found(self) -> list[str]:
        """The model's names that there are tensors for."""
        return [*self.plain, *self.converted]


def read_names(tensors: Mapping[str, StoredTensor], model: PreTrainedModel) -> StoredNames:
    """Find out which of a model's tensors the stored ones are; reads none.

    Args:
        tensors: the stored tensors.
        model: the model, on whatever device.
    """
    # With what makes a model, which many merges do without.
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    transforms = get_model_conversion_mapping(model)
    renamings = [part for part in transforms if isinstance(part, WeightRenaming)]
    converters = [part for part in transforms if isinstance(part, WeightConverter)]

    def target(name: str) -> tuple[str, str | None]:
        """As ``convert_and_load_state_dict_in_model`` does it."""
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, shapes)
        if renamed not in shapes and name in shapes:
            renamed, pattern = rename_source_key(name, [], [], model.base_model_prefix, shapes)
        return renamed, pattern

    places = {stored: target(stored) for stored in sorted(tensors, key=dot_natural_key)}
    cleaned = {stored: stored for stored in places}
    if any(place not in shapes for place, _ in places.values()):
        places, cleaned = _unwrapped(places, target, shapes, tensors, model)
    return _sorted_out(places, cleaned, tensors, model, shapes, converters)


Target = Callable[[str], tuple[str, str | None]]


def _unwrapped(
    places: dict[str, tuple[str, str | None]],
    target: Target,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, StoredTensor],
    model: PreTrainedModel,
) -> tuple[dict[str, tuple[str, str | None]], dict[str, str]]:
    """Where tensors belong, without what wrappers added to names, or what all names begin with if that is not known."""
    from transformers.core_model_loading import dot_natural_key

    cleaned = {stored: stored if place in shapes else unwrapped(stored) for stored, (place, _) in places.items()}
    order = sorted(places, key=lambda stored: dot_natural_key(cleaned[stored]))
    places = {stored: places[stored] if cleaned[stored] == stored else target(cleaned[stored]) for stored in order}
    for length in range(1, MAX_PREFIX + 1):
        strangers = {stored for stored in places if places[stored][0] not in shapes}
        if not strangers - _ignorable(strangers, cleaned, tensors, model):
            break
        starts = {".".join(name.split(".")[:length]) for name in cleaned.values()}
        if len(starts) != 1:
            break
        start = starts.pop() + "."
        shorter = {stored: name.removeprefix(start) for stored, name in cleaned.items()}
        tried = {stored: target(name) for stored, name in shorter.items()}
        unfit = {stored for stored in tried if tried[stored][0] not in shapes}
        if not unfit - _ignorable(unfit, shorter, tensors, model):
            return tried, shorter
    return places, cleaned


def _ignorable(
    stored: Iterable[str], cleaned: Mapping[str, str], tensors: Mapping[str, StoredTensor], model: PreTrainedModel
) -> set[str]:
    """Tensors that the model does not have and need not: buffers that it computes, and what its class says so of."""
    stored = list(stored)
    # The very rule of from_pretrained: patterns of the class, and buffers that used to be stored.
    info: Any = SimpleNamespace(missing_keys=set(), unexpected_keys={cleaned[name] for name in stored})
    model._adjust_missing_and_unexpected_keys(info)
    return {
        name
        for name in stored
        if cleaned[name] not in info.unexpected_keys
        or LEGACY_BUFFERS.search(cleaned[name])
        or tensors[name].dtype not in DTYPES
        or not DTYPES[tensors[name].dtype].is_floating_point
    }


def _sorted_out(
    places: Mapping[str, tuple[str, str | None]],
    cleaned: Mapping[str, str],
    tensors: Mapping[str, StoredTensor],
    model: PreTrainedModel,
    shapes: Mapping[str, tuple[int, ...]],
    converters: list[WeightConverter],
) -> StoredNames:
    names = StoredNames()
    rules = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    groups: dict[str, tuple[WeightConverter, dict[str, list[str]]]] = {}
    unknown = []
    for stored, (place, pattern) in places.items():
        if place not in shapes:
            unknown.append(stored)
        elif pattern is not None:
            _, parts = groups.setdefault(place, (rules[pattern], {}))
            parts.setdefault(pattern, []).append(stored)
        elif place in names.plain:
            names.doubles.append((names.plain[place], stored))
        else:
            names.plain[place] = stored
    for place, (rule, parts) in groups.items():
        listed = {pattern: tuple(stored) for pattern, stored in parts.items()}
        try:
            empty = {pattern: [_empty(tensors[name]) for name in stored] for pattern, stored in listed.items()}
            values = convert(rule, place, empty, model)
        except Exception as error:  # whatever an operation raises for tensors that do not go together
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            every = [name for stored in listed.values() for name in stored]
            names.problems.append(f"{place} cannot be put together from {abbreviated(every)} ({reason})")
            continue
        conversion = Conversion(
            rule,
            place,
            listed,
            {name: tuple(value.shape) for name, value in values.items()},
            {name: value.dtype for name, value in values.items()},
        )
        for name in values:
            if name in names:
                names.problems.append(
                    f"{name} is stored twice, whole and as {abbreviated(next(iter(listed.values())))}"
                )
            elif name in shapes:
                names.converted[name] = conversion
            else:
                names.problems.append(f"{abbreviated(next(iter(listed.values())))} make {name}, which the model lacks")
    ignorable = _ignorable(unknown, cleaned, tensors, model)
    names.strangers = [stored for stored in unknown if stored not in ignorable]
    return names


def _empty(tensor: StoredTensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype], device="meta")


def convert(
    rule: WeightConverter, name: str, parts: Mapping[str, list[Tensor]], model: PreTrainedModel
) -> dict[str, Tensor]:
    """Put tensors together by one of transformers' rules.

    Args:
        rule: the rule.
        name: the model's tensor that it is applied for.
        parts: by the rule's pattern, the stored tensors in order.
        model: the model that they are for.

    Returns:
        The model's tensors by name.
    """
    own = deepcopy(rule)
    own.collected_tensors.clear()
    for pattern, tensors in parts.items():
        for tensor in tensors:
            own.collected_tensors[pattern].append(tensor)  # type: ignore[arg-type]
    values = own.convert(name, model=model, config=model.config)
    return {key: value[0] if isinstance(value, list) else value for key, value in values.items()}


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """By name, in the model's order, the name that a tensor is tied to."""
    return dict(getattr(model, "all_tied_weights_keys", {}))


def ties(
    tied: Mapping[str, str], found: Iterable[str], equal: Callable[[str, str], bool]
) -> tuple[dict[str, str], set[str]]:
    """Which of a model's tensors share their values once a file is loaded, as ``PreTrainedModel.tie_weights`` does it.

    A tensor that its file lacks gets the values of the one that it is tied to; two that are both there are tied only
    if they are equal, whatever the configuration says.

    Args:
        tied: :func:`tied_names` of the model.
        found: names of its tensors that the file has.
        equal: whether the file's tensors for two names are equal.

    Returns:
        By name, the name whose values in the file it has; and the names that share none although the model ties them.
    """
    origin = {name: name for name in found}
    apart = set()
    pairs = list(tied.items())
    for number, (target, source) in enumerate(pairs):
        if target in origin and source in origin:
            if origin[target] != origin[source] and not equal(origin[target], origin[source]):
                apart.add(target)
                continue
        elif target in origin:
            target, source = source, target
        elif source not in origin:
            others = (other for other, same in pairs[number + 1 :] if same == source and other in origin)
            if (backup := next(others, None)) is None:
                continue
            source = backup
        origin[target] = origin[source]
    return origin, apart
