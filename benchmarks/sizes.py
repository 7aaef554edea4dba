"""What the statistics of published architectures take, computed from their shapes: ``python -m benchmarks.sizes``.

Models are made without weights (on the device "meta"), so that no size is too large. Nothing is measured here; times
follow from a speed that is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    DebertaV2Config,
    LlamaConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
)

from regmean_lab.statistics import linear_layers
from regmean_lab.statistics.block_passes import find_blocks
from regmean_lab.statistics.gradient_gram import WIDEST_OUTPUT

FLOAT_BYTES = 4
TOKENS = 7
"""Of the sentence that is looked at."""

WIDE = 16384
"""Inputs wider than this are worth leaving out: their matrices take more than a GB each."""

FISHER_PASSES = 4
"""Fisher information of two classes in units of a forward pass: that, the backward pass, and products by example."""

EXAMPLES, LENGTH = 1000, 128
"""What times are computed for: examples of a member, and real tokens of each."""

CONFIGURATIONS: dict[str, PreTrainedConfig] = {
    "RoBERTa-base": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "DeBERTa-v3-large": DebertaV2Config.from_dict(
        {
            "vocab_size": 128100,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        }
    ),
    "T5-11B": T5Config(vocab_size=32128, d_model=1024, d_kv=128, d_ff=65536, num_layers=24, num_heads=128),
    "a decoder of 7B (Llama 2)": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    ),
}

DECODERS: dict[str, PreTrainedConfig] = {
    "a decoder of 1.1B (TinyLlama)": LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
    ),
    "a decoder of 8B (Llama 3)": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
}
"""What is collected block by block, with output layers."""

NUMBER_BYTES = {"bf16-true": 2, "32-true": 4}
"""Bytes of a parameter, by the precision in which a model is run."""

WAITING_ROWS = 2048
"""Rows of each input that wait for a product on a GPU, at most (wide ones; fewer of narrow ones)."""

COLUMNS = (
    "outside of blocks",
    "a block",
    "its matrices",
    "a batch",
    "device",
    "activations held",
    "main memory",
    "file, packed",
)


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of an architecture of which one block at a time is on the device; of blocks those of the largest.

    Attributes:
        outside: number of parameters in no block.
        block: number of parameters of a block.
        widths: of the distinct inputs of a block's linear layers.
        outputs: number of outputs of all of a block's linear layers.
        hidden: number of outputs of a block.
        vocabulary: number of outputs of the output layer.
        largest: number of elements of the largest parameter.
        file_entries: number of entries of all matrices.
        multiplied: number of parameters in linear layers.
    """

    outside: int
    block: int
    widths: list[int]
    outputs: int
    hidden: int
    vocabulary: int
    largest: int
    file_entries: int
    multiplied: int

    def operations(self, tokens: int) -> int:
        """Floating-point operations of the forward pass and of the upper triangles of products."""
        return tokens * (2 * self.multiplied + self.file_entries)

    def taken(self, tokens: int, batch_tokens: int, number: int) -> dict[str, float]:
        """Bytes that it takes, by `COLUMNS`, with parameters and activations of ``number`` bytes; matrices are float32.

        A batch is all that a block's linear layers give, at once, and the rows of its widest input, and those that wait
        for a product; or the logits, whichever is more. In main memory are what all blocks give, the matrices of a
        block, the triangle of its widest one, and the tensor that is read; the program itself comes on top.
        """
        entries = sum(width * width for width in self.widths)
        rows = batch_tokens * max(self.widths) + WAITING_ROWS * sum(self.widths)
        in_block = number * batch_tokens * (self.outputs + 2 * self.hidden) + FLOAT_BYTES * rows
        at_end = number * batch_tokens * (self.vocabulary + 2 * self.hidden) + FLOAT_BYTES * batch_tokens * self.hidden
        matrices, batch = FLOAT_BYTES * entries, max(in_block, at_end)
        outside, block = number * self.outside, number * self.block
        held = number * tokens * self.hidden
        triangle = FLOAT_BYTES * max(self.widths) ** 2 / 2
        sizes = (
            *(outside, block, matrices, batch, outside + block + matrices + batch),
            *(held, held + matrices + triangle + number * self.largest, FLOAT_BYTES * self.file_entries / 2),
        )
        return dict(zip(COLUMNS, sizes, strict=True))


