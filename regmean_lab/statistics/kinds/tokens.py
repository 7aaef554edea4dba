"""Counts of tokens: collection and files. What is drawn from them: :mod:`regmean_lab.statistics.pseudo_text`.

A file holds ``counts`` [labels, tokens] and ``lengths`` [ranges, 3], the tokens themselves as ``tokens`` (a JSON list,
compressed by zlib, uint8), ``pairs`` [pairs, 3] where they were counted, and of pairs of texts ``first_shares`` and
``overlaps`` [10] each (files of earlier versions lack them); numbers are uint16 where they fit, else
int32. Metadata has ``vocabulary`` (what :meth:`Vocabulary.describe` says), ``parts`` (texts an example), ``privacy``
(what a guarantee is; empty without one) and ``thresholds`` (:data:`DIFFERENT`: what is told is told by texts of which
none repeats another one; files of earlier versions lack it).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regmean_lab.statistics.batches import Batch
from regmean_lab.statistics.errors import StatisticsError
from regmean_lab.statistics.forms import Form
from regmean_lab.statistics.kinds.base import Collection, Kind, ModelSize, TaskModel, register_kind
from regmean_lab.statistics.store import Json, StatisticsFile, write_statistics
from regmean_lab.statistics.token_counter import Privacy, TokenAccumulator, TokenStatistics
from regmean_lab.statistics.token_counts import PAIR_HISTOGRAMS, TokenCounts
from regmean_lab.statistics.token_settings import TokensConfig
from regmean_lab.statistics.vocabulary import Vocabulary

MOST_BYTES = 1 << 26
"""Largest list of tokens that a file may hold."""

DIFFERENT = "different texts"

OF_PAIRS_OF_TEXTS = (
    " Of pairs of texts it tells how many percent have up to a tenth, two tenths and so on of their tokens in the "
    "first text, and of how many as much of the second text is in the first one, each tenth of at least {minimum} "
    "different pairs."
)
"""What counts of pairs of texts reveal beside it."""

DESCRIBED = {"digest": str, "size": int, "mark": str, "algorithm": str}


class TokensFile(StatisticsFile):
    """A file of counts of tokens, read and checked as a whole.

    Attributes:
        counts: the counts.

    Raises:
        StatisticsError: for one that is damaged, or that cannot be counts.
    """

    kind = "tokens"
    stored_types = ("U8", "U16", "I32")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if lacking := [name for name in ("counts", "lengths", "tokens") if name not in self.shared]:
            raise self._fault(f"tensor {', '.join(lacking)} missing")
        vocabulary = self.metadata.get("vocabulary")
        if not isinstance(vocabulary, dict) or not all(
            isinstance(vocabulary.get(name), kind) for name, kind in DESCRIBED.items()
        ):
            raise self._fault("metadata 'vocabulary' does not describe a tokenizer's")
        pairs = self.read("pairs").long() if "pairs" in self.shared else None
        counts, lengths = (self.read(name).long() for name in ("counts", "lengths"))
        shares = {name: self.read(name).long() for name in PAIR_HISTOGRAMS if name in self.shared}
        parts = self.metadata.get("parts", 1)
        self.counts = TokenCounts(self._tokens(), counts, lengths, dict(vocabulary), pairs, parts, **shares)
        if faults := self.counts.faults():
            raise self._fault("; ".join(faults))

    @property
    def privacy(self) -> dict[str, Any]:
        """What its guarantee of differential privacy is; empty without one."""
        return dict(self.metadata.get("privacy") or {})

    def _fault(self, fault: str) -> StatisticsError:
        return StatisticsError(f"{self.path}: {fault}; have its tokens counted again")

    def _tokens(self) -> tuple[str, ...]:
        try:
            stored = bytes(self.read("tokens").to(torch.uint8).flatten().tolist())
            text = zlib.decompressobj().decompress(stored, MOST_BYTES)
            listed = json.loads(text)
        except (zlib.error, ValueError) as error:
            raise self._fault(f"its list of tokens cannot be read ({error})") from None
        if not isinstance(listed, list) or not all(isinstance(token, str) for token in listed):
            raise self._fault("its list of tokens is no list of texts")
        return tuple(listed)


class TokensCollection(Collection):
    """Counts of the tokens that a task's model reads."""

    def __init__(self, module: TaskModel, settings: TokensConfig) -> None:
        self._by_label = settings.by_label
        labels = module.label_count() if settings.by_label else 1
        super().__init__(module, accumulator_of(module.vocabulary(), settings, labels, module.texts_per_example()))

    def add(self, batch: Batch) -> None:
        """Count a batch; the model runs where its labels are asked for."""
        labels = self.module.predicted_labels(batch) if self._by_label else None
        assert isinstance(self.accumulator, TokenAccumulator)
        self.accumulator.add(batch["input_ids"], batch.get("attention_mask"), labels)


