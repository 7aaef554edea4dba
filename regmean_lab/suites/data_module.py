"""The Lightning data module of a suite: loaders for training, validation, evaluation and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler

from regmean_lab.statistics import rank, world_size
from regmean_lab.suites.base import DataError, Example, Split, Suite, Task
from regmean_lab.suites.batch_sampling import (
    BatchShares,
    LengthGroupedBatchSampler,
    RemainingBatches,
    TokenBudgetBatchSampler,
)
from regmean_lab.suites.encoded import encode_once
from regmean_lab.suites.encoding import Collator, Encoded, EncodedExample, encoding_of
from regmean_lab.suites.evaluations import Evaluation
from regmean_lab.suites.sampling import seeded_permutation, seeded_subset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batches = DataLoader[dict[str, Tensor]]
"""A loader of batches as :class:`~regmean_lab.suites.encoding.Collator` makes them."""


def example_order(loader: Batches) -> list[int]:
    """Which example each row of a loader's output belongs to: the i-th row comes from example ``order[i]``.

    For a training loader this is the order of its current epoch.

    Args:
        loader: a loader of :class:`CorpusDataModule`.
    """
    sampler = loader.batch_sampler
    if not isinstance(sampler, LengthGroupedBatchSampler):
        raise TypeError(f"expected a loader of CorpusDataModule, got one with a {type(sampler).__name__}")
    return sampler.order


def own_share(sampler: Sampler[list[int]]) -> Sampler[list[int]]:
    """This process's share of all batches, in a process group; otherwise the sampler itself."""
    return BatchShares(sampler, rank(), world_size()) if world_size() > 1 else sampler


