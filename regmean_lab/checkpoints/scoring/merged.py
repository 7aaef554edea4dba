"""What ``evaluate=`` adds to a merge: scores of the merged model, each checkpoint and their ensemble; distances."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.card_metadata import write_scores
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import evaluation_folder, write_output
from regmean_lab.checkpoints.scoring.corpora import datasets_of_the_hub
from regmean_lab.checkpoints.scoring.distances import distances, with_distances
from regmean_lab.checkpoints.scoring.kept_heads import kept_head_problems, score_kept_heads
from regmean_lab.checkpoints.scoring.models import ScoredModel, read_models
from regmean_lab.checkpoints.scoring.predictions import predict_all
from regmean_lab.checkpoints.scoring.request import read_corpora, scoring_config, settings_problems, suite_record
from regmean_lab.checkpoints.scoring.score import ENSEMBLE, Scoring, Settings
from regmean_lab.config.checkpoint_commands import Measured, MergeCheckpointsConfig
from regmean_lab.merging.simple import Simple
from regmean_lab.models.headers import CheckpointError
from regmean_lab.suites.base import DataError
from regmean_lab.training.processes import first_device


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
    result = scoring.score(model, folder / model.name, method)
    known = result.divergence
    enough = known is not None and (not plain.measure_gap or known["gap_closed"] is not None)
    measure = None if enough else partial(_distances, plain, request, scoring, folder / model.name)
    result = with_distances(result, folder / model.name, lines, measure)
    results.append(result)
    places.append(folder / model.name)
    write_scores(merged, result, datasets_of_the_hub(scoring.corpora))
    return Measured(results, [*lines, *scoring.comparisons([model, *members])], folder, places, merged)


def _distances(plain: MergeCheckpointsConfig, request: MergeRequest, scoring: Scoring, folder: Path) -> dict[str, Any]:
    """How far the merged model is from the checkpoints, and with ``measure_gap`` the gap that it closes.

    Raises:
        DataError: for checkpoints that cannot be compared.
    """
    *members, model = scoring.models
    simple = None
    if plain.measure_gap:
        is_mean = request.method == Simple() and request.settings is None
        simple = model if is_mean else _mean(plain, request, scoring, folder)
    return distances(scoring, model, members, simple)


def _mean(plain: MergeCheckpointsConfig, request: MergeRequest, scoring: Scoring, folder: Path) -> ScoredModel:
    """The mean of the checkpoints' weights, which is merged for this, scored, and removed again."""
    asked = replace(request, method=Simple(), settings=None, recipe=None, adapter=None)
    with tempfile.TemporaryDirectory(prefix=".mean-", dir=folder) as temporary:
        path = Path(temporary) / "mean of weights"
        prepared = prepare_merge(asked)
        write_output(prepared, path, {"name": Simple().name}, first_device(plain.trainer.accelerator))
        own = _scoring(plain, request, path)
        model, settings = own.models[-1], scoring.settings
        scoring.evaluations[model.name] = own.evaluations[model.name]
        scoring.predicted[model.name] = predict_all(
            model,
            own.evaluations[model.name],
            settings.trainer,
            batch_size=settings.batch_size,
            max_length=settings.max_length,
        )
    return model


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
