"""Typed schema of every configuration group, and the checks that need nothing but the values themselves.

Settings of a suite or a method are dataclasses in the files of the suite and the method; the groups that say
how to train, collect, compute and log are in ``groups``, and what Hydra gets of all of them in ``schema_nodes``. Hydra
refuses wrong types and unknown keys; :func:`settings_of` turns the composed configuration into plain dataclasses and
collects everything else that is wrong with it, before any work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.config.baselines import comparator_types
from regmean_lab.config.groups import (
    LoggerConfig,
    ModelConfig,
    PathsConfig,
    StatisticsConfig,
    TrainerConfig,
    TrainingConfig,
    label_source_problem,
)
from regmean_lab.config.harness import HARNESS
from regmean_lab.config.members import named_members
from regmean_lab.config.targets import TARGET, TargetError, target_method
from regmean_lab.suites import Suite, suite_types
from regmean_lab.suites.base import Split
from regmean_lab.suites.tables.table import missing_file
from regmean_lab.utils.checks import one_of
from regmean_lab.utils.errors import UserError, together
from regmean_lab.utils.files import name_problem

HEAD_INITS = ("same", "different")
ORDERS = ("given", "greedy")
EVALUATED_SPLITS = ("test", "dev")
LOGGERS = ("csv", "wandb", "tensorboard", "none")
LAST_SEED = 2**32 - 1


Plain = TypeVar("Plain")


class ConfigurationError(UserError):
    """A configuration that cannot work; ``problems`` has one message for each thing that is wrong, key first."""

    # Hydra and OmegaConf check types and keys. Not by pydantic: OmegaConf builds one group after the other, so that its
    # error would have the problems of the first group alone, and it takes no constraints in a pydantic ``Field``.

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(together(problems)))


@dataclass
class Config:
    """The whole configuration of one job.

    Attributes:
        experiment: name of the experiment; set by its YAML.
        suite: group ``suite``: the corpora.
        model: group ``model``: the pretrained model that members start from.
        method: group ``method``: how members are merged, or what a merge is compared with.
        training: group ``training``: how members are trained.
        statistics: how statistics are collected.
        trainer: group ``trainer``: device and precision.
        logger: group ``logger``.
        paths: group ``paths``.
        members: corpora whose models are merged, in order; None is all of the suite. A member may also be a checkpoint
            that was fine-tuned elsewhere: ``CORPUS=CHECKPOINT``, or a folder or a hub name (``name@revision``) alone
            where its corpus is clear.
        checkpoints: by corpus, the checkpoint that is its member, in place of one that is trained.
        order: ``given``: members stay in their order; ``greedy``: they are put in the order of their own mean scores
            out of domain, best first.
        first: merge only the first N members of the order; None is all.
        seed: seed of the job: which members (see ``head_init``) and what is drawn at random.
        head_init: ``same``: every member is trained with ``seed``; ``different``: member number i of the suite is
            trained with seed ((seed + i - 1) mod 5) + 1.
        cross_evaluation: with method ``individual``, evaluate each member on the other members' data as well.
        evaluate_on: ``test``, or ``dev`` for choices between settings: the members' dev splits alone, and nothing out
            of domain. A job tells Hydra the mean score in domain, which a sweeper can maximise.
        selection: set by ``hydra.sweeper.select=best`` in the job that it has chosen: what was chosen, among what, by
            which scores.
        measure_divergence: compare a merge with its members on their own data, and with the mean of their weights: KL
            divergence, agreement, and the gap closed. Members' predictions are kept in the zoo, and what the mean gives
            as well.
        save_merged: write the merged model as a Hugging Face folder, ``merged``, into the job's folder.
        force: run although a finished result with the same fingerprint exists.
        plan: show what the command would do and what is missing for it, and do nothing.
    """

    experiment: str = MISSING
    suite: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    method: Any = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    members: list[str] | None = None
    checkpoints: dict[str, str] = field(default_factory=dict)
    order: str = "given"
    first: int | None = None
    seed: int = 1
    head_init: str = "same"
    cross_evaluation: bool = False
    evaluate_on: str = "test"
    selection: Any = None
    measure_divergence: bool = True
    save_merged: bool = False
    force: bool = False
    plan: bool = False


@dataclass
class Settings:
    """A checked configuration: plain dataclasses, and the objects that they select.

    Attributes:
        config: the configuration.
        suite: its suite.
        method: its method.
        members: corpora of the members, in order.
        resolved: the configuration as plain values.
        checkpoints: of members that are not trained here, by corpus, the checkpoint.
    """

    config: Config
    suite: Suite
    method: Any
    members: tuple[str, ...]
    resolved: dict[str, Any]
    checkpoints: dict[str, str] = field(default_factory=dict)

    @property
    def suite_name(self) -> str:
        """Name of the suite."""
        return self.suite.name

    @property
    def evaluated_split(self) -> Split:
        """The split of the members that is evaluated."""
        return "dev" if self.config.evaluate_on == "dev" else "test"

    @property
    def corpora(self) -> list[str]:
        """Everything that the job reads: its members' corpora, then those out of domain."""
        return [*self.members, *self.suite.out_of_domain(self.members)]

    def member_seed(self, member: str) -> int:
        """Seed with which a member is trained, by ``head_init``."""
        if self.config.head_init == "same":
            return self.config.seed
        return (self.config.seed + self.suite.member_number(member) - 1) % 5 + 1


