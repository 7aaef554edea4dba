"""Scores of named entities: an entity counts as found if its type and all of its words are right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from seqeval.scheme import IOB2
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from regmean_lab.metrics.metrics import Scoring, register_scoring
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.key_scores import AVERAGED_ENTITY_SCORES


class EntityScores(Metric):
    """Entity-level micro-averaged precision, recall and F1 of tagged words, and the share of words with the right tag.

    Takes predictions and targets of shape [sentences, tokens], int64; tokens whose target is ``IGNORED`` are left out,
    and each row is a sentence of its own. Entities are read from tags as the CoNLL evaluation script does (seqeval's
    default): an ``I-`` that continues no entity of its type begins one. In the strict score only what follows the IOB2
    scheme is an entity: it begins with ``B-``. In the published score they are read by :func:`published_spans`.

    A score is 0 where there is nothing to count: precision without predicted entities, recall without true ones.

    Args:
        labels: tags in the order of their ids.
        key_score: one of ``AVERAGED_ENTITY_SCORES`` that is measured as well; the mean over entity types by seqeval.
    """

    higher_is_better = True
    full_state_update = False
    predicted: list[Tensor]
    targets: list[Tensor]
    lengths: list[Tensor]

    def __init__(self, labels: Sequence[str], key_score: str = "") -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.key_score = key_score
        for name in ("predicted", "targets", "lengths"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Keep one batch."""
        labelled = targets != IGNORED
        self.predicted.append(predictions[labelled])
        self.targets.append(targets[labelled])
        self.lengths.append(labelled.sum(1))

    def compute(self) -> dict[str, Tensor]:
        """All scores by name: those of the CoNLL reading, F1 of the two others, and ``token_accuracy``.

        They are between 0 and 1, float64, on the CPU.
        """
        # After a sum over processes a state is one tensor instead of a list.
        predicted, targets, lengths = (
            state.cpu() if isinstance(state, Tensor) else torch.cat([part.cpu() for part in state])
            for state in (self.predicted, self.targets, self.lengths)
        )
        true, found = self._tags(targets, lengths), self._tags(predicted, lengths)
        precision, recall, f1, _ = precision_recall_fscore_support(true, found, average="micro", zero_division=0)
        values = {
            "entity_f1": f1,
            "entity_precision": precision,
            "entity_recall": recall,
            "entity_f1_strict": f1_score(true, found, average="micro", mode="strict", scheme=IOB2, zero_division=0),
            "entity_f1_published": _published_f1(true, found),
            "token_accuracy": (predicted == targets).double().mean(),
        }
        if self.key_score in AVERAGED_ENTITY_SCORES:
            _, name, average = self.key_score.split("_")
            means = precision_recall_fscore_support(true, found, average=average, zero_division=0)
            values[self.key_score] = means[("precision", "recall", "f1").index(name)]
        return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}

    def _tags(self, ids: Tensor, lengths: Tensor) -> list[list[str]]:
        """Tags of each sentence."""
        names = iter([self.labels[number] for number in ids.tolist()])
        return [[next(names) for _ in range(length)] for length in lengths.tolist()]


def published_spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Entities of one sentence, read as the code of Jin et al., ICLR 2023 (RegMean), reads them.

    ``B-`` begins an entity, and every ``I-`` directly after it goes on with it, whatever its type; the entity has the
    type of its last tag. An ``I-`` that continues nothing is an entity of one word, and does not begin a longer one.
    Where tags follow the IOB2 scheme, these are the entities of the CoNLL evaluation script.

    Returns:
        First word, last word and type of each entity.
    """
    spans = set()
    start = None  # of the entity that the next I- would continue
    for place, tag in enumerate(tags):
        if start is not None and not tag.startswith("I-"):
            spans.add((start, place - 1, tags[place - 1][2:]))
            start = None
        if tag.startswith("B-"):
            start = place
        elif tag.startswith("I-") and start is None:
            spans.add((place, place, tag[2:]))
    if start is not None:
        spans.add((start, len(tags) - 1, tags[-1][2:]))
    return spans


def _published_f1(true: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Micro-averaged F1 of the entities that :func:`published_spans` reads; 0 where there are none."""
    right = total = 0
    for sentence, predicted in zip(true, found, strict=True):
        spans, predicted_spans = published_spans(sentence), published_spans(predicted)
        right += len(spans & predicted_spans)
        total += len(spans) + len(predicted_spans)
    return 2 * right / total if total else 0.0


def _token_labels(task: Task) -> MetricCollection:
    return MetricCollection({"entities": EntityScores(task.labels, task.key_score)}, compute_groups=False)


register_scoring("token_labels", Scoring(_token_labels, lambda task, logits: logits.argmax(-1)))
