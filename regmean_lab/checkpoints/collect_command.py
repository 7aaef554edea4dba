"""``experiment=collect_statistics``: statistics of one fine-tuned model, written beside it for others to merge with."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints.empty_models import Like, empty_model
from regmean_lab.checkpoints.publishing.card import write_cards
from regmean_lab.checkpoints.publishing.collect_problems import label_problems, value_problems
from regmean_lab.checkpoints.publishing.identity import identity_of
from regmean_lab.checkpoints.publishing.layers import input_widths
from regmean_lab.checkpoints.publishing.pushing import StatisticsPush, push_statistics, statistics_push, weights_problem
from regmean_lab.checkpoints.publishing.reading import is_local, read_checkpoint
from regmean_lab.checkpoints.tasks import TASKS, task_name, task_of
from regmean_lab.checkpoints.unchanged import ReadFiles
from regmean_lab.config.checkpoint_commands import CollectConfig, pushed_to
from regmean_lab.config.groups import ModelConfig
from regmean_lab.config.resolvers import root_folder
from regmean_lab.config.schema import ConfigurationError, plain_config
from regmean_lab.models.converted_weights import MODELS_FOLDER, small_files
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub_uploads import repository_problem
from regmean_lab.models.pretrained import Checkpoint, ModelError, quiet_transformers
from regmean_lab.models.sentence_folders import SentenceFolder, read_sentence_folder
from regmean_lab.statistics import StatisticsError
from regmean_lab.suites.tables.table import missing_file
from regmean_lab.utils.files import STATISTICS_FOLDER, write_json

RECORD_FILE = "collection.json"
log = logging.getLogger(__name__)


def check(config: DictConfig) -> None:
    """Check a composed configuration: its values, and whether model and data are there, and where they are pushed.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    plain = _plain(config)
    found = value_problems(plain)
    if plain.matrices is None and (problem := missing_file(plain.data)):
        found.append(problem)
    try:
        checkpoint, sentence = _checkpoint(plain)
        if plain.matrices is None and plain.task in (None, *TASKS):
            model_config, _ = read_checkpoint(checkpoint)
            name = task_name(model_config, plain.task, sentence)
            found += label_problems(plain, name, task_of(model_config, name))
    except ModelError as error:
        found.append(str(error))
    if plain.push is not None and plain.plan:
        found += filter(None, [repository_problem(plain.push)])
    elif plain.push is not None:
        found += _push(plain, _output(plain, Path(plain.paths.output_dir)))[1]
    if found:
        raise ConfigurationError(found)


def written(config: DictConfig) -> list[tuple[str, Path]]:
    """What a job writes outside of its own folder: the key that says so, and the path of each file of statistics."""
    found = pushed_to(config)
    key = "checkpoint" if config.output is None else "output"
    if key == "checkpoint" and not is_local(config.checkpoint):
        return found
    folder = Path(str(config[key])).expanduser() / STATISTICS_FOLDER
    return found + [(key, folder / f"{kind}.safetensors") for kind in dict.fromkeys(config.kinds)]


def plan(config: DictConfig) -> list[str]:
    """What :func:`run` would do, in lines; no data are read, and the hub is not asked whether it would take them.

    Raises:
        ConfigurationError: as :func:`check` does.
    """
    from regmean_lab.checkpoints.publishing.plan import collect_lines, collect_push_lines

    check(config)
    plain = _plain(config)
    output = _output(plain, Path(plain.paths.output_dir) / root_folder(plain.checkpoint, config))
    checkpoint, _ = _checkpoint(plain)
    with quiet_transformers():
        empty, _ = empty_model(checkpoint.config(), Like(), None, lenient=True)
    lines = collect_lines(plain, output, input_widths(empty))
    if plain.push is not None:
        lines += collect_push_lines(plain, output)
    return lines