def all_methods() -> dict[str, type[Any]]:
    """Merge methods and the comparators beside them, by name."""
    from regmean_lab.merging import method_types  # imports torch

    return {**method_types(), **comparator_types()}


def method_type_of(node: Any) -> type[Any]:
    """The class that a method's part of a configuration chooses, by its name or its full name.

    Raises:
        ConfigurationError: when there is no such class, in this process.
    """
    if (target := getattr(node, TARGET, None)) is None:
        return all_methods()[node.name]
    try:
        return target_method(target)
    except TargetError as error:
        raise ConfigurationError([str(error)]) from None


def settings_of(config: DictConfig) -> Settings:
    """Check a composed configuration and turn it into plain dataclasses.

    Raises:
        ConfigurationError: with everything that is wrong with the values. Files are not looked at here.
    """
    from regmean_lab.merging import MergeMethod  # imports torch, which the command's help does without
    from regmean_lab.statistics import KINDS

    found: list[str] = []
    resolved = _resolve(config)
    plain = OmegaConf.to_object(config)
    assert isinstance(plain, Config)
    for group in ("suite", "method"):
        node = getattr(plain, group)
        if isinstance(node, dict):
            raise ConfigurationError([_untyped(group, node)])
        for entry in fields(node):
            if entry.name in (TARGET, "name") and (given := getattr(node, entry.name)) != entry.default:
                raise ConfigurationError(
                    [f"{group}.{entry.name}: expected {entry.default!r}; choose another one with {group}={given}"]
                )
    if plain.suite.name == HARNESS:
        raise ConfigurationError(
            [f"suite: {HARNESS} scores checkpoints and trains none: regmean-lab evaluate checkpoint=… suite={HARNESS}"]
        )
    suite_type, method_type = suite_types()[plain.suite.name], method_type_of(plain.method)
    suite = suite_type(Path(plain.paths.data_dir), _strip_name(plain.suite, suite_type.settings_type))
    method = _strip_name(plain.method, method_type)
    named = named_members(plain.members, plain.checkpoints, suite)
    members, found = named.corpora, found + named.problems
    for key, part in (("training", plain.training), ("statistics", plain.statistics), ("method", method)):
        found += [f"{key}.{problem}" for problem in part.problems()]
    found += [f"suite.{problem}" for problem in suite.problems()]
    found += suite.member_problems(members) if members or not named.problems else []
    found += _order_problems(plain, suite, members)
    if plain.order == "given" and plain.first is not None:
        members = members[: plain.first]
    one_of("head_init", plain.head_init, HEAD_INITS, found)
    one_of("evaluate_on", plain.evaluate_on, EVALUATED_SPLITS, found)
    if plain.selection is not None and not isinstance(plain.selection, dict):
        found.append(f"selection: hydra.sweeper.select=best sets it; expected null, got {plain.selection!r}")
    one_of("logger.kind", plain.logger.kind, LOGGERS, found)
    if not 0 <= plain.seed <= LAST_SEED:
        found.append(f"seed: expected 0 to {LAST_SEED}, got {plain.seed}")
    found += [f"trainer.{problem}" for problem in plain.trainer.problems()]
    names = [("experiment", plain.experiment), ("model.name", plain.model.name)]
    found += [problem for key, name in names if (problem := name_problem(key, name)) is not None]
    if plain.model.dropout is not None and not 0 <= plain.model.dropout < 1:
        found.append(f"model.dropout: expected a share from 0 to below 1 or null, got {plain.model.dropout}")
    merged = plain.first or len(members)
    if isinstance(method, MergeMethod):
        found += [f"method.{problem}" for problem in method.number_problems(merged)]
        found += method.count_problems(merged)
    if (texts := getattr(method, "text_file", None)) is not None:
        found += [problem for problem in [missing_file(str(texts), "method.text")] if problem is not None]
    if plain.save_merged and not (isinstance(method, MergeMethod) or method.name in ("multitask", "greedy_soup")):
        found.append(f"save_merged: method {method.name} makes no single model that could be saved")
    shares_heads = method.name in ("ensemble", "greedy_soup")
    if suite.own_heads and method.name == "multitask" and plain.training.lora.rank is not None:
        found.append(
            f"training.lora.rank: joint training on suite {suite.name} has a head for each task, and trains all "
            "weights; expected null"
        )
    if suite.own_heads and (shares_heads or plain.cross_evaluation):
        key = f"method: {method.name}" if shares_heads else "cross_evaluation"
        found.append(f"{key} needs members with the same labels; every member of suite {suite.name} has its own")
    if plain.save_merged and (suite.own_heads or not getattr(method, "is_one_model", True)):
        found.append("save_merged: members keep separate parameters, so there is no single model to be saved")
    sound = not suite.problems() and not suite.member_problems(members)
    for kind, about in KINDS.items():
        if sound and kind in getattr(method, "statistics", ()):
            settings = getattr(plain.statistics, kind)
            wrong = {about.task_problem(settings, suite.task(member).kind): member for member in members}
            found += [f"statistics.{kind}.{problem} ({member})" for problem, member in wrong.items() if problem]
        labels_from = about.needs_labels(getattr(plain.statistics, kind))
        if sound and labels_from is not None and kind in getattr(method, "statistics", ()):
            problems = {label_source_problem(labels_from, suite.task(member).kind): member for member in members}
            key = f"statistics.{kind}.labels_from"
            found += [f"{key}: {problem} ({member})" for problem, member in problems.items() if problem]
    if method.name == "ensemble" and sound and suite.task(members[0]).kind == "text":
        found.append(f"method: ensemble combines predictions of labels; models of suite {suite.name} write texts")
    label_head = getattr(method, "label_head", "merged")
    if label_head == "row_mean" and sound and all(suite.task(member).kind != "multi_label" for member in members):
        found.append(f"method.label_head: models of suite {suite.name} have no multi-label head; expected merged")
    if sound and suite.task(members[0]).kind != "multi_label":
        reweighted = [("training", plain.training), ("method", method if method.name == "multitask" else None)]
        for key, part in reweighted:
            if getattr(part, "reweight", None) not in (None, "none"):
                found.append(
                    f"{key}.reweight: weights are of yes/no labels, and suite {suite.name} has none; expected none"
                )
    if plain.model.new_head and sound and suite.task(members[0]).kind == "answers":
        found.append(f"model.new_head: models of suite {suite.name} answer with the checkpoint's own output layer")
    if plain.statistics.gram.generation and sound and suite.task(members[0]).kind != "answers":
        found.append(f"statistics.gram.generation: models of suite {suite.name} write nothing; expected false")
    if found:
        raise ConfigurationError(found)
    checkpoints = {corpus: reference for corpus, reference in named.checkpoints.items() if corpus in members}
    return Settings(plain, suite, method, members, resolved, checkpoints)