@dataclass(frozen=True)
class Sizes:
    """Sizes of an architecture without its head.

    Attributes:
        parameters: number of parameters.
        multiplied: number of those in linear layers.
        widths: of the distinct inputs of linear layers.
        shapes: inputs and outputs of the linear layers.
        largest: number of elements of the largest parameter.
    """

    parameters: int
    multiplied: int
    widths: list[int]
    shapes: list[tuple[int, int]]
    largest: int = 0

    @property
    def merge_bytes(self) -> int:
        """Most memory of a RegMean merge beside the merged model: six matrices, or four tensors of a parameter."""
        return FLOAT_BYTES * max(6 * max(self.widths) ** 2 + 4 * self._widest_weight, 4 * self.largest)

    @property
    def _widest_weight(self) -> int:
        return max(n * m for n, m in self.shapes if n == max(self.widths))

    @property
    def gram_bytes(self) -> int:
        """Gram matrices of distinct inputs, whole, float32."""
        return FLOAT_BYTES * sum(width * width for width in self.widths)

    @property
    def gradient_gram_bytes(self) -> int:
        """Gram matrices of the gradients at outputs, without the widest, which are left out by default."""
        return FLOAT_BYTES * sum(outputs * outputs for _, outputs in self.shapes if outputs <= WIDEST_OUTPUT)

    @property
    def gram_operations(self) -> int:
        """Floating-point operations a token: the forward pass, and the upper triangles of the products."""
        return 2 * self.multiplied + sum(width * (width + 1) for width in self.widths)

    @property
    def solve_operations(self) -> float:
        """Operations of a RegMean merge of two members: a Cholesky factor an input width, products and solutions.

        A layer with inputs n and outputs m takes n³ / 3 for the factor, 2 n² m for the product of one member (the other
        one's is its negative, as differences from the mean) and 2 n² m to solve.
        """
        return sum(n**3 / 3 + 4 * n * n * m for n, m in self.shapes)


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """Sizes of an architecture: which layers share their inputs is seen in a forward pass without values."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    model.config.pad_token_id = None  # models would look for padding in the input, which has no values
    weights = [layer.get_parameter("weight") for layer in linear_layers(model).values()]
    return Sizes(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiplied=sum(weight.numel() for weight in weights),
        widths=list(distinct_inputs(model, config).values()),
        shapes=[(weight.shape[1], weight.shape[0]) for weight in weights],
        largest=max(parameter.numel() for parameter in model.parameters()),
    )


def block_sizes_of(config: PreTrainedConfig) -> BlockSizes:
    """Sizes of a decoder, of which one block at a time is on the device."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.config.pad_token_id = None
    inputs = distinct_inputs(model, config)
    blocks = find_blocks(model)
    in_blocks = {id(part) for block in blocks.values() for part in block.parameters()}
    name, block = max(blocks.items(), key=lambda item: sum(part.numel() for part in item[1].parameters()))
    outputs = [layer.get_parameter("weight").shape[0] for layer in linear_layers(block).values()]
    return BlockSizes(
        outside=sum(part.numel() for part in model.parameters() if id(part) not in in_blocks),
        block=sum(part.numel() for part in block.parameters()),
        widths=[width for layer, width in inputs.items() if layer.startswith(f"{name}.")],
        outputs=sum(outputs),
        hidden=model.get_output_embeddings().in_features,
        vocabulary=model.get_output_embeddings().out_features,
        largest=max(part.numel() for part in model.parameters()),
        file_entries=sum(width * width for width in inputs.values()),
        multiplied=sum(layer.get_parameter("weight").numel() for layer in linear_layers(model).values()),
    )


