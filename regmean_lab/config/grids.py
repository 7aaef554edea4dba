"""The jobs of a command line: which there are, and their configurations, without running any.

A sweep is the Cartesian product of its parameters. Where the jobs of one table do not form a product (a model that goes
with one suite only), ``hydra.sweeper.grids`` lists several products, which share ``hydra.sweeper.params``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from regmean_lab.config.locations import configuration_root

CONFIG_NAME = "config"
SELECTS = (None, "best")
"""What ``hydra.sweeper.select`` may be: see ``regmean_lab/sweeps/selection.py``."""


class SweepError(HydraException):
    """A sweep without jobs."""


Grid = list[Override]
"""Parameters of one Cartesian product: each an override, of one value or of several."""


_COMPOSED: WeakKeyDictionary[ConfigLoaderImpl, dict[tuple[str, ...], DictConfig]] = WeakKeyDictionary()
_entered: list[ConfigLoaderImpl] = []
_commands: list[dict[str, dict[tuple[str, ...], DictConfig]]] = []


@contextmanager
def composing_once() -> Iterator[None]:
    """One command: what has been composed to check it is not composed again by Hydra's main function, to plan it.

    No file of a configuration may change before the command has planned its jobs.
    """
    _commands.append({})
    try:
        yield
    finally:
        _commands.pop()


@contextmanager
def composing() -> Iterator[None]:
    """Hydra, initialised with the folder ``conf``; within another such context it is that context's.

    No file of a configuration may change meanwhile: what has been composed is not composed again.
    """
    if _entered:
        yield
        return
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        _entered.append(config_loader())
        try:
            yield
        finally:
            _entered.clear()


def config_loader() -> ConfigLoaderImpl:
    """The loader of the Hydra that is initialised."""
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    return loader


def composition(config_name: str, overrides: Iterable[str]) -> DictConfig:
    """What Hydra, which must be initialised, composes, without its own part.

    Args:
        config_name: the root configuration.
        overrides: of a single job.

    Returns:
        A copy, which may be changed.

    Raises:
        HydraException: for what cannot be composed.
    """
    config = copy.deepcopy(whole_composition(config_name, overrides))
    with open_dict(config):
        del config["hydra"]
    return config


def whole_composition(config_name: str, overrides: Iterable[str]) -> DictConfig:
    """The same with Hydra's own part, not to be changed: as it takes a fifth of a second, each is composed once."""
    loader = config_loader()
    if _commands:
        known = _commands[-1].setdefault(str(loader.get_search_path()), {})
    else:
        known = _COMPOSED.setdefault(loader, {})
    if (key := (config_name, *overrides)) not in known:
        known[key] = compose(config_name, list(key[1:]), return_hydra_config=True)
    return known[key]


def grids_of(arguments: Sequence[str], config_name: str = CONFIG_NAME, *, multirun: bool = True) -> list[Grid]:
    """The grids of a command line: what the arguments, the experiment and the sweep's own YAML vary.

    Hydra must be initialised with the folder ``conf``.

    Args:
        arguments: overrides, as on a command line; those of Hydra itself (``hydra.…``) vary nothing.
        config_name: the root configuration.
        multirun: whether the command line says ``-m``; without it, what varies anything has to say that it is a sweep.

    Raises:
        HydraException: for overrides that cannot be parsed or composed.
        SweepError: for parameters that a single run would leave out, or a selection that there is not.
    """
    parsed = OverridesParser.create(config_loader=config_loader()).parse_overrides(list(arguments))
    hydra = hydra_part(parsed, config_name)
    params, own = _plain(hydra.sweeper.get("params")) or {}, _plain(hydra.sweeper.get("grids")) or []
    if (params or own) and not multirun and hydra.mode is None:
        varied = ", ".join(dict.fromkeys(itertools.chain(params, *own)))
        raise SweepError(
            f"hydra.sweeper: it varies {varied}, but nothing says that this is a sweep; write hydra.mode: MULTIRUN "
            "beside it, or give -m"
        )
    if "sampler" not in hydra.sweeper and (select := hydra.sweeper.get("select")) not in SELECTS:
        raise SweepError(f"hydra.sweeper.select: expected best or null, got {select!r}")
    given = [override for override in parsed if not override.key_or_group.startswith("hydra")]
    return grids(params, own, given)


def selects(arguments: Sequence[str], config_name: str = CONFIG_NAME) -> bool:
    """Whether a command line has the best of several settings chosen; Hydra must be initialised as for its grids."""
    parsed = OverridesParser.create(config_loader=config_loader()).parse_overrides(list(arguments))
    return hydra_part(parsed, config_name).sweeper.get("select") is not None