def run(config: DictConfig, folder: Path) -> None:
    """Collect what is not there yet, write it with its card, and push it if the configuration asks for that.

    Args:
        config: a composed configuration.
        folder: the job's folder.

    Raises:
        ConfigurationError: as :func:`check` does.
        ModelError: when the model cannot be loaded.
        DataError: when the data cannot be read.
        StatisticsError: when too few rows were seen, or something is not finite.
        PushError: when what was written could not be pushed.
    """
    check(config)
    from regmean_lab.checkpoints.publishing.measuring import converted, measured  # with Lightning

    plain = _plain(config)
    checkpoint, sentence = _checkpoint(plain)
    read = _read_files(checkpoint, sentence)
    output, model = _output(plain, folder), identity_of(checkpoint, sentence, plain.push is not None)
    push_to, found = _push(plain, output)
    if push_to is not None and (problem := weights_problem(push_to, model)):
        found.append(problem)
    if found:
        raise ConfigurationError(found)
    if push_to is not None:
        log.info("when they are finished, the statistics are pushed to %s", push_to.destination.told)
    if plain.matrices is not None:
        done = converted(plain, checkpoint, output, model)
    else:
        done = measured(plain, checkpoint, sentence, folder, output, model, read)
    title = Path(plain.checkpoint).expanduser().resolve().name if is_local(plain.checkpoint) else plain.checkpoint
    try:
        cards = write_cards(output, title, both=plain.card)
    except ValueError as error:
        raise StatisticsError(str(error)) from None
    files = {kind: str(published_path(output, kind)) for kind in done}
    write_json(folder / RECORD_FILE, {"done": done, "files": files, "cards": [str(path) for path in cards]})
    for kind, path in files.items():
        print(f"{kind}: {done[kind]}, {path} ({Path(path).stat().st_size} bytes)")
    print(f"described in {', '.join(str(path) for path in cards)}")
    if push_to is not None:
        for line in push_statistics(push_to, output):
            print(line)


def _plain(config: DictConfig) -> CollectConfig:
    """The configuration as a dataclass; where there are matrices, there need be no data."""
    if OmegaConf.select(config, "matrices") is not None and OmegaConf.is_missing(config, "data"):
        config = copy.deepcopy(config)
        config.data = ""
    return plain_config(config, CollectConfig)


def _push(plain: CollectConfig, folder: Path) -> tuple[StatisticsPush | None, list[str]]:
    """Where statistics are pushed, if they are, and everything that stands against it."""
    if plain.push is None:
        return None, []
    return statistics_push(plain.push, private=plain.private, folder=folder, kinds=plain.kinds, card=plain.card)


def _read_files(checkpoint: Checkpoint, sentence: SentenceFolder | None) -> ReadFiles:
    """The files of a model in a folder, as they are now; those of a commit of the hub stay what they are."""
    read = ReadFiles()
    if checkpoint.revision is None:
        folder = Path(checkpoint.location)
        read.add(tensor.path for tensor in stored_tensors(folder).values())
        read.add(small_files(folder))
        read.add({} if sentence is None else sentence.weight_files.values())
    return read


def _checkpoint(plain: CollectConfig) -> tuple[Checkpoint, SentenceFolder | None]:
    """The model, and the folder of sentence-transformers whose transformer it is."""
    sentence = None
    reference = plain.checkpoint
    if is_local(reference):
        try:
            sentence = read_sentence_folder(Path(reference).expanduser())
        except CheckpointError as error:
            raise ModelError(f"checkpoint: {error}") from None
        if sentence is not None and sentence.modules[0].path:
            reference = str(sentence.transformer)
    config = ModelConfig(name="checkpoint", checkpoint=reference, revision=plain.revision)
    try:
        return find_checkpoint(config, Path(plain.paths.zoo_dir) / MODELS_FOLDER), sentence
    except ModelError as error:
        raise ModelError(str(error).replace("model.checkpoint", "checkpoint")) from None


def _output(plain: CollectConfig, folder: Path) -> Path:
    if plain.output is not None:
        return Path(plain.output).expanduser()
    return Path(plain.checkpoint).expanduser() if is_local(plain.checkpoint) else folder
