"""Baselines: the members themselves, their ensemble, and joint training.

They are chosen like merge methods (``method=ensemble``) and evaluated on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from regmean_lab.config.groups import REWEIGHTINGS
from regmean_lab.utils.checks import one_of, positive

VOTES = ("soft", "majority")
TIES = ("lowest", "first_member")


@dataclass
class Comparator:
    """Base of all comparators; a comparator needs no statistics."""

    name: ClassVar[str]

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        return []


@dataclass
class Individual(Comparator):
    """Every member on its own data; out of domain, the mean of the members' scores."""

    name = "individual"


@dataclass
class Ensemble(Comparator):
    """Combines the predictions of all members; needs as many forward passes as there are members.

    Attributes:
        vote: ``soft`` averages logits (a label's over the members whose data annotates it), ``majority`` counts
            predictions.
        ties: what a majority vote chooses of predictions with equally many votes: that with the ``lowest`` id (no, of
            yes and no), or that of the ``first_member`` who made one of them (as published).
    """

    name = "ensemble"

    vote: str = "soft"
    ties: str = "lowest"

    @override
    def problems(self) -> list[str]:
        found: list[str] = []
        one_of("vote", self.vote, VOTES, found)
        one_of("ties", self.ties, TIES, found)
        return found


@dataclass
class GreedySoup(Comparator):
    """The mean of the members that improve it: they join one by one, best first, unless that lowers the score on dev.

    Scores are means over the members' dev splits. It looks at data, so it is no merge; its model is a single one.

    Source: Wortsman et al., ICML 2022, recipe 1.
    """

    name = "greedy_soup"


@dataclass
class Multitask(Comparator):
    """One model trained on the members' training data together: needs the data, so it is no merge.

    Where every member has a head of its own, so does the joint model: the members share its encoder.

    Attributes:
        learning_rate: peak learning rate, where joint training has its own; None is the members'.
        steps: number of optimizer steps, where joint training has its own; None is the members' length of training.
        reweight: ``training.reweight``, where joint training has its own; None is the members'.
    """

    name = "multitask"

    learning_rate: float | None = None
    steps: int | None = None
    reweight: str | None = None

    @override
    def problems(self) -> list[str]:
        found: list[str] = []
        if self.learning_rate is not None:
            positive("learning_rate", self.learning_rate, found)
        if self.steps is not None and self.steps < 1:
            found.append(f"steps: expected at least 1 or null, got {self.steps}")
        if self.reweight is not None:
            one_of("reweight", self.reweight, REWEIGHTINGS, found)
        return found


def comparator_types() -> dict[str, type[Comparator]]:
    """All comparators by name."""
    return {kind.name: kind for kind in (Individual, Ensemble, GreedySoup, Multitask)}