@register_kind
class TokensKind(Kind):
    """How often tokens occur, and how long texts are."""

    name = "tokens"
    of = "texts"
    settings = TokensConfig
    file = TokensFile
    title = "counts of tokens and lengths of texts: pseudo-text for methods that read text"
    method = "regmean_sequential method.start=simple method.text=pseudo"
    reveals = (
        "Counts of tokens tell which words the texts have and how often, and about how long the texts are: topics, "
        "names and habits that many of them share. A word, or a range of lengths, of fewer than {minimum} different "
        "texts is not told; order and combinations of words are not{pairs}. Texts of one author count as several."
    )
    forward_rows = False
    runs_model = False
    place = 10

    def collection(
        self, module: TaskModel, settings: Any, layers: Sequence[str] | None, experts: bool
    ) -> TokensCollection:
        """See :class:`Kind`."""
        return TokensCollection(module, settings)

    def save(
        self,
        path: str | os.PathLike[str],
        statistics: TokenStatistics,
        metadata: Mapping[str, Json],
        *,
        form: Form = "full",
        rank: int | None = None,
    ) -> None:
        """As `save_tokens` does; there is one form only."""
        save_tokens(path, statistics, metadata)

    def rows_of(self, statistics: Any) -> dict[str, int]:
        """None: nothing is a mean of rows."""
        return {}

    def widths_of(self, statistics: Any) -> dict[str, int]:
        """None."""
        return {}

    def contents(self, file: StatisticsFile) -> str:
        """How many tokens."""
        assert isinstance(file, TokensFile)
        return f"{len(file.counts.tokens)} tokens"

    def told(self, metadata: Mapping[str, Any]) -> str:
        """What it tells, and its guarantee."""
        settings, privacy = metadata["settings"], metadata.get("privacy")
        pairs = ", but for pairs of adjacent words that as many texts have" if settings.get("pairs") else ""
        minimum = str(settings.get("minimum_count"))
        if not privacy:
            revealed = self.reveals.replace("{minimum}", minimum).replace("{pairs}", pairs)
            related = OF_PAIRS_OF_TEXTS.replace("{minimum}", minimum) if metadata.get("related") else ""
            return revealed + related
        tokens, lengths, shares = privacy["tokens"], privacy["lengths"], privacy.get(PAIR_HISTOGRAMS[0])
        related = (
            ""
            if shares is None
            else (f", and on two histograms of how the two texts of pairs are related (ε {shares['epsilon']:g} each)")
        )
        return (
            f"Counts of tokens are ({privacy['epsilon']:g}, {privacy['delta']:g})-differentially private: whether any "
            f"one text was among those that were counted changes the probability of any file by at most a factor of "
            f"e^{privacy['epsilon']:g}{' and δ' if privacy['delta'] else ''}. Of each text {tokens['sensitivity']} "
            f"distinct tokens count, once each; {tokens['mechanism']} noise on all tokens of the vocabulary "
            f"(ε {tokens['epsilon']:g}), {lengths['mechanism']} noise on lengths (ε {lengths['epsilon']:g}){related}; "
            f"{_what_is_told(tokens)}, and lengths of fewer than {lengths['threshold']} texts are left out. "
            "Who wrote k of the texts has k times that ε. A second file from the same texts adds its ε to this one's"
            f"{'' if privacy['delta'] else ', and δ is 0'}."
        )

    def task_problem(self, settings: Any, task: str) -> str | None:
        """Labels are those of classifiers that give each text one."""
        if settings.by_label and task != "single_label":
            return "by_label: is for models that give each text one label; expected false"
        return None

    def serving_problem(self, file: Any, settings: Any) -> str | None:
        """Where a guarantee is asked for, that of the file has to be as strong; where none is, any file serves."""
        if settings.epsilon is None:
            return None
        own, asked = _guarantee(file.privacy), (settings.epsilon, settings.delta or 0.0)
        if own is not None and own[0] <= asked[0] and own[1] <= asked[1]:
            return None
        has = "no guarantee of differential privacy" if own is None else f"epsilon={own[0]:g}, delta={own[1]:g}"
        return f"{file.path} has {has}; asked for: epsilon={asked[0]:g}, delta={asked[1]:g}"

    def outdated(self, file: Any) -> str | None:
        """Files of earlier versions: some count a repeated text often, some do not tell how pairs are related.

        None that has a guarantee is: another one would spend its ε once more.
        """
        if file.privacy:
            return None
        if file.metadata.get("thresholds") != DIFFERENT:
            return f"{file.path} may tell words of a single text that is repeated"
        if file.counts.parts == 2 and len(file.counts.pair_histograms()) < len(PAIR_HISTOGRAMS):
            return f"{file.path} does not tell how the two texts of a pair are related"
        return None

    def operations(self, size: ModelSize, labels: int) -> int:
        """None."""
        return 0


