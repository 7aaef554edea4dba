"""Models whose weights stay in their files: on the device ``meta``, but for what no file holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from regmean_lab.models.pretrained import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def empty_of(auto_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration, in evaluation mode, all of it on the device ``meta``; float32 as what is loaded.

    Args:
        auto_class: one of transformers' ``AutoModelFor…``, or a class of models.
        config: its configuration.
    """
    with quiet_transformers(), torch.device("meta"), torch.random.fork_rng(devices=[]):
        if hasattr(auto_class, "from_config"):
            model: PreTrainedModel = auto_class.from_config(config, dtype=torch.float32)
        else:
            model = auto_class(config)
    return model.eval()


def fill_unstored_(model: PreTrainedModel, leaders: Mapping[str, str], stored: Collection[str]) -> None:
    """Give values to what a model has on ``meta`` and no file holds, as ``PreTrainedModel.from_pretrained`` does.

    That are buffers that models compute (frequencies of positions, masks), and what a class says its files may lack.

    Args:
        model: the model; changed in place.
        leaders: by name of its parameters and stored buffers, the first name of the same tensor.
        stored: the names, of those first ones, that files hold.
    """
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    made: dict[int, torch.Tensor] = {}
    for name, tensor in tensors:
        if leaders.get(name) in stored:
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' mark of what it leaves alone
            continue
        if id(tensor) not in made:
            value = torch.empty_like(tensor, device="cpu")
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(value, requires_grad=False) if is_parameter else value
        path, _, own = name.rpartition(".")
        setattr(model.get_submodule(path), own, made[id(tensor)])
    with torch.random.fork_rng(devices=[]):
        model.initialize_weights()
