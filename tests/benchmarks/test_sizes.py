"""Sizes computed without weights are those of the model that is made, and of the statistics that are collected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig, T5Config

from benchmarks.sizes import (
    COLUMNS,
    FLOAT_BYTES,
    WAITING_ROWS,
    WIDE,
    Sizes,
    block_sizes_of,
    main,
    sizes_of,
    without_wide,
)
from regmean_lab.statistics import HeldOutputs, collect_gradient_gram, collect_gram, gram_by_blocks

COMMON = {"vocab_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = BertConfig(hidden_size=8, intermediate_size=12, **COMMON)


def test_sizes_are_those_of_what_is_collected() -> None:
    sizes = sizes_of(BERT)
    model = AutoModel.from_config(BERT).eval()
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3)}
    gram = collect_gram(model, [batch])
    assert sorted(sizes.widths) == sorted(len(matrix) for matrix in gram.matrices.values())
    assert sizes.gram_bytes == sum(matrix.numel() for matrix in gram.matrices.values()) * FLOAT_BYTES
    gradients = collect_gradient_gram(
        model, [batch], forward=lambda model, batch: model(**batch).pooler_output, labels_from="pseudo"
    )
    assert sizes.gradient_gram_bytes == sum(matrix.numel() for matrix in gradients.matrices.values()) * FLOAT_BYTES
    assert sizes.largest == max(parameter.numel() for parameter in model.parameters())
    assert sizes.merge_bytes == FLOAT_BYTES * 4 * 512 * 8  # of so small a model positions take most
    # Two layers of four distinct inputs, and the pooler's: multiplications and additions of a token.
    assert sizes.gram_operations == 2 * sizes.multiplied + 2 * (3 * 8 * 9 + 12 * 13) + 8 * 9


def test_keys_and_values_of_all_cross_attentions_share_the_encoders_output() -> None:
    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0)
    # Encoder: q k v, o, wi, wo; decoder: q k v, o, q, o, wi, wo; and the encoder's output.
    assert len(sizes_of(config).widths) == 2 * 4 + 2 * 6 + 1


def test_wide_layers_are_left_out() -> None:
    sizes = Sizes(10, 10, [WIDE, 2 * WIDE], [(WIDE, 4), (2 * WIDE, 4)])
    left = without_wide(sizes)
    assert (left.widths, left.shapes) == ([WIDE], [(WIDE, 4)])
    assert left.gram_bytes == FLOAT_BYTES * WIDE**2
    assert left.merge_bytes == FLOAT_BYTES * (6 * WIDE**2 + 4 * 4 * WIDE)
    assert left.solve_operations == pytest.approx(WIDE**3 / 3 + 16 * WIDE**2)


def test_sizes_of_blocks_are_those_of_what_is_collected(tmp_path: Path) -> None:
    config = LlamaConfig(**COMMON, hidden_size=8, intermediate_size=12, num_key_value_heads=1)
    sizes = block_sizes_of(config)
    model = AutoModelForCausalLM.from_config(config).eval()
    held = HeldOutputs(tmp_path, 10**9)
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3)}
    parts = list(gram_by_blocks(model, [batch], held))
    first = parts[0].statistics
    assert first is not None
    assert sorted(sizes.widths) == sorted(len(matrix) for matrix in first.matrices.values())
    matrices = [matrix for part in parts if part.statistics for matrix in part.statistics.matrices.values()]
    assert sizes.file_entries == sum(matrix.numel() for matrix in matrices)
    block = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    assert sizes.block == block
    assert sizes.outside == sum(parameter.numel() for parameter in model.parameters()) - 2 * block
    taken = sizes.taken(tokens=6, batch_tokens=6, number=2)
    assert sizes.taken(tokens=6, batch_tokens=6, number=4)["activations held"] == held.memory_bytes
    assert taken["activations held"] == held.memory_bytes / 2
    assert taken["its matrices"] == FLOAT_BYTES * (3 * 64 + 144)
    assert taken["a block"] == 2 * block
    outputs = 8 + 4 + 4 + 8 + 12 + 12 + 8
    rows = 6 * 12 + WAITING_ROWS * (3 * 8 + 12)
    assert taken["a batch"] == 2 * 6 * (outputs + 2 * 8) + FLOAT_BYTES * rows
    assert sizes.operations(1) == 2 * (2 * 8 * (8 + 4 + 4 + 8 + 12 + 12) + 2 * 12 * 8 + 8 * 20) + sizes.file_entries
    assert taken["device"] == sum(taken[column] for column in COLUMNS[:4])


def test_tables_are_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.sizes.CONFIGURATIONS", {"small": BERT})
    decoder = LlamaConfig(**COMMON, hidden_size=8, intermediate_size=12)
    monkeypatch.setattr("benchmarks.sizes.DECODERS", {"a small decoder": decoder})
    assert main(["--speed", "1", "--batch-tokens", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("| small |")] != []
    assert len([line for line in lines if line.startswith("| a small decoder |")]) == 1
    assert "1 GF/s" in "\n".join(lines)
