"""What ``evaluate=`` adds to a merge with ``heads=keep``: each head on data of its own checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.card_metadata import write_scores
from regmean_lab.checkpoints.heads import read_with_head
from regmean_lab.checkpoints.merge import MergeRequest
from regmean_lab.checkpoints.output import evaluation_folder
from regmean_lab.checkpoints.scoring.corpora import Corpus, datasets_of_the_hub
from regmean_lab.checkpoints.scoring.distances import distances, with_distances
from regmean_lab.checkpoints.scoring.models import ScoredModel, read_models, scored_model
from regmean_lab.checkpoints.scoring.request import read_corpora, scoring_config, settings_problems, suite_record
from regmean_lab.checkpoints.scoring.score import Scoring, Settings
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.config.checkpoint_commands import Measured, MergeCheckpointsConfig, ScoringConfig
from regmean_lab.models.headers import CheckpointError
from regmean_lab.results import Result
from regmean_lab.suites.base import DataError
from regmean_lab.utils.names import did_you_mean

MERGED_SUFFIX = "-merged"


@dataclass(frozen=True)
class HeadScoring:
    """A checkpoint with what it and the merged model with its head are scored on.

    Attributes:
        model: the checkpoint.
        corpora: its data.
        settings: how both are scored.
    """

    model: ScoredModel
    corpora: list[Corpus]
    settings: Settings


def by_checkpoint(given: Any, names: Sequence[str]) -> tuple[dict[str, ScoringConfig], list[str]]:
    """What each checkpoint is scored on, and everything that is wrong with that; those without data are left out.

    Args:
        given: the value of ``evaluate``: by checkpoint a file, several, a mapping with the keys of
            :class:`ScoringConfig`, or None.
        names: what the checkpoints are called.
    """
    expected = f"expected evaluate={{{', '.join(f'{name}: FILE' for name in names)}}}, with null for what is not scored"
    if not isinstance(given, Mapping) or not set(map(str, given)) & set(names):
        return {}, [f"with heads=keep each checkpoint's head is scored on data of its own; {expected}"]
    values = {str(name): value for name, value in given.items()}
    found = [f"{name}: no checkpoint is called so; {did_you_mean(name, names)}" for name in values if name not in names]
    if missing := [name for name in names if name not in values]:
        found.append(f"no data for {', '.join(missing)}; {expected}")
    configs = {}
    for name in names:
        if values.get(name) is None:
            continue
        configs[name], problems = scoring_config(values[name])
        found += [f"{name}: {problem}" for problem in problems + settings_problems(configs[name])]
    if not configs and not found:
        found.append(f"no checkpoint has data; {expected}")
    return configs, found


def head_scorings(
    plain: MergeCheckpointsConfig, request: MergeRequest, overrides: Sequence[str] = ()
) -> list[HeadScoring]:
    """The checkpoints that are scored, with their data; labels were matched.

    Raises:
        DataError: with everything that is wrong with the data.
        CheckpointError: for a checkpoint that cannot be scored.
    """
    names = [source.name for source in find_sources(request.checkpoints, request.models_folder)]
    configs, found = by_checkpoint(plain.evaluate, names)
    scorings = []
    bases = request.adapter_bases or [None] * len(names)
    for name, reference, base in zip(names, request.checkpoints, bases, strict=True):
        if found or name not in configs:
            continue
        config, problems = configs[name], list[str]()
        (model,) = read_models(
            [reference], base=request.base, labels=config.labels, models_folder=request.models_folder, own_bases=[base]
        )
        model.member.source = replace(model.member.source, name=name)
        corpora = read_corpora(config, [model], problems)
        settings = Settings(
            suite_record(config, model.task.kind),
            *(plain.trainer, config.batch_size, config.max_length, plain.force, overrides),
        )
        if not problems:
            try:
                Scoring.of([model], corpora, settings)
            except DataError as error:
                problems += str(error).splitlines()
        found += [problem if problem.startswith(f"{name}: ") else f"{name}: {problem}" for problem in problems]
        scorings.append(HeadScoring(model, corpora, settings))
    if found:
        raise DataError("\n".join(found))
    return scorings


def score_kept_heads(
    plain: MergeCheckpointsConfig,
    request: MergeRequest,
    merged: Path,
    method: Mapping[str, Any],
    overrides: Sequence[str],
) -> Measured:
    """Score each checkpoint, and the merged model with its head, on its own data; takes what ``score_merge`` takes.

    Raises:
        DataError: when data have changed since they were checked.
        CheckpointError: when a checkpoint has, or the merged model has no such head.
    """
    folder = evaluation_folder(merged)
    own, own_places, joined, joined_places, lines = list[Result](), [], list[Result](), [], list[str]()
    for part in head_scorings(plain, request, overrides):
        name = part.model.name
        headed = scored_model(read_with_head(merged, name, f"{name}{MERGED_SUFFIX}"), part.model.task.labels)
        scoring = Scoring.of([part.model, headed], part.corpora, part.settings)
        own_places.append(folder / name)
        own.append(scoring.score(part.model, own_places[-1]))
        joined_places.append(folder / headed.name)
        result = scoring.score(headed, joined_places[-1], method)
        measure = partial(distances, scoring, headed, [part.model]) if result.divergence is None else None
        joined.append(with_distances(result, joined_places[-1], lines, measure))
        write_scores(merged, joined[-1], datasets_of_the_hub(part.corpora))
        lines += scoring.comparisons([headed, part.model])
    return Measured([*own, *joined], lines, folder, [*own_places, *joined_places], merged, len(joined))


def kept_head_problems(plain: MergeCheckpointsConfig, request: MergeRequest) -> list[str]:
    """What stands against it."""
    if plain.measure_gap:
        return ["measure_gap: the mean of the weights has no head of its own to be scored with; not with heads=keep"]
    try:
        head_scorings(plain, request)
    except (DataError, CheckpointError) as error:
        return [f"evaluate: {problem}" for problem in str(error).splitlines()]
    return []