def _what_is_told(tokens: Mapping[str, Any]) -> str:
    """What a file says of noisy counts of tokens; one of an earlier version leaves out those below a threshold."""
    if "threshold" in tokens:
        return f"noisy counts below {tokens['threshold']} are left out"
    return "told is what the noisy counts together make likely of each"


def _guarantee(privacy: Mapping[str, Any]) -> tuple[float, float] | None:
    """ε and δ that a file states; None where it states none that can be read."""
    numbers = [privacy.get("epsilon"), privacy.get("delta", 0.0)]
    if not all(type(number) in (int, float) and number >= 0 for number in numbers) or not numbers[0]:
        return None
    return float(numbers[0]), float(numbers[1])


def accumulator_of(
    vocabulary: Vocabulary, settings: TokensConfig, labels: int = 1, texts_per_example: int = 1
) -> TokenAccumulator:
    """What counts as settings say."""
    privacy = None
    if settings.epsilon is not None:
        privacy = Privacy(settings.epsilon, settings.delta, settings.tokens_per_text)
    return TokenAccumulator(
        vocabulary,
        settings.minimum_count,
        labels=labels,
        pairs=settings.pairs,
        privacy=privacy,
        texts_per_example=texts_per_example,
    )


def collect_tokens(
    batches: Iterable[Batch],
    vocabulary: Vocabulary,
    settings: TokensConfig | None = None,
    *,
    texts_per_example: int = 1,
    across_processes: bool = False,
) -> TokenStatistics:
    """Counts of tokens of batches with ``input_ids`` and ``attention_mask`` [examples, tokens].

    Args:
        batches: the batches.
        vocabulary: of the tokenizer that made them.
        settings: how they are counted; ``by_label`` needs a model, and is left to callers of :class:`TokenAccumulator`.
        texts_per_example: 2 where every example is a pair of texts.
        across_processes: the batches are this process's share, and the counts are of the shares of all processes of
            PyTorch's default process group, which must all call this.

    Raises:
        StatisticsError: when nothing occurs often enough to be told.
    """
    accumulator = accumulator_of(vocabulary, settings or TokensConfig(), texts_per_example=texts_per_example)
    for batch in batches:
        accumulator.add(batch["input_ids"], batch.get("attention_mask"))
    if across_processes:
        accumulator.add_up()
    return accumulator.compute()


def save_tokens(path: str | os.PathLike[str], statistics: TokenStatistics, metadata: Mapping[str, Json]) -> None:
    """Write counts of tokens to ``path``, atomically; arguments and errors as for `save_gram`."""
    counts = statistics.counts
    if faults := counts.faults():
        raise StatisticsError(f"these are no counts of tokens: {'; '.join(faults)}")
    listed = zlib.compress(json.dumps(counts.tokens, ensure_ascii=False).encode(), 9)
    tensors = {
        "counts": _compact(counts.counts),
        "lengths": _compact(counts.lengths),
        "tokens": torch.tensor(list(listed), dtype=torch.uint8),
        **({} if counts.pairs is None else {"pairs": _compact(counts.pairs)}),
        **{name: _compact(table) for name, table in counts.pair_histograms().items()},
    }
    header: dict[str, object] = {
        "kind": TokensFile.kind,
        "rows": {},
        "shared": {name: name for name in tensors},
        "examples": statistics.examples,
        "batches": statistics.batches,
        "vocabulary": counts.vocabulary,
        "parts": counts.parts,
        "related": counts.related,
        "privacy": statistics.privacy,
        **({} if statistics.privacy else {"thresholds": DIFFERENT}),
    }
    write_statistics(path, tensors, header, metadata, dtype=None)


def _compact(table: Tensor) -> Tensor:
    """Whole numbers in the smallest dtype that holds them."""
    largest = int(table.max()) if table.numel() else 0
    if largest >= 1 << 31:
        raise StatisticsError(f"a count of {largest}, and a file holds numbers below {1 << 31}")
    return table.to(torch.uint16 if largest < 1 << 16 else torch.int32)