class CorpusDataModule(pl.LightningDataModule):
    """Loaders over one suite.

    Training batches are grouped by length and in random order. All other loaders are sorted by length, longest
    first; :func:`example_order` tells the order. Tokenised examples are kept for the life of the data module.

    Args:
        suite: where examples come from.
        tokenizer: tokenizer of the model; ``pad_token`` must be set.
        batch_size: examples in a training batch.
        eval_batch_size: examples in a batch of validation and evaluation.
        max_length: inputs are cut to this many tokens; None cuts nothing.
        seed: determines the order of the training batches.
        train_corpora: corpora of :meth:`train_dataloader`, together, and of :meth:`val_dataloader`, one loader each;
            they share one task. Empty if nothing is trained.
        evaluations: corpora of :meth:`test_dataloader`.
        num_workers: processes that collate batches; 0 collates in this process.
        pad_to_multiple_of: see :class:`~regmean_lab.suites.encoding.Collator`.
    """

    def __init__(
        self,
        suite: Suite,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        eval_batch_size: int,
        max_length: int | None,
        seed: int,
        train_corpora: Sequence[str] = (),
        evaluations: Sequence[Evaluation] = (),
        num_workers: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        super().__init__()
        self.suite = suite
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_length = max_length
        self.seed = seed
        self.train_corpora = tuple(train_corpora)
        self.evaluations = list(evaluations)
        self.num_workers = num_workers
        self.pad_to_multiple_of = pad_to_multiple_of
        self._first: tuple[int, int] | None = None
        self._splits: dict[tuple[str, Split], list[Encoded]] = {}
        self._evaluations: dict[tuple[int, Task], list[Encoded]] = {}

    def go_on_from(self, epoch: int, batches: int) -> None:
        """Have training begin within this epoch (from 0), after this many of its batches.

        Lightning asks for the loader, whose processes are given batches at once, before it restores its own counts.
        """
        self._first = epoch, batches

    def train_dataloader(self) -> Batches:
        """Training splits of ``train_corpora``: grouped by length, another order every epoch.

        In a process group, each process gets its share of every batch.
        """
        corpora = self._require_train_corpora()
        examples = [example for corpus in corpora for example in self._split(corpus, "train")]
        sampler = self._sampler(examples, self.batch_size, shuffle=True)
        return self._loader(examples, self.suite.task(corpora[0]), self._training_order(sampler))

    def val_dataloader(self) -> list[Batches]:
        """Dev splits of ``train_corpora``, one loader each."""
        loaders = []
        for corpus in self._require_train_corpora():
            examples = self._split(corpus, "dev")
            sampler = self._sampler(examples, self.eval_batch_size)
            loaders.append(self._loader(examples, self.suite.task(corpus), sampler))
        return loaders

    def test_dataloader(self) -> list[Batches]:
        """One loader for each evaluation, in their order; those of the same list of examples share theirs."""
        loaders: dict[tuple[int, Task], Batches] = {}
        for evaluation in self.evaluations:
            key = (id(evaluation.examples), evaluation.task)
            if key not in self._evaluations:
                if not evaluation.examples:
                    raise DataError(f"evaluation {evaluation.name}: no examples of {evaluation.corpus}.")
                self._evaluations[key] = self._encode(evaluation.examples, evaluation.task)
            if key not in loaders:
                encoded = self._evaluations[key]
                loaders[key] = self._loader(encoded, evaluation.task, self._sampler(encoded, self.eval_batch_size))
        return [loaders[id(evaluation.examples), evaluation.task] for evaluation in self.evaluations]

    def statistics_dataloader(
        self,
        corpus: str,
        examples: int | None,
        batch_size: int,
        seed: int | None = None,
        *,
        tokens: int | None = None,
        batch_tokens: int | None = None,
        part: tuple[int, int] | None = None,
        drawn_order: bool = False,
    ) -> Batches:
        """Training examples from which a member's statistics are collected.

        Args:
            corpus: the member.
            examples: how many: the first of a seeded permutation of the training split (all, if None or if the split
                has fewer), so that fewer examples are part of more.
            batch_size: examples in a batch.
            seed: seed of the permutation; None takes the data module's.
            tokens: stop taking examples of the permutation once they have this many tokens.
            batch_tokens: make batches of at most this many tokens, padding included, in place of ``batch_size``.
            part: of the examples chosen so far, in the order of the permutation, only those from the first number to
                below the second.
            drawn_order: make batches in the order of the permutation, each padded to its longest example, rather than
                of examples of like length.
        """
        encoded = self._split(corpus, "train")
        seed = self.seed if seed is None else seed
        if tokens is None and part is None and not drawn_order:
            chosen = seeded_subset(len(encoded), examples, seed)
        else:
            order = seeded_permutation(len(encoded), seed)[:examples]
            if tokens is not None:
                before = accumulate((encoded[index].length for index in order), initial=0)
                order = [index for index, count in zip(order, before, strict=False) if count < tokens]
            chosen = order if part is None else order[slice(*part)]
        sample = [encoded[index] for index in chosen]
        sampler: Sampler[list[int]] | BatchSampler
        if drawn_order:
            sampler = BatchSampler(SequentialSampler(sample), batch_size, drop_last=False)
        elif batch_tokens is None:
            sampler = self._sampler(sample, batch_size)
        else:
            sampler = TokenBudgetBatchSampler([example.length for example in sample], batch_tokens)
        return self._loader(sample, self.suite.task(corpus), sampler)

    def _training_order(self, sampler: Any) -> Sampler[list[int]]:
        """This process's share of the training batches of a sampler, from where training goes on."""
        epoch, batches = self._first or (self._epoch_of_trainer(), 0)
        sampler.set_epoch(epoch)
        return own_share(RemainingBatches(sampler, batches) if batches else sampler)

    def _epoch_of_trainer(self) -> int:
        """The epoch from which a trainer goes on whose loops are restored before it asks for the loader."""
        if self.trainer is None:
            return 0
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        return int(epochs.processed)

    def _require_train_corpora(self) -> tuple[str, ...]:
        if not self.train_corpora:
            raise ValueError("train_corpora is empty: this data module has no training and no validation data.")
        return self.train_corpora

    def _split(self, corpus: str, split: Split) -> list[Encoded]:
        if (corpus, split) not in self._splits:
            examples = self.suite.examples(corpus, split)
            if not examples:
                raise DataError(f"suite {self.suite.name}: no examples in the {split} split of {corpus}.")
            self._splits[corpus, split] = self._encode(examples, self.suite.task(corpus))
        return self._splits[corpus, split]

    def _encode(self, examples: Sequence[Example], task: Task) -> list[Encoded]:
        return encode_once(examples, task, self.tokenizer, self.max_length)

    def _sampler(self, examples: list[Encoded], batch_size: int, shuffle: bool = False) -> LengthGroupedBatchSampler:
        return LengthGroupedBatchSampler([example.length for example in examples], batch_size, self.seed, shuffle)

    def _loader(self, examples: list[Encoded], task: Task, sampler: Sampler[list[int]]) -> Batches:
        _, make_collator = encoding_of(task)
        collate = make_collator(self.tokenizer, task, self.pad_to_multiple_of)
        # Of the columns, not of single examples: all of them have two texts, or none has.
        if isinstance(collate, Collator) and examples and isinstance(first := examples[0], EncodedExample):
            collate.texts = first.texts
        return DataLoader(
            examples,  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
