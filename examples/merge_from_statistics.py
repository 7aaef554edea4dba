"""Merge plain PyTorch models from weights and statistics alone: no Hydra, Lightning or transformers.

    python examples/merge_from_statistics.py

Two copies of a network are trained to approximate one function, each where its own inputs lie. Their owners keep the
data and publish weights and Gram matrices. Whoever has these merges the models with RegMean.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from regmean_lab.merging import MergeMember, MergeMethod, layout_of, merge_members, method_types
from regmean_lab.statistics import GramFile, collect_gram, save_gram

FEATURES = 12
EXAMPLES = 2000


def network() -> nn.Module:
    """The architecture that both models have."""
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 1))


def draw(seed: int, axes: slice) -> tuple[Tensor, Tensor]:
    """Inputs that vary mostly along some axes, and the values of the function that is learned."""
    generator = torch.Generator().manual_seed(seed)
    inputs = 0.1 * torch.randn(EXAMPLES, FEATURES, generator=generator)
    inputs[:, axes] += torch.randn(inputs[:, axes].shape, generator=generator)
    return inputs, inputs.sin().sum(1, keepdim=True)


def train(model: nn.Module, inputs: Tensor, values: Tensor) -> None:
    """What an owner does first, in whatever way."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        functional.mse_loss(model(inputs), values).backward()
        optimizer.step()


def publish(model: nn.Module, inputs: Tensor, folder: Path) -> None:
    """What an owner publishes: weights, and the Gram matrices of every linear layer's inputs."""

    def batches() -> Iterator[dict[str, Tensor]]:
        for part in inputs.split(256):
            yield {"input": part}  # the name of an argument of the model's forward

    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    save_gram(folder / "gram.safetensors", collect_gram(model, batches()), {"settings": {}}, form="packed")


def merge(folders: list[Path], method: MergeMethod) -> nn.Module:
    """What any user does with the folders."""
    members = [
        MergeMember(folder.name, load_file(folder / "model.safetensors"), GramFile(folder / "gram.safetensors"))
        for folder in folders
    ]
    model = network()
    merged = merge_members(method, members, layout_of(model))
    model.load_state_dict({parameter.name: parameter.value for parameter in merged})
    return model


def main() -> dict[str, float]:
    """Mean squared error over both data sets of each model, by its name."""
    data = {"left": draw(1, slice(0, 6)), "right": draw(2, slice(6, 12))}
    torch.manual_seed(0)
    start = network()
    models: dict[str, nn.Module] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = []
        for name, (inputs, values) in data.items():
            models[name] = network()
            models[name].load_state_dict(start.state_dict())  # merging needs a common start
            train(models[name], inputs, values)
            folders.append(Path(temporary) / name)
            publish(models[name], inputs, folders[-1])
        for name in ("simple", "regmean"):
            models[name] = merge(folders, method_types()[name]())
    with torch.no_grad():
        return {
            name: sum(float(functional.mse_loss(model(inputs), values)) for inputs, values in data.values()) / len(data)
            for name, model in models.items()
        }


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:8} {error:.4f}")
