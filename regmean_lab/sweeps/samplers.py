"""What proposes the trials of a search: every combination of listed values in turn, or a sampler of Optuna.

The plug-in of Hydra's authors, hydra-optuna-sweeper 1.2, excludes Optuna 3 and later; so this is ours, over Optuna 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from regmean_lab.config.search import Search
from regmean_lab.config.search_space import Dimension, Interval, Space, product_of


class Proposals(Protocol):
    """Trials one after the other; what is proposed depends on the seed and on the scores so far, and nothing else."""

    def ask(self) -> tuple[Any, Mapping[str, float]] | None:
        """The next trial, and its values by key; None where there are no more."""

    def tell(self, trial: Any, score: float | None) -> None:
        """The score of a trial; None of one that failed."""


def proposals(search: Search, space: Space) -> Proposals:
    """The trials of a search in a space, both without problems."""
    return GridProposals(space) if search.sampler == "grid" else OptunaProposals(search, space)


class GridProposals:
    """Every combination of a space without intervals."""

    def __init__(self, space: Space) -> None:
        self._trials: Iterator[tuple[int, dict[str, float]]] = enumerate(product_of(space))

    def ask(self) -> tuple[int, dict[str, float]] | None:
        """The next combination."""
        return next(self._trials, None)

    def tell(self, trial: int, score: float | None) -> None:
        """Nothing follows from it."""


class OptunaProposals:
    """Trials of a study that lives in memory: results of jobs are kept anyway, and CMA-ES would store pickles."""

    def __init__(self, search: Search, space: Space) -> None:
        import optuna  # takes a second, and need not be there

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            makers = {
                "tpe": optuna.samplers.TPESampler,
                "random": optuna.samplers.RandomSampler,
                "cmaes": optuna.samplers.CmaEsSampler,
                "qmc": optuna.samplers.QMCSampler,
            }
            sampler = makers[search.sampler](seed=search.seed)
        # Scores are the larger the better, whatever the suite.
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._distributions = {part.key: _distribution(part) for part in space.dimensions}

    def ask(self) -> tuple[Any, dict[str, float]]:
        """The next trial."""
        trial = self._study.ask(self._distributions)
        return trial, dict(trial.params)

    def tell(self, trial: Any, score: float | None) -> None:
        """The score of a trial that was asked for."""
        from optuna.trial import TrialState

        if score is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, score)


def _distribution(part: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    domain = part.domain
    if isinstance(domain, Interval):
        if domain.whole:
            return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    last = len(domain.texts) - 1
    return IntDistribution(0, last) if domain.ordered else CategoricalDistribution(range(last + 1))
