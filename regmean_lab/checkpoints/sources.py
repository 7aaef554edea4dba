"""Where checkpoints lie: local folders, and models of the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.models.converted_weights import (
    DEFAULT_MODELS_FOLDER,
    SMALL_FILES,
    assembled,
    folder_weights,
    has_safetensors,
    hub_weights,
    matching,
    pickled_files,
    prepare_command,
)
from regmean_lab.models.folders import ADAPTER_CONFIG_FILE, CONFIG_FILE, two_readings
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub import HubModel, fetch, find_on_hub, is_hub_name, split_reference
from regmean_lab.models.sentence_folders import FOLDER_FILES, is_sentence_folder, transformer_folder

FILES = (*SMALL_FILES, "*.safetensors", "statistics/*.safetensors", *FOLDER_FILES)
"""What is fetched from the hub."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that was asked for.

    Attributes:
        name: what messages and folders call it; no two of a merge are called the same.
        reference: how it was asked for.
        folder: where its files lie.
        revision: the commit of a model of the hub, or None.
        statistics_from: where statistics lie, if not in ``folder``, which then holds converted weights, or the
            transformer of a folder of sentence-transformers.
        whole: that the whole model of a folder is meant, which holds an adapter too.
    """

    name: str
    reference: str
    folder: Path
    revision: str | None = None
    statistics_from: Path | None = None
    whole: bool = False

    @property
    def public_reference(self) -> str:
        """How others may be told where it is from: a model's name on the hub, or the last part of a path."""
        if self.revision is not None:
            return self.reference
        shown = self.reference if _meant(self.reference) else None
        folder = (self.statistics_from or self.folder).resolve().name
        return folder if shown is None else f"{folder}/{Path(shown).name}"

    @property
    def sentence_folder(self) -> Path | None:
        """The folder with ``modules.json``, if it is a model of sentence-transformers."""
        root = self.statistics_from or self.folder
        return root if is_sentence_folder(root) else None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter, which needs the weights of another model."""
        return not self.whole and (self.folder / ADAPTER_CONFIG_FILE).is_file()


def find_sources(references: list[str], models_folder: Path = DEFAULT_MODELS_FOLDER) -> list[Source]:
    """Find all checkpoints of a merge and give each a name.

    Args:
        references: folders, or names of models on the hub (``name@revision``).
        models_folder: where converted models are kept.

    Raises:
        CheckpointError: with all that cannot be had.
    """
    found: list[str] = []
    located = []
    for reference in references:
        try:
            located.append(_located(reference, models_folder))
        except CheckpointError as error:
            found += error.problems
    if found:
        raise CheckpointError(found)
    shown = [reference if _meant(reference) is None else str(Path(reference).parent) for reference in references]
    names = unique_names(shown)
    return [
        Source(name, reference, folder, revision, statistics_from, _meant(reference) == CONFIG_FILE)
        for name, reference, (folder, revision, statistics_from) in zip(names, references, located, strict=True)
    ]


def locate(reference: str, models_folder: Path = DEFAULT_MODELS_FOLDER) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit if it is of the hub.

    Args:
        reference: a folder, or a model's name on the hub (``name@revision``), which is fetched (weights as safetensors,
            never code). A folder goes before a model of the hub with the same name. Of a folder that holds a whole
            model and an adapter, ``config.json`` or ``adapter_config.json`` in it says which of them is meant.
        models_folder: where converted models are kept.

    Raises:
        CheckpointError: when there is none, or two.
    """
    return _located(reference, models_folder)[:2]


def _located(reference: str, models_folder: Path) -> tuple[Path, str | None, Path | None]:
    path = Path(reference).expanduser()
    if _meant(reference) is not None:
        return _local(path.parent, reference, models_folder)
    if path.is_dir():
        own = transformer_folder(path)
        if not any((own / file).is_file() for file in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
            raise CheckpointError([f"{own}: no {CONFIG_FILE} there; expected a Hugging Face model folder"])
        if problem := two_readings(own):
            files = f"{own / CONFIG_FILE} or {own / ADAPTER_CONFIG_FILE}"
            raise CheckpointError([f"{problem} Say which is meant: {files}"])
        folder, revision, whole = _local(own, reference, models_folder)
        return folder, revision, whole if own.samefile(path) else path
    name, revision = split_reference(reference)
    if revision is not None and Path(name).expanduser().is_dir():
        raise CheckpointError([f"{reference}: a folder has no revisions; leave out @{revision}"])
    if not is_hub_name(name):
        raise CheckpointError(
            [f"{reference}: neither a folder nor the name of a model on the hub (model or owner/model, with @revision)"]
        )
    model = find_on_hub(name, revision)
    if model.problem is not None:
        raise CheckpointError(
            [model.problem.replace("model.checkpoint=/path/to/folder", "checkpoints=[/path/a,/path/b]")]
        )
    weights = hub_weights(name, model, models_folder, prepare_command(reference, models_folder))
    if weights.problem is not None:
        raise CheckpointError([weights.problem])
    folder = _fetched(name, model, revision or "main")
    if problem := two_readings(folder):
        files = f"FOLDER/{CONFIG_FILE} or FOLDER/{ADAPTER_CONFIG_FILE}"
        raise CheckpointError([f"{reference}: {problem} Download it, and say which is meant: {files}"])
    if weights.folder is not None:
        return weights.folder, model.commit, folder
    if weights.commit != model.commit:
        assert weights.commit is not None
        converted = _fetched(name, find_on_hub(name, weights.commit))
        return assembled(name, model.commit, folder, converted, models_folder), model.commit, folder
    return folder, model.commit, None


def _local(path: Path, reference: str, models_folder: Path) -> tuple[Path, None, Path | None]:
    """A local folder, or if its weights are pickled, the copy that was converted."""
    names = [file.name for file in path.iterdir()]
    if has_safetensors(names) or not (pickled := pickled_files(names)):
        return path, None, None
    if (converted := folder_weights(path, models_folder)) is not None:
        return converted, None, path
    raise CheckpointError(
        [
            f"{path}: weights in {', '.join(pickled)}, which is not read: such a file can run code. Convert it once, "
            f"in a separate process with torch.load(weights_only=True): {prepare_command(reference, models_folder)}"
        ]
    )


def _fetched(name: str, model: HubModel, revision: str | None = None) -> Path:
    if model.folder is not None:
        return model.folder
    try:
        files = None if model.files is None else matching(model.files, FILES)
        return fetch(name, model.commit, files, FILES, revision)
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError([f"{name}: could not be fetched from the hub ({reason})"]) from None


def _meant(reference: str) -> str | None:
    """The name of the file that says how a folder is to be read, if a reference is that of such a file."""
    path = Path(reference).expanduser()
    return path.name if path.name in (CONFIG_FILE, ADAPTER_CONFIG_FILE) and path.is_file() else None


def unique_names(references: list[str]) -> list[str]:
    """A short name for each reference, fit for a folder: its last part, with a number where two are alike."""
    short = [re.sub(r"[^\w.+-]", "_", _last_part(reference)).lstrip(".") or "model" for reference in references]
    names: list[str] = []
    for number, name in enumerate(short, start=1):
        names.append(name if short.count(name) == 1 else f"{name}-{number}")
    while len(set(names)) < len(names):  # a name with a number may be that of another one
        names = [f"{name}_" if names.index(name) != place else name for place, name in enumerate(names)]
    return names


def _last_part(reference: str) -> str:
    name, revision = split_reference(reference)
    if revision and "/" in revision and is_hub_name(name) and not Path(reference).expanduser().is_dir():
        return f"{Path(name).name}@{revision}"
    return Path(reference).expanduser().name
