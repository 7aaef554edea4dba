"""``regmean-lab extract``: what fine-tuning has changed in a model, as a LoRA adapter to its base."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from regmean_lab.checkpoints.bases import find_bases
from regmean_lab.checkpoints.lora.extraction import (
    ExtractRequest,
    find_extracted,
    prepare_extraction,
    write_extraction,
)
from regmean_lab.checkpoints.merge_command import DTYPES
from regmean_lab.checkpoints.output import output_problem
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.config.checkpoint_commands import ExtractConfig, written_output
from regmean_lab.config.schema import ConfigurationError, plain_config
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError
from regmean_lab.training.processes import device_problems, first_device
from regmean_lab.utils.checks import at_least_one, one_of
from regmean_lab.utils.files import ADAPTER_FOLDER
from regmean_lab.utils.memory import memory_for, other_device

log = logging.getLogger(__name__)

written = written_output


def check(config: DictConfig) -> None:
    """Check values, and headers and configurations of the two models against each other; reads no weights.

    Raises:
        ConfigurationError: with everything that stands against the extraction.
    """
    try:
        prepare_extraction(request_of(config))
    except CheckpointError as error:
        raise ConfigurationError(error.problems) from None


def run(config: DictConfig, folder: Path) -> None:
    """Extract the adapter, or find the finished one.

    Args:
        config: the composed configuration.
        folder: the job's folder.

    Raises:
        ConfigurationError: with everything that stands against the extraction, before weights are read.
        MergeError: for changes that an adapter cannot hold.
    """
    request = request_of(config)
    try:
        prepared = prepare_extraction(request)
    except CheckpointError as error:
        raise ConfigurationError(error.problems) from None
    output = Path(config.output).expanduser() if config.output is not None else folder / ADAPTER_FOLDER
    for note in prepared.notes:
        log.info("%s", note)
    if not config.force and find_extracted(output, prepared):
        log.info("found the finished adapter %s", output)
        return
    device = first_device(config.trainer.accelerator)
    with memory_for(f"extract an adapter of rank {request.rank}, on {device}", other_device(str(device))):
        adapter = write_extraction(prepared, output, device)
    for line in adapter.lines():
        log.info("%s", line)
    log.info("written to %s", output)


def request_of(config: DictConfig) -> ExtractRequest:
    """The extraction that a configuration asks for, its two models found.

    Raises:
        ConfigurationError: with every value that makes no sense.
    """
    plain = plain_config(config, ExtractConfig)
    found = [f"trainer.{problem}" for problem in plain.trainer.problems()]
    found += device_problems(plain.trainer)
    at_least_one("rank", plain.rank, found)
    if plain.dtype is not None:
        one_of("dtype", plain.dtype, tuple(DTYPES), found)
    problem = None if plain.output is None else output_problem(Path(plain.output).expanduser())
    if problem is not None:
        found.append(problem)
    models_folder = Path(plain.paths.zoo_dir) / MODELS_FOLDER
    source = base = None
    try:
        source = find_sources([plain.checkpoint], models_folder)[0]
        bases = find_bases([source], plain.base, models_folder)
        found += bases.problems
        reference = plain.base or bases.references.get(source.name)
        base = None if reference is None else bases.located.get(reference)
        if reference is None and not source.is_adapter:
            found.append("base: the model that the checkpoint was trained from; set base=FOLDER_OR_NAME")
    except CheckpointError as error:
        found += [problem.replace("checkpoints=[/path/a,/path/b]", "checkpoint=/path") for problem in error.problems]
    if plain.output is not None and problem is None:
        output = Path(plain.output).expanduser().resolve()
        found += [
            f"output: {plain.output} is the folder of {one.reference}, or one around it, which would be replaced"
            for one in (source, base)
            if one is not None and one.folder.resolve().is_relative_to(output)
        ]
    if found or source is None or base is None:
        raise ConfigurationError(found)
    return ExtractRequest(source, base, plain.rank, None if plain.dtype is None else DTYPES[plain.dtype])
