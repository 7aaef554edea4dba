"""Texts of a file, without labels, as batches for a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader

from regmean_lab.suites.base import DataError, Task
from regmean_lab.suites.pseudo_text import PseudoExample, example_loader
from regmean_lab.suites.sampling import seeded_subset
from regmean_lab.suites.tables.columns import choose_columns, examples_of
from regmean_lab.suites.tables.table import read_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS = Task("unlabelled", ("texts",), "loss")


def read_texts(path: Path, key: str = "data") -> list[str]:
    """The texts of a file (txt, csv, tsv, jsonl, json, parquet), of the column with the obvious name.

    Args:
        path: the file.
        key: the setting that names it, for messages.

    Raises:
        DataError: when it cannot be read, or has no texts.
    """
    table = read_table(str(path), key=key)
    columns = choose_columns(table, _TEXTS, text=None, target=None, label=None, has_encoder=False, needs_label=False)
    texts = [example.text for example in examples_of(table, columns, _TEXTS)]
    if not any(text.strip() for text in texts):
        raise DataError(f"{key}: {path} has no texts")
    return texts


def plain_loader(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    examples: int,
    batch_tokens: int,
    max_length: int | None = None,
) -> DataLoader[PseudoExample]:
    """Batches of some of the texts: those of the first ``examples`` of a seeded permutation; fewer are part of more.

    Args:
        texts: the texts.
        tokenizer: of the model that reads.
        seed: which texts.
        examples: how many at most.
        batch_tokens: most tokens in a batch, padding included.
        max_length: texts are cut to this many tokens; None cuts nothing.
    """
    chosen = [texts[number] for number in seeded_subset(len(texts), examples, seed)]
    encoded = tokenizer(chosen, truncation=max_length is not None, max_length=max_length, return_attention_mask=True)
    rows = [PseudoExample({name: column[n] for name, column in encoded.items()}) for n in range(len(chosen))]
    return example_loader([row for row in rows if row.length], tokenizer, batch_tokens)
