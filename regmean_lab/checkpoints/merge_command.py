"""``experiment=merge_checkpoints``: merge checkpoints of any origin from weights and published statistics."""

from __future__ import annotations

import copy
import itertools
import logging
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from regmean_lab.checkpoints.compatibility import HEADS
from regmean_lab.checkpoints.lora.request import SPACES, AdapterRequest
from regmean_lab.checkpoints.merge import MergeRequest, PreparedMerge, prepare_merge, statistics_problems
from regmean_lab.checkpoints.merge_pushing import merge_destination, push_merge
from regmean_lab.checkpoints.output import (
    checksums,
    evaluation_folder,
    find_merged,
    fingerprint,
    has_record,
    output_problem,
    write_output,
)
from regmean_lab.checkpoints.recipe.reading import read_recipe
from regmean_lab.checkpoints.recipe.request import lost_models, request_of_recipe
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.checkpoints.writing import parse_size
from regmean_lab.config.checkpoint_commands import AdapterConfig, Measured, MergeCheckpointsConfig, written_output
from regmean_lab.config.resolvers import root_folder
from regmean_lab.config.running_job import job_overrides
from regmean_lab.config.schema import ConfigurationError, all_methods, method_type_of, plain_config
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.member_text import ReadsText
from regmean_lab.merging.memory import memory_for_merge
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub_uploads import Destination, repository_problem
from regmean_lab.results import MERGED_FOLDER
from regmean_lab.training.processes import device_problems, first_device
from regmean_lab.utils.checks import at_least_one, one_of
from regmean_lab.zoo import Zoo

log = logging.getLogger(__name__)

written = written_output

DEFAULT_METHOD = "regmean"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check(config: DictConfig) -> None:
    """Check values, and headers and configurations of the checkpoints against each other; see ``prepare_merge``.

    Raises:
        ConfigurationError: with everything that stands against the merge.
    """
    output = OmegaConf.select(config, "output")
    _checked(config, None if output is None else Path(str(output)).expanduser())


def plan(config: DictConfig) -> list[str]:
    """What :func:`run` would do, in lines; the hub is not asked whether it would take what is pushed.

    Raises:
        ConfigurationError: as :func:`check` does.
    """
    from regmean_lab.checkpoints.merge_plan import merge_lines, merge_push_lines

    plain = _plain(config)
    folder = Path(plain.paths.output_dir) / root_folder(plain.method.name, config)
    output = Path(plain.output).expanduser() if plain.output is not None else folder / MERGED_FOLDER
    _, prepared, _ = _checked(config, output)
    lines = merge_lines(prepared, output)
    if plain.evaluate is not None:
        scored = "the merge, the checkpoints and their ensemble are"
        if prepared.request.heads == "keep":
            scored = "each checkpoint, and the merge with its head, is"
        lines.append(f"  then {scored} scored; results in {evaluation_folder(output)}")
    if plain.push is not None:
        lines += merge_push_lines(prepared, output, plain.push, private=plain.private)
    return lines


def run(config: DictConfig, folder: Path) -> Measured:
    """Merge, or find the finished output; score and push it if the configuration asks for that.

    Args:
        config: the composed configuration.
        folder: the job's folder.

    Returns:
        Where the merged model lies, and the scores, if any were asked for.

    Raises:
        ConfigurationError: with everything that stands against the merge, before weights are read.
        MergeError: for weights that cannot be merged.
        PushError: when the finished merge could not be pushed.
    """
    plain = _plain(config)
    output = Path(plain.output).expanduser() if plain.output is not None else folder / MERGED_FOLDER
    request, prepared, destination = _checked(config, output)
    if destination is not None:
        log.info("when it is finished, all files of the merged model are pushed to %s", destination.told)
    for warning in prepared.warnings:
        log.warning("%s", warning)
    for note in prepared.agreement.notes:
        log.info("%s", note)
    settings = {"name": request.method.name, **_settings(request.method)}
    device, zoo = first_device(config.trainer.accelerator), Zoo(Path(config.paths.zoo_dir))
    trains = isinstance(request.method, Distill)
    sums, wanted = None, None
    # Where nothing is compared with the checksums beforehand, they are computed while weights are merged.
    if trains or has_record(output) or any(part.files for part in prepared.statistics):
        sums = checksums(prepared)
        wanted = fingerprint(prepared, settings, sums)
    with zoo.work({"merge": wanted}, f"merging {output}") if trains else nullcontext() as snapshots:
        if wanted is not None and not config.force and find_merged(output, wanted):
            log.info("found the finished merge %s", output)
        else:
            prepared.snapshots = snapshots
            earlier = has_record(output)
            with memory_for_merge(request.method, [member.name for member in prepared.members], device):
                write_output(prepared, output, settings, device, sums)
            log.info("written to %s%s", output, ", in place of an earlier merge" if earlier else "")
            scores = evaluation_folder(output)
            if plain.evaluate is None and scores.is_dir():
                log.warning("the scores in %s are those of an earlier merge: evaluate=FILE measures this one", scores)
    measured = Measured([], [], output, written=output)
    if plain.evaluate is not None:
        from regmean_lab.checkpoints.scoring.merged import score_merge  # Lightning, which merging does without

        overrides = ["experiment=merge_checkpoints", *job_overrides()]
        measured = score_merge(plain, request, output, settings, overrides)
    if destination is not None:
        title = f"Merge of {' + '.join(member.name for member in prepared.members)} by {request.method.name}"
        for line in push_merge(destination, output, title):
            log.info("%s", line)
    return measured


