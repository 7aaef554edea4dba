"""What a merge wants of an architecture's model and its configuration as JSON, and back.

With it: what making the model changes in the configuration. Whatever cannot be told in JSON raises here, and is then
not kept: the model is made each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from regmean_lab.checkpoints.names import StoredNames
from regmean_lab.merging.parameters import FeedForward, Layout, LinearLayer, StackedLayers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class NotPlainError(Exception):
    """Something that is not kept, as JSON does not tell it."""


def plain(value: Any) -> Any:
    """A value of which JSON tells all: numbers, texts, lists, and objects with texts as keys.

    Raises:
        NotPlainError: for any other.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and value - value == 0:  # neither infinite nor NaN
        return value
    if type(value) is list:
        return [plain(part) for part in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: plain(part) for key, part in value.items()}
    raise NotPlainError(f"{type(value).__name__} is not plain")


def _layer(layer: LinearLayer) -> list[Any]:
    return [layer.name, layer.transposed]


def _layout(layout: Layout) -> dict[str, Any]:
    return {
        "linear": {name: _layer(layer) for name, layer in layout.linear.items()},
        "label_outputs": sorted(layout.label_outputs),
        "feed_forward": [
            [[_layer(layer) for layer in block.first], _layer(block.second)] for block in layout.feed_forward
        ],
        "stacked": {name: [one.name, one.count, one.transposed] for name, one in layout.stacked.items()},
        "other_maps": list(layout.other_maps),
    }


def _read_layout(content: Mapping[str, Any]) -> Layout:
    return Layout(
        {name: LinearLayer(*layer) for name, layer in content["linear"].items()},
        frozenset(content["label_outputs"]),
        tuple(
            FeedForward(tuple(LinearLayer(*layer) for layer in first), LinearLayer(*second))
            for first, second in content["feed_forward"]
        ),
        {name: StackedLayers(*one) for name, one in content["stacked"].items()},
        tuple(content["other_maps"]),
    )


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}


def _read_shapes(content: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in content.items()}


Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]
_AS_IT_IS: Codec = (plain, plain)
_NAMES: Codec = (sorted, frozenset)
PROPERTIES: dict[str, Codec] = {
    "name": _AS_IT_IS,
    "model_type": _AS_IT_IS,
    "base_class": _AS_IT_IS,
    "base_model_prefix": _AS_IT_IS,
    "encoder_prefix": _AS_IT_IS,
    "is_bare": _AS_IT_IS,
    "shapes": (_shapes, _read_shapes),
    "leaders": _AS_IT_IS,
    "tied": _AS_IT_IS,
    "ties_words": _AS_IT_IS,
    "layout": (_layout, _read_layout),
    "head": _NAMES,
    "labels": _AS_IT_IS,
    "token_settings": _AS_IT_IS,
    "vocabulary": _NAMES,
    "encoder_parts": _NAMES,
    "may_lack": _NAMES,
    "pads_positions": _AS_IT_IS,
}
"""What is kept of an architecture: its properties by name, and how each becomes JSON and is read from it."""


def properties(architecture: object) -> dict[str, Any]:
    """The properties of an architecture as JSON.

    Raises:
        NotPlainError: where JSON does not tell one.
    """
    return {name: plain(write(getattr(architecture, name))) for name, (write, _) in PROPERTIES.items()}


def read_properties(content: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of an architecture from JSON.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, NotPlainError: when it is not that of an architecture.
    """
    return {name: read(content[name]) for name, (_, read) in PROPERTIES.items()}


def stored_names(names: StoredNames) -> dict[str, Any]:
    """What stored tensors are for a model, as JSON.

    Raises:
        NotPlainError: where some are put together, which is done with the model, or cannot be.
    """
    if names.converted or names.problems:
        raise NotPlainError("tensors that are put together")
    return {
        "plain": plain(names.plain),
        "doubles": [list(pair) for pair in names.doubles],
        "strangers": plain(names.strangers),
    }


def read_stored_names(content: Mapping[str, Any]) -> StoredNames:
    """What stored tensors are for a model, from JSON.

    Raises:
        KeyError, TypeError, ValueError: when it is not that.
    """
    return StoredNames(
        dict(content["plain"]), doubles=[(one, other) for one, other in content["doubles"]],
        strangers=list(content["strangers"]),
    )  # fmt: skip


def flat_settings(content: Mapping[Any, Any]) -> dict[str, Any]:
    """All settings of a configuration by name; None is left out.

    Args:
        content: what its ``to_dict`` returns; settings of parts of the model get the part's name before them.
    """
    return dict(_flattened(content, ""))


def _flattened(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{name}.")
        elif value is not None and value != {}:
            yield name, list(value) if isinstance(value, tuple) else value


def setting_changes(before: PreTrainedConfig, after: PreTrainedConfig) -> dict[str, Any]:
    """What differs between two states of a configuration, as JSON; those of parts of a model by the part.

    Raises:
        NotPlainError: where JSON does not tell it.
    """
    one, two = vars(before), vars(after)
    changes: dict[str, Any] = {"set": {}, "gone": sorted(one.keys() - two.keys()), "parts": {}}
    for key, value in two.items():
        earlier: Any = one.get(key)
        if _is_configuration(value) and type(earlier) is type(value):
            if inner := setting_changes(earlier, value):
                changes["parts"][key] = inner
        elif key not in one or not _is_same(earlier, value):
            changes["set"][key] = plain(value)
    return changes if any(changes.values()) else {}


def change_settings_(config: PreTrainedConfig, changes: Mapping[str, Any]) -> None:
    """Change a configuration in place as :func:`setting_changes` says."""
    if not changes:
        return
    own = vars(config)
    for key, inner in changes["parts"].items():
        change_settings_(own[key], inner)
    for key in changes["gone"]:
        del own[key]
    own.update(changes["set"])


def _is_configuration(value: object) -> bool:
    from transformers import PreTrainedConfig

    return isinstance(value, PreTrainedConfig)


def _is_same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and bool(one == two) and repr(one) == repr(two)  # 1 and True are equal