def hydra_part(parsed: Sequence[Override], config_name: str) -> DictConfig:
    """Hydra's own part of a sweep's configuration, which is not to be changed."""
    # What has several values is no choice that the whole sweep could be composed with.
    fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    hydra: DictConfig = whole_composition(config_name, fixed).hydra
    return hydra


def grids(params: Mapping[str, Any], own: Iterable[Mapping[str, Any]], given: Sequence[Override]) -> list[Grid]:
    """The grids of a sweep.

    Args:
        params: what every grid varies: values as Hydra writes a sweep (``a,b``, ``range(1,4)``), by key.
        own: what single grids vary besides, or instead; without any there is one grid.
        given: overrides of the command line, which replace parameters of the same key; of several with the same key
            the last one counts.

    Raises:
        SweepError: for a parameter that has no values.
    """
    parser = OverridesParser.create(config_loader=config_loader())
    replaced = {override.key_or_group for override in given}
    given = list({override.get_key_element(): override for override in given}.values())
    found: list[Grid] = []
    for grid in [*own] or [{}]:
        varied = {key: value for key, value in {**params, **grid}.items() if key not in replaced}
        for key, value in varied.items():
            if value == "":
                raise SweepError(
                    f"members: too few for this experiment, which varies {key} over 2, 3, … of them; give two or more: "
                    "members=[A,B,…]"
                )
        found.append([*given, *parser.parse_overrides([f"{key}={value}" for key, value in varied.items()])])
    return found


def jobs_of(grids: Sequence[Grid]) -> list[list[str]]:
    """The overrides of every job of some grids, each job once."""
    products = (itertools.product(*(values_of(parameter) for parameter in grid)) for grid in grids)
    return [list(job) for job in dict.fromkeys(itertools.chain.from_iterable(products))]


def values_of(override: Override) -> list[str]:
    """An override as one text for each value that it sweeps over.

    Raises:
        SweepError: for an interval.
    """
    key = override.get_key_element()
    if override.is_interval_sweep():
        raise SweepError(
            f"{key}: an interval has no values to run through; give some, as in {key}=0.1,0.5, or search it with "
            "hydra/sweeper=optuna"
        )
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [str(override.input_line)]


class Composer:
    """Composes the configurations of many jobs.

    Hydra takes a quarter of a second to compose one. So it composes each choice of groups once, and overrides that only
    set a value are set in copies.

    Args:
        config_name: the root configuration.
    """

    def __init__(self, config_name: str = CONFIG_NAME) -> None:
        self._config_name = config_name
        self._parser = OverridesParser.create(config_loader=config_loader())
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job.

        Raises:
            HydraException: for what Hydra cannot compose.
            OmegaConfBaseException: for a value of the wrong type.
        """
        parsed = [(text, self._parse(text)) for text in overrides]
        chosen = tuple(text for text, override in parsed if not _sets_value(override))
        if chosen not in self._bases:
            self._bases[chosen] = composition(self._config_name, chosen)
        base = self._bases[chosen]
        values = [override for _, override in parsed if _sets_value(override)]
        if any(_is_part(base, override.key_or_group) for override in values):
            return compose(self._config_name, list(overrides))
        config = copy.deepcopy(base)
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
        return config

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            (self._parsed[text],) = self._parser.parse_overrides([text])
        return self._parsed[text]


def _sets_value(override: Override) -> bool:
    """Whether an override changes a value, rather than choosing an option of a group or adding a key."""
    if override.type != OverrideType.CHANGE or override.package is not None:
        return False
    return "." in override.key_or_group or not config_loader().repository.group_exists(override.key_or_group)


def _is_part(config: DictConfig, key: str) -> bool:
    """Whether a key names no single value: a part with keys of its own, or nothing that is there or may be."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig) or last not in node:
        return not takes_any_key(config, key)
    return bool(OmegaConf.is_dict(node._get_node(last)))


def takes_any_key(config: DictConfig, key: str) -> bool:
    """Whether a key lies in a mapping of names that users give, such as ``suite.corpora`` and ``method.parts``."""
    node: Any = config
    for part in key.split(".")[:-1]:
        node = node._get_node(part, validate_access=False) if isinstance(node, DictConfig) else None
        if isinstance(node, DictConfig) and OmegaConf.is_struct(node) is False:
            return True
    return False


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