def distinct_inputs(model: nn.Module, config: PreTrainedConfig) -> dict[str, int]:
    """The widths of the distinct inputs of a model's linear layers, by the layer that is called first with each."""
    inputs: dict[int, tuple[Tensor, str]] = {}
    ids = torch.ones(1, TOKENS, dtype=torch.long, device="meta")

    def keep(name: str, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments[0].shape[:-1] in ((1, TOKENS), (1,)):  # not the relative positions of DeBERTa
            inputs.setdefault(id(arguments[0]), (arguments[0], name))  # kept alive, so that ids stay distinct

    handles = [layer.register_forward_pre_hook(partial(keep, name)) for name, layer in linear_layers(model).items()]
    decoder = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
    with torch.no_grad():
        model.eval()(input_ids=ids, **decoder)
    for handle in handles:
        handle.remove()
    return {name: tensor.shape[-1] for tensor, name in inputs.values()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print three tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--speed", type=float, default=100.0, help="floating-point operations a second, in 10⁹")
    parser.add_argument(
        "--batch-tokens", type=int, default=16384, help="tokens of a batch where blocks are on the device one by one"
    )
    parser.add_argument("--precision", choices=sorted(NUMBER_BYTES), default="bf16-true", help="of those models")
    options = parser.parse_args(arguments)
    speed = options.speed * 1e9
    print("| model | parameters | distinct inputs | Gram, full | packed | gradient Gram | Fisher | widest matrix |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    lines = []
    for name, config in CONFIGURATIONS.items():
        sizes = sizes_of(config)
        lines += [(name, sizes)]
        if max(sizes.widths) > WIDE:
            lines += [(f"{name} without inputs wider than {WIDE}", without_wide(sizes))]
    for name, sizes in lines:
        cells = [
            f"{sizes.parameters / 1e9:.3g} · 10⁹",
            str(len(sizes.widths)),
            _gigabytes(sizes.gram_bytes),
            _gigabytes(sizes.gram_bytes / 2),
            _gigabytes(sizes.gradient_gram_bytes),
            _gigabytes(FLOAT_BYTES * sizes.parameters),
            _gigabytes(FLOAT_BYTES * max(sizes.widths) ** 2),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nOperations, and times at {speed / 1e9:g} GF/s; {EXAMPLES} examples of {LENGTH} tokens:\n")
    print("| model | forward pass | Gram | Gram / forward | Fisher, two classes | RegMean of two members |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, sizes in lines:
        tokens = EXAMPLES * LENGTH
        forward, gram = 2 * sizes.multiplied * tokens, sizes.gram_operations * tokens
        cells = [_work(forward, speed), _work(gram, speed), f"{gram / forward:.2f}"]
        cells += [_work(FISHER_PASSES * forward, speed), _work(sizes.solve_operations, speed)]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nMemory of a device, without activations, and what a merge of two reads and writes in bfloat16:\n")
    print("| model | collecting Gram matrices | collecting Fisher information | merging by RegMean | `simple` of two |")
    print("|---|---:|---:|---:|---:|")
    for name, sizes in lines:
        weights = FLOAT_BYTES * sizes.parameters
        parts = (weights + sizes.gram_bytes, 2 * weights, weights + sizes.merge_bytes, 3 * weights / 2)
        print(f"| {name} | {' | '.join(_gigabytes(part) for part in parts)} |")
    print(
        f"\nGram matrices block by block, in {options.precision}: {EXAMPLES} examples of {LENGTH} tokens, batches of "
        f"{options.batch_tokens}:\n"
    )
    print(f"| model | {' | '.join(COLUMNS)} | operations |")
    print(f"|---|{'---:|' * (len(COLUMNS) + 1)}")
    for name, config in DECODERS.items():
        blocks = block_sizes_of(config)
        taken = blocks.taken(EXAMPLES * LENGTH, options.batch_tokens, NUMBER_BYTES[options.precision])
        work = _work(blocks.operations(EXAMPLES * LENGTH), speed)
        print(f"| {name} | {' | '.join(map(_gigabytes, taken.values()))} | {work} |")
    return 0


def without_wide(sizes: Sizes) -> Sizes:
    """The same, where layers with inputs wider than `WIDE` are averaged and need no Gram matrix."""
    return replace(
        sizes,
        widths=[width for width in sizes.widths if width <= WIDE],
        shapes=[shape for shape in sizes.shapes if shape[0] <= WIDE],
    )


def _work(operations: float, speed: float) -> str:
    return f"{operations / 1e15:.3g} · 10¹⁵, {_seconds(operations / speed)}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
