"""``regmean-lab evaluate``: scores of checkpoints of any origin, merged or not, on files or corpora of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from regmean_lab.checkpoints.card_metadata import write_scores
from regmean_lab.checkpoints.scoring.corpora import datasets_of_the_hub
from regmean_lab.checkpoints.scoring.models import ScoredModel, read_models
from regmean_lab.checkpoints.scoring.request import read_corpora, settings_problems, suite_corpora, suite_record
from regmean_lab.config.checkpoint_commands import EvaluateConfig, Measured, written_output
from regmean_lab.config.harness import HARNESS, HarnessSettings
from regmean_lab.config.running_job import job_overrides
from regmean_lab.config.schema import ConfigurationError, plain_config
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError
from regmean_lab.results import Result
from regmean_lab.suites.base import DataError
from regmean_lab.training.processes import device_problems

if TYPE_CHECKING:
    from regmean_lab.checkpoints.scoring.harness import Harness
    from regmean_lab.checkpoints.scoring.score import Scoring

written = written_output


def check(config: DictConfig) -> None:
    """Check values, headers of the checkpoints, and all data, whose labels must be those of the checkpoints.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    _scoring(plain_config(config, EvaluateConfig))


def run(config: DictConfig, folder: Path) -> Measured:
    """Score what is not scored yet, and write a ``result.json`` for each checkpoint.

    Args:
        config: the composed configuration.
        folder: the job's folder.

    Returns:
        All results, and each checkpoint against the first one.

    Raises:
        ConfigurationError: as :func:`check` does.
    """
    plain = plain_config(config, EvaluateConfig)
    scoring = _scoring(plain)
    output = folder if plain.output is None else Path(plain.output).expanduser()
    places = [output / model.name for model in scoring.models]
    if isinstance(scoring, HarnessScoring):
        from regmean_lab.checkpoints.scoring.harness import harness_lines

        results = [scoring.harness.score(model, output / model.name) for model in scoring.models]
        return Measured(results, harness_lines(results), output, places)
    results = [scoring.score(model, output / model.name) for model in scoring.models]
    lines = scoring.comparisons(scoring.models)
    if plain.card:
        lines += _into_cards(scoring, results)
    return Measured(results, lines, output, places)


def _into_cards(scoring: Scoring, results: Sequence[Result]) -> list[str]:
    """Write scores into the cards of checkpoints that are local folders; what was written, in words."""
    datasets = datasets_of_the_hub(scoring.corpora)
    lines = []
    for model, result in zip(scoring.models, results, strict=True):
        source = model.member.source
        folder = source.statistics_from or source.folder
        card = None if source.revision is not None else write_scores(folder, result, datasets)
        lines.append(f"{model.name}: it has no card here" if card is None else f"scores of {model.name} are in {card}")
    return lines


@dataclass(frozen=True)
class HarnessScoring:
    """Checkpoints and the tasks of the lm-evaluation-harness that they are scored on."""

    models: list[ScoredModel]
    harness: Harness


def _scoring(plain: EvaluateConfig) -> Scoring | HarnessScoring:
    """The checkpoints and corpora, or tasks, that a configuration asks for.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    found = settings_problems(plain)
    found += [f"trainer.{problem}" for problem in plain.trainer.problems()]
    found += device_problems(plain.trainer)
    if (plain.data is None) == (plain.suite is None):
        both = "" if plain.data is None else ", not both"
        found.append(f"data: expected a file, or corpora of a suite (suite=NAME corpora=[…]){both}")
    if plain.corpora is not None and plain.suite is None:
        found.append("corpora: are of a suite; name it with suite=NAME, or files with data=[FILE,…]")
    references = _references(plain.checkpoint)
    if not references:
        found.append(f"checkpoint: expected a folder or a name, or a list of them, got {plain.checkpoint!r}")
    models = []
    try:
        models = read_models(
            references, base=plain.base, labels=plain.labels, models_folder=Path(plain.paths.zoo_dir) / MODELS_FOLDER
        )
    except CheckpointError as error:
        found += error.problems
    if plain.suite is not None and plain.suite.name == HARNESS:
        return _on_tasks(plain, models, found)
    corpora, record = [], {}
    if plain.suite is not None and plain.data is None:
        corpora, record = suite_corpora(plain, found), suite_record(plain)
    elif models and plain.data is not None:
        corpora = read_corpora(plain, models, found)
        record = suite_record(plain, models[0].task.kind)
    if found:
        raise ConfigurationError(found)
    from regmean_lab.checkpoints.scoring.score import Scoring, Settings  # with Lightning

    settings = Settings(record, plain.trainer, plain.batch_size, plain.max_length, plain.force, _overrides())
    try:
        return Scoring.of(models, corpora, settings)
    except DataError as error:
        raise ConfigurationError(str(error).splitlines()) from None


def _on_tasks(plain: EvaluateConfig, models: list[ScoredModel], found: list[str]) -> HarnessScoring:
    """Checkpoints on tasks of the harness.

    Raises:
        ConfigurationError: with everything that is wrong, what was found before included.
    """
    from regmean_lab.checkpoints.scoring.harness import Harness, harness_problems
    from regmean_lab.checkpoints.scoring.score import Settings

    given = {entry.name: getattr(plain.suite, entry.name) for entry in fields(HarnessSettings)}
    tasks = HarnessSettings(**given)
    found += [
        f"{key}: is for files and corpora; {HARNESS} has tasks of its own (suite.tasks=[…])"
        for key in ("corpora", "score", "text", "label", "target", "subset", "data_revision")
        if getattr(plain, key) is not None
    ]
    if plain.card:
        found.append(f"card: is for files and corpora; scores of {HARNESS} are in its results alone")
    found += harness_problems(tasks, models, plain.trainer.precision)
    if found:
        raise ConfigurationError(found)
    record = {"name": HARNESS}
    settings = Settings(record, plain.trainer, plain.batch_size, plain.max_length, plain.force, _overrides())
    return HarnessScoring(models, Harness(tasks, settings))


def _references(checkpoint: Any) -> list[str]:
    listed = checkpoint if isinstance(checkpoint, list) else [checkpoint]
    return (
        [str(one) for one in listed] if all(isinstance(one, str | int | float) and one != "" for one in listed) else []
    )


def _overrides() -> list[str]:
    return ["experiment=evaluate", *job_overrides()]
