"""Models of a few parameters, batches for them, and independent oracles, for the tests of the statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 37
PADDING = 0

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
    "pad_token_id": PADDING,
}


def _config(architecture: str) -> transformers.PretrainedConfig:
    if architecture == "bert":
        return transformers.BertConfig(**_COMMON)
    if architecture == "roberta":
        return transformers.RobertaConfig(**_COMMON)
    if architecture == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=8,
            n_layers=2,
            n_heads=2,
            hidden_dim=12,
            max_position_embeddings=24,
            pad_token_id=PADDING,
        )
    if architecture in ("deberta", "deberta_with_convolution"):
        return transformers.DebertaV2Config(
            **_COMMON,
            relative_attention=True,
            position_buckets=3,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type="p2c|c2p",
            position_biased_input=False,
            type_vocab_size=0,
            conv_kernel_size=3 if architecture == "deberta_with_convolution" else 0,
        )
    if architecture == "albert":
        return transformers.AlbertConfig(**_COMMON, embedding_size=4)
    if architecture == "llama":
        return transformers.LlamaConfig(**_COMMON, num_key_value_heads=1)
    assert architecture == "gpt2"
    return transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=8,
        n_layer=2,
        n_head=2,
        n_positions=24,
        pad_token_id=PADDING,
        bos_token_id=1,
        eos_token_id=2,
    )


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter, also those that start at 0 or 1, a random value of a size at which gradients matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape) + (parameter.dim() == 1) * 0.3)
    return model


def classifier(architecture: str, outputs: int = 3, seed: int = 0) -> Any:
    """A sequence classifier in evaluation mode, float64."""
    torch.manual_seed(seed)
    config = _config(architecture)
    config.num_labels = outputs
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    return randomise(model).double().eval()


def text_batch(lengths: tuple[int, ...] = (5, 3, 6), seed: int = 0, width: int | None = None) -> dict[str, Tensor]:
    """Random token ids ``[len(lengths), width]`` (by default as wide as the longest) with their attention mask.

    Token ids are drawn from few, so that some occur twice in an example.
    """
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) if width is None else width
    ids = torch.randint(3, 9, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids * mask + PADDING * (1 - mask), "attention_mask": mask}


def captured_inputs(model: nn.Module, run: Callable[[], object]) -> dict[str, list[Tensor]]:
    """Copies of the inputs of every module, by name and in the order of the calls, while ``run`` runs."""
    inputs: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():

        def keep(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            if args and isinstance(args[0], Tensor):
                inputs.setdefault(name, []).append(args[0].detach().clone())

        handles.append(module.register_forward_pre_hook(keep))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def naive_gram(rows: list[Tensor]) -> Tensor:
    """The mean of the outer products of single rows, one row after the other, in float64."""
    every = [row.double() for row in rows]
    return sum((torch.outer(row, row) for row in every), torch.zeros(())) / len(every)


def outcomes(logits: Tensor, kind: str) -> Iterator[tuple[float, Tensor]]:
    """All labels that one example with ``logits`` ``[outputs]`` can have, with their probabilities.

    For a Gaussian, the two-point rule: exact for the expectation of what is quadratic in the label.
    """
    if kind == "categorical":
        for label, probability in enumerate(torch.softmax(logits, 0).tolist()):
            yield probability, torch.tensor(label)
    elif kind == "bernoulli":
        probabilities = torch.sigmoid(logits)
        for values in itertools.product((0.0, 1.0), repeat=len(logits)):
            label = torch.tensor(values, dtype=logits.dtype)
            yield float(torch.where(label == 1, probabilities, 1 - probabilities).prod()), label
    else:
        for signs in itertools.product((-1.0, 1.0), repeat=logits.numel()):
            yield 0.5 ** len(signs), logits + torch.tensor(signs, dtype=logits.dtype).reshape(logits.shape)


def log_probability(logits: Tensor, label: Tensor, kind: str) -> Tensor:
    """The log-probability of one example's label, by `torch.distributions`; -100 is not annotated."""
    if kind == "gaussian":
        return torch.distributions.Normal(logits, 1.0).log_prob(label.reshape(logits.shape)).sum()
    annotated = label != -100
    if not bool(annotated.any()):
        return (logits * 0).sum()
    if kind == "categorical":
        return torch.distributions.Categorical(logits=logits[annotated]).log_prob(label[annotated]).sum()
    return torch.distributions.Bernoulli(logits=logits[annotated]).log_prob(label[annotated].to(logits.dtype)).sum()


def squared_gradients(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    """The squares of the gradients of ``value`` by parameter name, zero where it does not depend on one."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient.square()
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
    }


def naive_fisher(
    model: nn.Module,
    forward: Callable[[nn.Module, dict[str, Tensor]], Tensor],
    batches: list[tuple[dict[str, Tensor], Tensor | None]],
    kind: str,
    labels_from: str,
) -> dict[str, Tensor]:
    """The Fisher diagonal by its definition: one example and one label at a time."""
    total: dict[str, Tensor] = {}
    count = 0
    for batch, labels in batches:
        for index in range(len(batch["input_ids"])):
            logits = forward(model, {name: value[index : index + 1] for name, value in batch.items()})[0]
            label = None if labels is None else labels[index]
            if labels_from == "expectation":
                weighted = list(outcomes(logits.detach(), kind))
            elif labels_from == "true":
                assert label is not None
                weighted = [(1.0, label)]
            else:
                weighted = [(1.0, max(outcomes(logits.detach(), kind), key=lambda outcome: outcome[0])[1])]
            for probability, outcome in weighted:
                if label is not None and kind != "gaussian":
                    outcome = outcome.masked_fill(label == -100, -100)
                for name, square in squared_gradients(model, log_probability(logits, outcome, kind)).items():
                    total[name] = total.get(name, torch.zeros(())) + probability * square
            count += 1
    return {name: value / count for name, value in total.items()}
