"""What a table expects: the jobs of a sweep, from its YAML."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.config.grids import Composer, composing, grids_of, jobs_of
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.method_option import option_of
from regmean_lab.config.plugin_options import register_plugin_options
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.report.entries import Entry, column_settings, command_of, flat_settings, row_settings, setting_text
from regmean_lab.report.read import Run
from regmean_lab.results import NOT_FINGERPRINTED, NOT_FINGERPRINTED_TRAINER, fingerprint
from regmean_lab.suites import suite_types
from regmean_lab.utils.names import did_you_mean
from regmean_lab.utils.plugins import PluginError

SWEEPS, EXPERIMENTS = "multirun_sweeps", "experiment"
NAMED = (
    "suite.name",
    "model.name",
    "method.name",
    "head_init",
    "order",
    "first",
    "members",
    "seed",
    "evaluate_on",
    "selection",
)
"""What every job is known by, whether the sweep varies it or not."""


class DefinitionError(Exception):
    """A table without a definition, or one that cannot be expanded; the message says what to do."""


@dataclass(frozen=True)
class Job:
    """One job that a table expects.

    Attributes:
        experiment: name of the experiment.
        settings: what the sweep and the table's overrides set, and ``NAMED``, by dotted key, as text.
        members: corpora that are merged, in order; those of the suite where the sweep names none, and one name for
            all of them where their own scores choose them.
        count: number of members.
        command: the command that runs it.
        fingerprint: of its whole configuration, as a result of it has.
        overrides: what asks for it.
    """

    experiment: str
    settings: dict[str, str]
    members: tuple[str, ...]
    count: int
    command: str
    fingerprint: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Definition:
    """All jobs that a table expects.

    Attributes:
        name: name of the YAML.
        jobs: the jobs, all with the same setting keys.
    """

    name: str
    jobs: list[Job]

    @property
    def experiments(self) -> set[str]:
        """Names that the jobs' results give as their experiment."""
        return {job.experiment for job in self.jobs}

    def entries(self, runs: Sequence[Run]) -> tuple[list[Entry], list[Run]]:
        """An entry for each expected job, measured or not, and the results of its experiment that it does not expect.

        A result belongs to the job whose settings it has; it may differ in settings that the sweep does not name,
        unless there is one that differs in none.
        """
        keys = list(self.jobs[0].settings)
        matching: dict[tuple[str | None, ...], list[Run]] = {}
        other = []
        expected = {self._key(job.experiment, job.settings, keys) for job in self.jobs}
        for run in runs:
            if run.result.experiment not in self.experiments:
                continue
            settings = _result_settings(run)
            key = self._key(run.result.experiment, settings, keys)
            if key in expected:
                matching.setdefault(key, []).append(run)
            else:
                other.append(run)
        entries = []
        for job in self.jobs:
            own = matching.get(self._key(job.experiment, job.settings, keys), [])
            exact = [run for run in own if run.result.fingerprint == job.fingerprint]
            if exact:
                other += [run for run in own if run not in exact]
            found: list[Run | None] = [*(exact or own)]
            entries += [_entry(job, run) for run in found or [None]]
        return entries, other

    @staticmethod
    def _key(experiment: str, settings: Mapping[str, str], keys: Sequence[str]) -> tuple[str | None, ...]:
        # A method may lack a setting that another one's jobs vary.
        return (experiment, *(settings.get(key, setting_text(None)) for key in keys))


def read_definition(name: str, overrides: Sequence[str] = ()) -> Definition:
    """The jobs of ``multirun_sweeps/NAME.yaml``, or else of ``conf/experiment/NAME.yaml``.

    Args:
        name: name of the YAML.
        overrides: what the sweep was run with besides, as on its command line.

    Raises:
        DefinitionError: when there is no such table, or its parameters or the overrides are wrong.
    """
    conf = configuration_root() / "conf"
    known = {path.stem: SWEEPS for path in sorted((conf / SWEEPS).glob("*.yaml"))}
    known |= {p.stem: EXPERIMENTS for p in sorted((conf / EXPERIMENTS).glob("*.yaml")) if p.stem not in known}
    if name not in known:
        raise DefinitionError(f"table={name}: there is no such table; {did_you_mean(name, known)}")
    choice = f"+{SWEEPS}={name}" if known[name] == SWEEPS else f"{EXPERIMENTS}={name}"
    try:
        register_plugin_options()
        register_resolvers()
        with composing():
            return Definition(name, _jobs(choice, list(overrides)))
    except (HydraException, OmegaConfBaseException, PluginError) as error:
        message = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise DefinitionError(f"table={name}: {message}") from None


def _jobs(choice: str, overrides: list[str]) -> list[Job]:
    found = grids_of([choice, *overrides])
    # A table's grids may set different keys; every job is known by all of them.
    varied = {parameter.key_or_group: None for grid in found for parameter in grid}
    composer, jobs = Composer(), []
    for texts in jobs_of(found):
        config = composer.compose(texts)
        plain = [key for key in varied if _is_setting(config, key)]
        jobs.append(_job(config, texts, plain))
    return jobs


def _job(config: DictConfig, texts: Sequence[str], plain: Sequence[str]) -> Job:
    resolved = {str(key): value for key, value in _container(config).items()}
    flat = flat_settings(resolved)
    settings = {key: flat.get(key, setting_text(None)) for key in (*NAMED, *plain)}
    members = OmegaConf.select(config, "members")
    first = OmegaConf.select(config, "first")
    if members is None:
        members = suite_types()[config.suite.name].members_by_default(config.suite)
    count = first or len(members)
    greedy = config.order == "greedy"
    names = (f"{count} of {len(members)}, by their scores",) if greedy else tuple(members)[:count]
    command = shlex.join(["python", "-m", "regmean_lab", *texts])
    return Job(str(config.experiment), settings, names, count, command, fingerprint(resolved), tuple(texts))


def _entry(job: Job, run: Run | None) -> Entry:
    method = job.settings["method.name"]
    return Entry(
        experiment=job.experiment,
        method=option_of(job.overrides, method, None if run is None else run.result.method_option) or method,
        column=column_settings(job.settings),
        row=row_settings(method, job.settings),
        members=job.members if run is None else tuple(run.result.members),
        count=job.count,
        seed=int(job.settings["seed"]),
        run=run,
        command=job.command if run is None else command_of(run),
    )


def _result_settings(run: Run) -> dict[str, str]:
    """What a result says of its job; what it does not record is taken to be the default."""
    result = run.result
    defaults = {"order": "given", "first": setting_text(None), "members": setting_text(result.members)}
    defaults |= {"evaluate_on": "test", "selection": setting_text(None)}
    settings = defaults | flat_settings(result.configuration)
    named = {"suite.name": result.suite, "model.name": result.model, "method.name": result.method}
    named["selection"] = setting_text("chosen" if result.selection else None)
    return settings | named | {"head_init": result.head_init, "seed": str(result.seed)}


def _container(config: DictConfig) -> dict[Any, Any]:
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return plain


def _is_setting(config: DictConfig, key: str) -> bool:
    """Whether an override sets one value, and one that changes what is measured."""
    if key.partition(".")[0] in (*NOT_FINGERPRINTED, "hydra", EXPERIMENTS, SWEEPS):
        return False
    if key.removeprefix("trainer.") in NOT_FINGERPRINTED_TRAINER:
        return False
    return not OmegaConf.is_dict(OmegaConf.select(config, key))
