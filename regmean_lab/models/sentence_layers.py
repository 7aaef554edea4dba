"""What sentence-transformers' modules compute of a transformer's output, for the statistics of their linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from regmean_lab.models.sentence_folders import SentenceFolder, SentenceModule
from regmean_lab.utils.files import WEIGHTS_FILE

ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Mish, nn.ELU)
}
EMBEDDING = "sentence_embedding"
SMALLEST_NORM = 1e-12


class SentenceLayers(nn.Module):
    """Pooling, dense layers and normalisations, as far as the last dense layer.

    Its children are the modules with weights, named by their folders.

    Args:
        folder: the folder that describes them.
        modules: those that are run.
    """

    def __init__(self, folder: SentenceFolder, modules: list[SentenceModule]) -> None:
        super().__init__()
        self._run = modules
        for module in modules:
            if module.kind not in ("Dense", "LayerNorm"):
                continue
            weights = load_file(folder.root / module.path / WEIGHTS_FILE)
            if module.kind == "Dense":
                self.add_module(module.path, _Dense(module.settings, weights))
            else:
                self.add_module(module.path, _Normalisation(weights))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embeddings [batch, outputs] of vectors of tokens [batch, tokens, hidden] with a mask [batch, tokens]."""
        vectors = tokens
        for module in self._run:
            if module.kind == "Pooling":
                vectors = pooled(tokens, mask, module.settings["pooling_mode"])
            elif module.kind == "Normalize":
                vectors = nn.functional.normalize(vectors, dim=-1, eps=SMALLEST_NORM)
            elif module.kind in ("Dense", "LayerNorm"):
                vectors = self.get_submodule(module.path)(vectors)
        return vectors


class _Dense(nn.Module):
    """A linear layer with an activation, and what is added to it."""

    def __init__(self, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        outputs, inputs = weights["linear.weight"].shape
        self.linear = nn.Linear(inputs, outputs, bias="linear.bias" in weights)
        self.adds = bool(settings.get("use_residual"))
        if "residual.weight" in weights:
            self.residual = nn.Linear(inputs, outputs, bias=False)
        self.load_state_dict({name: value.float() for name, value in weights.items()})
        self.activation = ACTIVATIONS[_activation(settings)]()

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors [batch, outputs]."""
        result: Tensor = self.activation(self.linear(vectors))
        if not self.adds:
            return result
        return result + (self.residual(vectors) if hasattr(self, "residual") else vectors)


class _Normalisation(nn.Module):
    """A layer norm."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(len(weights["norm.weight"]))
        self.load_state_dict({name: value.float() for name, value in weights.items()})

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors [batch, outputs]."""
        result: Tensor = self.norm(vectors)
        return result


def _activation(settings: Mapping[str, Any]) -> str:
    return str(settings.get("activation_function", "Tanh")).rpartition(".")[2]


def sentence_layers(folder: SentenceFolder) -> tuple[SentenceLayers | None, str | None]:
    """The modules as far as the last dense layer (None without any), and why some cannot be run, if so."""
    last = max((number for number, module in enumerate(folder.on_top, 1) if module.kind == "Dense"), default=0)
    needed = folder.on_top[:last]
    if not needed:
        return None, None
    for number, module in enumerate(needed):
        if problem := _problem(module, first=number == 0):
            return None, f"{module}: {problem}; its dense layers get no statistics, and are averaged in a merge"
    return SentenceLayers(folder, needed), None


def _problem(module: SentenceModule, first: bool) -> str | None:
    if first != (module.kind == "Pooling"):
        return "only one pooling is read, which comes first"
    if module.kind not in ("Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"):
        return "what such a module computes is not known here"
    if module.kind == "Pooling" and (unknown := set(module.settings["pooling_mode"]) - _POOLINGS.keys()):
        return f"the pooling {', '.join(sorted(unknown))} is not known here"
    if module.kind == "Dense":
        if (activation := _activation(module.settings)) not in ACTIVATIONS:
            return f"the activation {activation} is not known here"
        if {module.settings.get(key, EMBEDDING) for key in ("module_input_name", "module_output_name")} != {EMBEDDING}:
            return "it does not change the embedding"
        if "linear.weight" not in module.tensors:
            return "it has no linear.weight"
    return None


def pooled(tokens: Tensor, mask: Tensor, modes: list[str]) -> Tensor:
    """One vector of the vectors of a text's tokens: [batch, modes · hidden].

    Args:
        tokens: [batch, tokens, hidden].
        mask: [batch, tokens], 0 at padding.
        modes: ``cls``, ``max``, ``mean``, ``mean_sqrt_len_tokens``, ``weightedmean`` or ``lasttoken``.
    """
    return torch.cat([_POOLINGS[mode](tokens, mask.to(tokens.dtype).unsqueeze(-1)) for mode in modes], dim=-1)


def _first(tokens: Tensor, mask: Tensor) -> Tensor:
    place = mask.squeeze(-1).argmax(1)  # after padding on the left
    return tokens[torch.arange(len(tokens), device=tokens.device), place]


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    place = mask.shape[1] - 1 - mask.squeeze(-1).flip(1).argmax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), place]


def _weighted(tokens: Tensor, mask: Tensor) -> Tensor:
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=mask.dtype)[None, :, None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


_POOLINGS = {
    "cls": _first,
    "lasttoken": _last,
    "max": lambda tokens, mask: tokens.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean": lambda tokens, mask: (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9),
    "mean_sqrt_len_tokens": lambda tokens, mask: (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9).sqrt(),
    "weightedmean": _weighted,
}
