"""A model, its batches, and what one of several processes does with its share of them; run by a test as a script."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regmean_lab.statistics import (
    StatisticsError,
    TokensConfig,
    TokenStatistics,
    Vocabulary,
    collect_fisher,
    collect_gradient_gram,
    collect_gram,
    collect_tokens,
    collect_weighted_gram,
    save_fisher,
    save_gradient_gram,
    save_gram,
    save_tokens,
    save_weighted_gram,
)

KINDS = ("gram", "fisher", "gradient_gram", "weighted_gram")
SAVE: dict[str, Any] = {
    "gram": save_gram,
    "fisher": save_fisher,
    "gradient_gram": save_gradient_gram,
    "weighted_gram": save_weighted_gram,
}


class Reader(nn.Module):
    """An embedding, three layers with one input, a layer norm, a mean over real tokens, a layer; and a rare one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.LayerNorm(6)
        self.rare = nn.Linear(6, 6)
        self.output = nn.Linear(6, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor, rare: Tensor) -> Tensor:
        hidden = self.table(ids)
        mixed = self.query(hidden) * self.key(hidden).tanh() + self.value(hidden)
        if rare.any():  # only some batches call it: not every process has rows for it, nor the same sharing
            mixed = mixed + self.rare(hidden)
        hidden = self.norm(mixed).tanh()
        real = attention_mask.unsqueeze(-1)
        logits: Tensor = self.output((hidden * real).sum(1) / real.sum(1))
        return logits


def model() -> Reader:
    torch.manual_seed(0)
    return Reader().eval()


def batches(count: int = 5) -> list[dict[str, Tensor]]:
    """Batches of different sizes, with padding; only the second one calls the rare layer."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(count):
        size, width = 2 + number % 3, 3 + number
        lengths = torch.randint(1, width + 1, (size, 1), generator=generator)
        made.append(
            {
                "ids": torch.randint(0, 11, (size, width), generator=generator),
                "attention_mask": (torch.arange(width) < lengths).long(),
                "rare": torch.full((size,), number == 1),
                "labels": torch.randint(0, 3, (size,), generator=generator),
            }
        )
    return made


def collect(kind: str, shares: list[dict[str, Tensor]], **settings: Any) -> Any:
    collectors: dict[str, Any] = {
        "gram": collect_gram,
        "fisher": collect_fisher,
        "gradient_gram": collect_gradient_gram,
        "weighted_gram": collect_weighted_gram,
    }
    return collectors[kind](model(), shares, **settings)


def count(shares: list[dict[str, Tensor]], **settings: Any) -> TokenStatistics:
    """Tokens and pairs of them; 0 and 1 are special."""
    vocabulary = Vocabulary(tuple("abcdefghijk"), frozenset({0, 1}), frozenset({0, 1}), pair_frame=(1,))
    renamed = [{"input_ids": batch["ids"], "attention_mask": batch["attention_mask"]} for batch in shares]
    return collect_tokens(renamed, vocabulary, TokensConfig(minimum_count=2, pairs=True), **settings)


def pairs() -> list[dict[str, Tensor]]:
    """Pairs of texts with 1 between them, some of them twice."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(2, 6, (5, 6, 7), generator=generator)
    rows[:, :, 3] = 1
    rows[4, :3] = rows[0, :3]
    return [{"ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]


def main(rank: int, processes: int, folder: Path) -> None:
    """Collect every kind with a share of the batches; then see that what is not sound is an error in every process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=processes
    )
    for kind in KINDS:
        own = collect(kind, batches()[rank::processes], across_processes=True)
        SAVE[kind](folder / f"{kind}-{rank}.safetensors", own, {})
    counted = count(batches()[rank::processes], across_processes=True)
    save_tokens(folder / f"tokens-{rank}.safetensors", counted, {})
    related = count(pairs()[rank::processes], texts_per_example=2, across_processes=True)
    save_tokens(folder / f"related-{rank}.safetensors", related, {})
    # A process for which there is no batch at all.
    alone = count(batches() if rank == 1 else [], across_processes=True)
    save_tokens(folder / f"alone-{rank}.safetensors", alone, {})
    # Every text is there twice, in a process each.
    twice = count((2 * batches())[rank::processes], across_processes=True)
    save_tokens(folder / f"twice-{rank}.safetensors", twice, {})
    few = collect("gram", batches(2)[:1] if rank == 0 else [], layers=["query", "value"], across_processes=True)
    save_gram(folder / f"few-{rank}.safetensors", few, {})
    broken = batches()[rank::processes]
    weights = model()
    with torch.no_grad():
        if rank == 1:
            weights.key.weight[0, 0] = torch.nan
    try:
        collect_gram(weights, broken, layers=["key", "output"], across_processes=True)
    except StatisticsError as error:
        (folder / f"error-{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
