"""Which modules of a model are linear layers.

Two kinds count: ``torch.nn.Linear`` (weight ``[out, in]``) and the ``Conv1D`` of Hugging Face's GPT-2 (weight
``[in, out]``). The second is recognised by its shape, so that this package does not import transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .errors import StatisticsError, name_list


def is_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is a ``Conv1D``: a linear layer whose weight is stored as ``[in, out]``."""
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__ == "Conv1D"
        and isinstance(weight, Tensor)
        and weight.dim() == 2
        and weight.shape[1] == getattr(module, "nf", None)
    )


def is_linear(module: nn.Module) -> bool:
    """Whether ``module`` multiplies its input by a weight matrix: ``nn.Linear`` or ``Conv1D``."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of ``model`` by module name, in the order of ``model.named_modules()``."""
    return {name: module for name, module in model.named_modules() if is_linear(module)}


def select_layers(
    model: nn.Module, names: Sequence[str] | None, others: Mapping[str, nn.Module] | None = None
) -> dict[str, nn.Module]:
    """The linear layers called ``names`` (all of them for None), in the order of ``model.named_modules()``.

    Args:
        model: the model.
        names: names of layers; None for all.
        others: by name, what else may be chosen: the linear layers of fused experts.

    Raises:
        StatisticsError: for names that are no linear layer of the model (all are listed), or if there is no layer.
    """
    layers = {**linear_layers(model), **(others or {})}
    if names is not None:
        unknown = [name for name in names if name not in layers]
        if unknown:
            raise StatisticsError(
                f"not a linear layer of {type(model).__name__}: {name_list(unknown)}; "
                f"it has {name_list(layers) or 'none'}; take names from model.named_modules()"
            )
        wanted = set(names)
        layers = {name: module for name, module in layers.items() if name in wanted}
    if not layers:
        raise StatisticsError(f"no linear layer to collect in {type(model).__name__}")
    return layers
