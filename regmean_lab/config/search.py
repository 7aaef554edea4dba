"""``hydra/sweeper=optuna``: how a search draws its trials, and what is wrong with one before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from regmean_lab.config.grids import CONFIG_NAME, SELECTS, Grid, config_loader, hydra_part, values_of
from regmean_lab.config.search_space import SEARCHED, Interval, Space, Values, space_of
from regmean_lab.utils.names import did_you_mean

SAMPLERS = {"tpe": "optuna", "random": "optuna", "qmc": "optuna", "cmaes": "cmaes", "grid": None}
"""What proposes settings, and the package that it needs."""

SWEEPER_GROUP = "hydra/sweeper"
SPLIT_KEY, SELECTION_KEY = "evaluate_on", "selection"


@dataclass(frozen=True)
class Search:
    """How a search draws its trials.

    Attributes:
        n_trials: how many, of each search.
        sampler: one of `SAMPLERS`.
        seed: of the sampler: the same one gives the same trials.
        n_jobs: how many are drawn, and handed to the launcher, at a time.
        select: ``best`` runs the best once on test; None ends after the trials.
    """

    n_trials: Any = 20
    sampler: Any = "tpe"
    seed: Any = 1
    n_jobs: Any = 1
    select: Any = "best"

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each."""
        found = []
        for key, least in (("n_trials", 1), ("n_jobs", 1), ("seed", 0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                found.append(f"hydra.sweeper.{key}: expected a whole number of at least {least}, got {value!r}")
        if self.sampler not in SAMPLERS:
            found.append(f"hydra.sweeper.sampler: {self.sampler}: {did_you_mean(str(self.sampler), SAMPLERS)}")
        else:
            needed = dict.fromkeys(("optuna", package)) if (package := SAMPLERS[self.sampler]) else {}
            if lacking := [name for name in needed if find_spec(name) is None]:
                found.append(
                    f"hydra.sweeper.sampler={self.sampler}: {' and '.join(lacking)} not installed; get what it needs "
                    'with: pip install "regmean-lab[optuna]"'
                )
        if self.select not in SELECTS:
            found.append(f"hydra.sweeper.select: expected best or null, got {self.select!r}")
        return found


def search_of(sweeper: Mapping[str, Any]) -> Search | None:
    """The search that a sweeper's part of a configuration asks for; None of a sweeper that runs through values."""
    if "sampler" not in sweeper:
        return None
    return Search(**{entry.name: sweeper[entry.name] for entry in fields(Search)})


def search_of_command(arguments: Sequence[str], config_name: str = CONFIG_NAME) -> Search | None:
    """The search that a command line asks for; Hydra must be initialised as for its grids."""
    parsed = OverridesParser.create(config_loader=config_loader()).parse_overrides(list(arguments))
    return search_of(hydra_part(parsed, config_name).sweeper)


def tried(grid: Grid, search: Search | None) -> list[list[str]]:
    """Overrides of a grid that are checked before a sweep, those of one parameter each: its values, or its ends."""
    if search is None:
        return [values_of(parameter) for parameter in grid]
    space, others = space_of(grid)
    return [*(values_of(parameter) for parameter in others), *space.tried(), [f"{SPLIT_KEY}=dev"]]


def search_problems(search: Search, grids: Sequence[Grid]) -> list[str]:
    """What is wrong with a search, without composing any trial: one message each."""
    found = search.problems()
    searches = [space_of(grid) for grid in grids]
    for space, others in searches:
        if not space.dimensions:
            found.append(
                "hydra/sweeper=optuna: there is nothing to search; give a setting an interval or choices, such as "
                "method.off_diagonal=interval(0,1)"
            )
        found += _key_problems(others) + space.problems() + _sampler_problems(search.sampler, space)
    return list(dict.fromkeys(found))


def interval_problems(base: DictConfig, grids: Sequence[Grid]) -> list[str]:
    """Intervals of settings that are no numbers.

    Args:
        base: a configuration with all keys.
        grids: what is searched.
    """
    found: dict[str, None] = {}
    for part in (part for grid in grids for part in space_of(grid)[0].dimensions):
        if not isinstance(part.domain, Interval):
            continue
        key, place = part.listed or (part.key, None)
        default = OmegaConf.select(base, key, default=None)
        if place is not None:
            if default is not None and not OmegaConf.is_list(default):
                found[f"{part.key}: {key} is no list, in which a number could have a place"] = None
        elif isinstance(default, bool | str) or OmegaConf.is_config(default):
            said = "a list; search its numbers, {0}.0, {0}.1, …" if OmegaConf.is_list(default) else f"{default!r}"
            found[f"{key}: an interval is of numbers, and it is {said.format(key)}"] = None
        elif isinstance(default, int) and not part.domain.whole:
            ends = f"{part.domain.low:g},{part.domain.high:g}"
            found[f"{key}: it is a whole number; write {key}='int(interval({ends}))' or a range"] = None
    return list(found)


def _key_problems(others: Sequence[Override]) -> list[str]:
    found = [
        f"{override.key_or_group}: a search chooses among settings ({'*, '.join(SEARCHED)}*) and has no use for an "
        "interval of it; give values, each of which is a search of its own"
        for override in others
        if override.is_interval_sweep()
    ]
    given = {override.key_or_group: override for override in others}
    if SPLIT_KEY in given:
        said = given[SPLIT_KEY].input_line
        found.append(
            f"{said}: a search evaluates its trials on dev, and the best once on test; chosen on test, it could not be "
            "tested any more; leave it out"
        )
    if SELECTION_KEY in given:
        found.append(f"{SELECTION_KEY}: a search sets it; leave it out")
    return found


def _sampler_problems(sampler: str, space: Space) -> list[str]:
    key = f"hydra.sweeper.sampler={sampler}"
    if sampler == "grid":
        return [
            f"{part.key}: {key} runs through values, and an interval has none; give choices, a range or another sampler"
            for part in space.dimensions
            if isinstance(part.domain, Interval)
        ]
    if sampler != "cmaes":
        return []
    found = [
        f"{part.key}: {key} draws numbers; give an interval or a range, or another sampler"
        for part in space.dimensions
        if isinstance(part.domain, Values) and not part.domain.ordered
    ]
    if len(space.dimensions) == 1:
        found.append(f"{key}: it searches two settings or more, got {space.dimensions[0].key} alone; use tpe")
    return found
