"""Training of members as low-rank adapters (LoRA; Hu et al., ICLR 2022), by the library PEFT.

The adapter is put into the model as it is: training, selection of the best epoch and snapshots see a module with other
parameters. In the end it is added to the weights, so that a member is a whole model like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.config.groups import LoraConfig
from regmean_lab.merging.layout import layout_of
from regmean_lab.models.pretrained import Checkpoint, adapter_task, head_modules
from regmean_lab.models.shapes import FORMS, Shape, shape_of
from regmean_lab.suites.base import Task
from regmean_lab.utils.files import CARD_FILE
from regmean_lab.utils.names import did_you_mean

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

PACKAGE = "peft"


def lora_problems(settings: LoraConfig, checkpoint: Checkpoint, tasks: Sequence[Task]) -> list[str]:
    """Why members cannot be trained as adapters: a message each, beginning with the setting's name.

    Args:
        settings: how; without a rank nothing is wrong.
        checkpoint: the pretrained model.
        tasks: of the members.
    """
    if settings.rank is None:
        return []
    found = []
    if find_spec(PACKAGE) is None:
        found.append(
            f"training.lora.rank: needs the package {PACKAGE}; install it with: pip install 'regmean-lab[lora]'"
        )
    model = _empty_model(checkpoint, tasks[0])
    if model is None:
        return found  # which is told of the model
    layers = trainable_layers(model)
    for name in settings.target_modules or ():
        if not any(_is_called(layer, name) for layer in layers):
            names = [*dict.fromkeys(layer.rpartition(".")[2] for layer in layers)]
            found.append(
                f"training.lora.target_modules: {name}: no linear layer of {type(model).__name__} that can be adapted "
                f"has a name that ends so; {did_you_mean(name, names)}"
            )
    chosen = adapted_layers(model, settings)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sides = {layer: min(shapes[f"{layer}.weight"]) for layer in chosen}
    if sides and settings.rank > max(sides.values()):
        widest = max(sides, key=lambda layer: sides[layer])
        found.append(
            f"training.lora.rank: {settings.rank} is larger than every layer that is adapted (the smaller side of the "
            f"largest, {widest}, is {sides[widest]}); expected less"
        )
    if not sides and not found:
        found.append(f"training.lora.rank: {type(model).__name__} has no linear layers that could be adapted")
    return found


def whole_modules(model: Shape) -> list[str]:
    """The modules that are trained whole: a head for labels, and a pooler, which many checkpoints lack, too.

    The output layer of a model that writes is the pretrained model's own: it stays as it is.
    """
    if adapter_task(model) in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return []
    poolers = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "pooler"]
    return list(dict.fromkeys([*head_modules(model), *poolers]))


def trainable_layers(model: Shape) -> list[str]:
    """Names of the linear layers that can be adapted: all outside of heads, and of what is trained whole."""
    left_out = [*whole_modules(model), *head_modules(model)]
    return [
        layer.name
        for layer in layout_of(model).linear.values()
        if not any(f"{layer.name}.".startswith(f"{module}.") for module in left_out)
    ]


def adapted_layers(model: Shape, settings: LoraConfig) -> list[str]:
    """Names of the linear layers that are adapted."""
    layers = trainable_layers(model)
    if settings.target_modules is None:
        return layers
    return [layer for layer in layers if any(_is_called(layer, name) for name in settings.target_modules)]


def add_adapter(model: PreTrainedModel, settings: LoraConfig, checkpoint: Checkpoint) -> PeftModel:
    """Put an adapter into a model, which is drawn from torch's global random state; nothing else can be trained then.

    Args:
        model: the model; it is changed.
        settings: with a rank.
        checkpoint: what it was loaded from, which the adapter's configuration names.

    Returns:
        PEFT's model around it, which can save the adapter and add it to the weights.
    """
    from peft import LoraConfig as Configuration
    from peft import get_peft_model

    assert settings.rank is not None
    layers = adapted_layers(model, settings)
    transposed = {layer.name: layer.transposed for layer in layout_of(model).linear.values()}
    configuration = Configuration(
        task_type=adapter_task(model),
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=layers,
        modules_to_save=whole_modules(model) or None,
        fan_in_fan_out=any(transposed[layer] for layer in layers),
    )
    wrapped: Any = get_peft_model(model, configuration)
    own = wrapped.peft_config["default"]
    own.base_model_name_or_path, own.revision = _name(checkpoint)
    adapter: PeftModel = wrapped
    return adapter


def save_adapter(adapter: PeftModel, model: PreTrainedModel, folder: Path) -> None:
    """Write an adapter as PEFT reads it, with a ``config.json`` that has the names of its labels."""
    # What PEFT would look for on the hub (whether the table of tokens has grown) is known: it has not.
    adapter.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / CARD_FILE).unlink(missing_ok=True)  # a form with nothing filled in
    model.config.save_pretrained(folder)


def merge_adapter(adapter: PeftModel) -> None:
    """Add an adapter to the weights of the model that it was put into, and take it out."""
    merged: Any = adapter
    merged.merge_and_unload()


def _name(checkpoint: Checkpoint) -> tuple[str, str | None]:
    """What an adapter calls its base, and the commit of a model of the hub."""
    if checkpoint.revision is None:
        return checkpoint.location, None
    return checkpoint.source, checkpoint.revision


def _is_called(layer: str, name: str) -> bool:
    """Whether a layer is meant by a name, as PEFT takes it."""
    return layer == name or layer.endswith(f".{name}")


@lru_cache(maxsize=16)
def _empty_model(checkpoint: Checkpoint, task: Task) -> Shape | None:
    """The model that is trained, without weights; None for a checkpoint that does not do for the task."""
    try:
        return shape_of(checkpoint, FORMS[task.kind], task)
    except (OSError, ValueError, KeyError, AttributeError):  # what transformers raises for config.json
        return None