def _checked(config: DictConfig, output: Path | None) -> tuple[MergeRequest, PreparedMerge, Destination | None]:
    """The merge as it was asked for and as it is done, and the repository that it is pushed to, if it is.

    Args:
        config: a composed configuration.
        output: folder of the merged model; None where it is not known yet.

    Raises:
        ConfigurationError: with everything that stands against merge, scores and push.
    """
    plain = _plain(config)
    request, prepared, destination, found = None, None, None, list[str]()
    try:
        request = request_of(config)
        prepared = _prepared(request)
        if any(part.files for part in prepared.statistics):
            found += statistics_problems(prepared, checksums(prepared))
        if plain.evaluate is not None:
            from regmean_lab.checkpoints.scoring.merged import scoring_problems  # Lightning, as above

            found += scoring_problems(plain, request)
    except ConfigurationError as error:
        found += error.problems
    if plain.push is not None and plain.plan:
        found += filter(None, [repository_problem(plain.push)])
    elif plain.push is not None:
        destination, problems = merge_destination(plain.push, private=plain.private, folder=output)
        found += problems
    if found or request is None or prepared is None:
        raise ConfigurationError(found)
    return request, prepared, destination


def _plain(config: DictConfig) -> MergeCheckpointsConfig:
    """The configuration as a dataclass; where there is a recipe, it names the checkpoints."""
    if OmegaConf.select(config, "recipe") is not None and OmegaConf.is_missing(config, "checkpoints"):
        config = copy.deepcopy(config)
        config.checkpoints = []
    return plain_config(config, MergeCheckpointsConfig)


def request_of(config: DictConfig) -> MergeRequest:
    """The merge that a configuration asks for.

    Raises:
        ConfigurationError: with every value that makes no sense.
    """
    plain = _plain(config)
    found = [f"trainer.{problem}" for problem in plain.trainer.problems()]
    one_of("heads", plain.heads, HEADS, found)
    if plain.dtype is not None:
        one_of("dtype", plain.dtype, tuple(DTYPES), found)
    size = 0
    try:
        size = parse_size(plain.max_shard_size)
    except ValueError as error:
        found.append(f"max_shard_size: {error}")
    adapter = _adapter(plain.adapter, found)
    problem = None if plain.output is None else output_problem(Path(plain.output).expanduser())
    if problem is not None:
        found.append(problem)
    found += device_problems(plain.trainer)
    models_folder = Path(plain.paths.zoo_dir) / MODELS_FOLDER
    dtype = None if plain.dtype is None else DTYPES.get(plain.dtype)
    request = None
    if plain.recipe is not None:
        request = _of_recipe(plain, dtype, size, models_folder, adapter, found)
    else:
        method = _method(plain.method, len(plain.checkpoints), plain.heads, found)
        if method is not None:
            names = list(plain.checkpoints)
            request = MergeRequest(
                names,
                method,
                plain.base,
                plain.heads,
                dtype,
                size,
                models_folder,
                adapter=adapter,
                trainer=plain.trainer,
            )
    if plain.recipe is not None:
        listed, base = ([], None) if request is None else (request.checkpoints, request.base)
    else:
        listed, base = list(plain.checkpoints), plain.base
    try:
        sources = find_sources([*listed, *([base] if base is not None else [])], models_folder)
    except CheckpointError as error:
        sources = []
        found += [*error.problems, *_names_with_commas(plain.checkpoints)]
    if plain.output is not None and problem is None:
        output = Path(plain.output).expanduser().resolve()
        found += [
            f"output: {plain.output} is the folder of {source.reference}, or one around it, which would be replaced"
            for source in sources
            if source.folder.resolve().is_relative_to(output)
        ]
    if found or request is None:
        raise ConfigurationError(found)
    return request


