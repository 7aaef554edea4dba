"""What ``evaluate=`` adds to a merge: scores of the merged model, of each checkpoint, and of their ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.card_metadata import write_scores
from regmean_lab.checkpoints.merge import MergeRequest
from regmean_lab.checkpoints.output import evaluation_folder
from regmean_lab.checkpoints.scoring.corpora import datasets_of_the_hub
from regmean_lab.checkpoints.scoring.kept_heads import kept_head_problems, score_kept_heads
from regmean_lab.checkpoints.scoring.models import read_models
from regmean_lab.checkpoints.scoring.request import read_corpora, scoring_config, settings_problems, suite_record
from regmean_lab.checkpoints.scoring.score import ENSEMBLE, Scoring, Settings
from regmean_lab.config.checkpoint_commands import Measured, MergeCheckpointsConfig
from regmean_lab.models.headers import CheckpointError
from regmean_lab.suites.base import DataError


def scoring_problems(plain: MergeCheckpointsConfig, request: MergeRequest) -> list[str]:
    """What stands against scoring the checkpoints of a merge; they themselves are known to go together."""
    if request.heads == "keep":
        return kept_head_problems(plain, request)
    found = []
    if request.heads == "drop":
        found.append(
            "evaluate: the merged model has no head to predict with (heads=drop); use heads=merge, which checkpoints "
            "with the same labels can, or heads=keep, by which each head is scored on data of its own"
        )
    try:
        _scoring(plain, request)
    except (DataError, CheckpointError) as error:
        found += [f"evaluate: {problem}" for problem in str(error).splitlines()]
    return found


def score_merge(
    plain: MergeCheckpointsConfig,
    request: MergeRequest,
    merged: Path,
    method: Mapping[str, Any],
    overrides: Sequence[str],
) -> Measured:
    """Score what is not scored yet; each ``result.json`` lies in a folder beside the merged model's.

    The scores of the merged model go into its card as well.

    Args:
        plain: the configuration, whose ``evaluate`` names the data.
        request: the merge, of the checkpoints that the configuration or its recipe names.
        merged: folder of the merged model.
        method: how it was merged: ``name``, and the settings.
        overrides: of the command, for the record.

    Raises:
        DataError: when data have changed since they were checked.
        CheckpointError: when a checkpoint has.
    """
    if request.heads == "keep":
        return score_kept_heads(plain, request, merged, method, overrides)
    scoring = _scoring(plain, request, merged, overrides)
    *members, model = scoring.models
    folder = evaluation_folder(merged)
    places = [folder / member.name for member in members]
    results = [scoring.score(member, place) for member, place in zip(members, places, strict=True)]
    lines, together = list[str](), folder / _free_name(ENSEMBLE, [one.name for one in scoring.models])
    try:
        results.append(scoring.ensemble(members, together))
        places.append(together)
    except DataError as error:
        lines.append(str(error))
    results.append(scoring.score(model, folder / model.name, method))
    places.append(folder / model.name)
    write_scores(merged, results[-1], datasets_of_the_hub(scoring.corpora))
    return Measured(results, [*lines, *scoring.comparisons([model, *members])], folder, places, merged)


def _scoring(
    plain: MergeCheckpointsConfig, request: MergeRequest, merged: Path | None = None, overrides: Sequence[str] = ()
) -> Scoring:
    """The checkpoints of a merge, and the merged model where it is there already, with the data."""
    config, found = scoring_config(plain.evaluate)
    found += settings_problems(config)
    if found:
        raise DataError("\n".join(found))
    more = [] if merged is None else [str(merged)]
    bases = request.adapter_bases or [None] * len(request.checkpoints)
    models = read_models(
        [*request.checkpoints, *more],
        base=request.base,
        labels=config.labels,
        models_folder=request.models_folder,
        own_bases=[*bases, *(None for _ in more)],
    )
    corpora = read_corpora(config, models, found)
    if found:
        raise DataError("\n".join(found))
    record = suite_record(config, models[0].task.kind)
    settings = Settings(record, plain.trainer, config.batch_size, config.max_length, plain.force, overrides)
    return Scoring.of(models, corpora, settings)


def _free_name(name: str, taken: Sequence[str]) -> str:
    return name if name not in taken else _free_name(f"{name}_", taken)
