"""What a merge is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from regmean_lab.suites.base import Example, Split, Suite, Task
from regmean_lab.suites.reading import read_together


@dataclass(frozen=True)
class Evaluation:
    """One corpus on which a model is evaluated.

    Attributes:
        name: what the scores are reported under.
        corpus: the corpus.
        domain: ``"in"`` if its training data belongs to a merged member, else ``"out"``.
        examples: the examples, in the suite's order.
        task: the corpus's task.
    """

    name: str
    corpus: str
    domain: Literal["in", "out"]
    examples: list[Example]
    task: Task


def evaluations_for(suite: Suite, merged: Sequence[str], split: Split = "test") -> list[Evaluation]:
    """What a merge of ``merged`` is evaluated on: each member's test split, then the out-of-domain corpora.

    Args:
        suite: where examples come from.
        merged: the members.
        split: ``test``; or ``dev``, by which settings are chosen: the members' dev splits, and nothing out of domain.

    Raises:
        DataError: with everything that cannot be read.
    """
    outside = suite.out_of_domain(merged) if split == "test" else ()
    examples = read_together(
        [
            *(partial(suite.examples, member, split) for member in merged),
            *(partial(suite.evaluated_out_of_domain, corpus, merged) for corpus in outside),
        ]
    )
    return [
        Evaluation(corpus, corpus, "in" if number < len(merged) else "out", own, suite.task(corpus))
        for number, (corpus, own) in enumerate(zip((*merged, *outside), examples, strict=True))
    ]