def _order_problems(config: Config, suite: Suite, members: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    one_of("order", config.order, ORDERS, found)
    if config.order == "greedy" and config.evaluate_on == "dev":
        found.append(
            "order: greedy orders members by scores out of domain, which evaluate_on=dev leaves out; use given"
        )
    if config.first is not None and not 1 <= config.first <= len(members):
        found.append(f"first: expected 1 to {len(members)}, the number of members, got {config.first}")
    if config.order == "greedy" and not suite.member_problems(members) and not suite.out_of_domain(members):
        found.append("order: greedy needs out-of-domain corpora, and there are none when all these members are merged")
    return found


def plain_config(config: DictConfig, kind: type[Plain]) -> Plain:
    """A composed configuration as the dataclass that it is of.

    Raises:
        ConfigurationError: for keys without a value, and for values that OmegaConf cannot resolve or convert.
    """
    with _as_problems(config):
        plain = OmegaConf.to_object(config)
    assert isinstance(plain, kind)
    return plain


@contextmanager
def _as_problems(config: DictConfig) -> Iterator[None]:
    """Errors of OmegaConf, and keys without a value, as problems of the configuration."""
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigurationError([f"{key}: required, but not given" for key in missing])
        yield
    except OmegaConfBaseException as error:
        raise ConfigurationError([f"{error.full_key}: {str(error).splitlines()[0]}"]) from None


def _resolve(config: DictConfig) -> dict[str, Any]:
    with _as_problems(config):
        resolved = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items() if key != "hydra"}


def _untyped(group: str, node: Mapping[str, Any]) -> str:
    """What is wrong with a part that has no schema."""
    chosen = node.get(TARGET)
    if chosen is not None and group == "method":
        return f"method.{TARGET}: alone it brings no settings; begin the file with defaults: [{chosen}, _self_]"
    return (
        f"{group}: its YAML has no schema; begin it with defaults: [NAME, _self_], where NAME is an option of {group}, "
        f"or /schema/{group}/NAME@_here_"
    )


def _strip_name(node: Any, settings: type[Any]) -> Any:
    values = {entry.name: getattr(node, entry.name) for entry in fields(settings) if entry.init}
    return settings(**values)