def _of_recipe(
    plain: MergeCheckpointsConfig,
    dtype: torch.dtype | None,
    size: int,
    models_folder: Path,
    adapter: AdapterRequest | None,
    found: list[str],
) -> MergeRequest | None:
    """The merge that a recipe asks for; appends what is wrong with it, or with what was given beside it."""
    default = all_methods()[DEFAULT_METHOD]()
    for key, differs in (
        ("checkpoints", bool(plain.checkpoints)),
        ("base", plain.base is not None and adapter is None),
        ("method", any(getattr(plain.method, k, None) != value for k, value in vars(default).items() if k[0] != "_")),
    ):
        if differs:
            found.append(f"{key}: given beside a recipe, which says that; leave it out")
    assert plain.recipe is not None
    try:
        recipe = read_recipe(Path(plain.recipe).expanduser())
        if problems := lost_models(recipe, models_folder):
            raise CheckpointError(problems)
        if plain.base is not None and recipe.base is not None:
            raise CheckpointError(["base: given beside a recipe with base_model; leave one of them out"])
        request = request_of_recipe(
            recipe,
            heads=plain.heads,
            dtype=dtype,
            max_shard_size=size,
            models_folder=models_folder,
            adapter=adapter,
        )
        # The base of an adapter, where the recipe's method has none.
        return request if plain.base is None else replace(request, base=plain.base)
    except CheckpointError as error:
        found += error.problems
    return None


def _adapter(plain: AdapterConfig, found: list[str]) -> AdapterRequest | None:
    """The adapter that a configuration asks for; appends what is wrong with it."""
    one_of("adapter.space", plain.space, SPACES, found)
    if plain.rank is None:
        if plain.space == "core":
            found.append("adapter.space: core writes an adapter; give its rank with adapter.rank=NUMBER")
        return None
    at_least_one("adapter.rank", plain.rank, found)
    return AdapterRequest(plain.rank, plain.space)


def _names_with_commas(references: list[str]) -> list[str]:
    """Folders whose names have a comma, at which they were divided."""
    return [
        f"checkpoints: {name} is a folder; a name with a comma is written in quotes: \"checkpoints=['{name}',…]\""
        for name in map(",".join, itertools.pairwise(references))
        if Path(name).expanduser().is_dir()
    ]


def _method(node: Any, count: int, heads: str, found: list[str]) -> MergeMethod | None:
    """The method that a configuration chooses; appends what is wrong with it."""
    method_type = method_type_of(node)
    if not issubclass(method_type, MergeMethod):
        found.append(f"method: {node.name} merges no weights; choose a merge method")
        return None
    method = method_type(**{part.name: getattr(node, part.name) for part in fields(method_type) if part.init})
    found += [f"method.{problem}" for problem in method.problems()]
    found += [problem.replace("members:", "checkpoints:", 1) for problem in method.count_problems(count)]
    found += [f"method.{problem}" for problem in method.number_problems(count, "checkpoints")]
    if method.label_head != "merged":
        found.append("method.label_head: checkpoints do not say which labels their data annotated; expected merged")
    if method.is_partial and heads != "keep":
        found.append("heads: the method leaves parameters to the checkpoints, and only heads=keep has a place for them")
    return method


def _prepared(request: MergeRequest) -> PreparedMerge:
    try:
        return prepare_merge(request)
    except CheckpointError as error:
        raise ConfigurationError(error.problems) from None


def _settings(method: MergeMethod) -> dict[str, Any]:
    """The settings for the record: of the path of a file of texts the last part, as its content is hashed."""
    settings = {part.name: getattr(method, part.name) for part in fields(method) if part.init}
    if isinstance(method, ReadsText) and method.text_file is not None:
        settings["text"] = method.text_file.name
    return settings
