"""Pretrained models: where a checkpoint lies, what identifies its weights, and how it is loaded.

What is looked up of a model needs torch only; transformers comes with :func:`quiet_transformers`, when one is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors.torch import load_file

from regmean_lab.models.converted_weights import (
    matching,
)
from regmean_lab.models.folders import CONFIG_FILE, check_weights, read_json_file, stored_tensors
from regmean_lab.models.headers import CheckpointError, StoredTensor
from regmean_lab.models.hub import fetch, find_on_hub
from regmean_lab.models.outlines import Outline
from regmean_lab.models.plain_tokenizers import TOKENIZER_FILE, PlainTokenizer, plain_tokenizer
from regmean_lab.suites.base import Task, TaskKind
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.names import abbreviated, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PACKAGE_PREFIX = "package:"
PICO_PREFIX = "pico:"
TOKENIZER_FILES = ("tokenizer*.json", "vocab*", "merges*", "*.model")
"""Files that a tokenizer is made of, in all formats."""

NEW_HEAD_ADVICE = "model.new_head=true leaves it out and makes one anew"
WEIGHTS_FILES = ("model*.safetensors", "model.safetensors.index.json")

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

ADAPTER_TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""By PEFT's name of a kind of task, what transformers calls the models that it is for."""

PROBLEM_TYPES: dict[TaskKind, str] = {
    "multi_label": "multi_label_classification",
    "single_label": "single_label_classification",
    "regression": "regression",
}
"""What transformers calls the kinds of task whose labels are of a whole text."""


class ModelError(UserError):
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
        new_head: whether its head is left out and drawn anew.
        folder: where a converted copy lies, if the source has pickled weights only.
        weights_revision: commit of the hub's own conversion, if the source has pickled weights only.
    """

    name: str
    source: str
    revision: str | None
    fingerprint: str
    dropout: float | None = None
    new_head: bool = False
    folder: str | None = None
    weights_revision: str | None = None

    @property
    def location(self) -> str:
        """What it is loaded from: a folder, or a model's name on the hub."""
        return self.folder or self.source

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer.

        One that has no padding token, as GPT-2's, pads with its end-of-sequence token. What is saved with a member says
        so too.
        """
        with quiet_transformers() as transformers:
            tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
                self.location, revision=self.revision or "main", trust_remote_code=False
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def config(self, **settings: Any) -> PreTrainedConfig:
        """The model's configuration, with what ``settings`` changes in it, and the tokenizer's padding token."""
        with quiet_transformers() as transformers:
            config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(
                self.location, revision=self.revision or "main", trust_remote_code=False, **settings
            )
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer().pad_token_id
        if self.dropout is not None:
            for name in DROPOUT_NAMES:
                if hasattr(config, name):
                    setattr(config, name, self.dropout)
        return config

    def plain_config(self) -> dict[str, Any] | None:
        """What its ``config.json`` says, if that is on this machine and can be read."""
        path = self._file(CONFIG_FILE)
        try:
            return None if path is None else read_json_file(path)
        except CheckpointError:
            return None

    def counting_tokenizer(self) -> PreTrainedTokenizerBase | PlainTokenizer:
        """Its tokenizer, to count the tokens of texts: without transformers where its files allow it."""
        path = self._file(TOKENIZER_FILE)
        found = None if path is None else plain_tokenizer(path.parent)
        return self.tokenizer() if found is None else found

    def _file(self, name: str) -> Path | None:
        """One of its files, if it is on this machine: of a model of the hub, in the cache."""
        if self.revision is None or self.folder is not None:
            return Path(self.location) / name
        cached = try_to_load_from_cache(
            self.source, name, cache_dir=str(constants.HF_HUB_CACHE), revision=self.revision
        )
        return Path(cached) if isinstance(cached, str) else None

    def load(self, auto_class: Any, **settings: Any) -> PreTrainedModel:
        """The pretrained model; layers that the checkpoint lacks are drawn from torch's global random state.

        Args:
            auto_class: one of transformers' ``AutoModelFor…``.
            settings: what is changed in the model's configuration.

        Raises:
            ModelError: when the weights cannot be had as safetensors, or lack a part of the encoder.
        """
        return self.load_with_missing(auto_class, **settings)[0]

    def load_with_missing(self, auto_class: Any, **settings: Any) -> tuple[PreTrainedModel, set[str]]:
        """What :meth:`load` gives, and the names of the tensors that the checkpoint lacks.

        With ``new_head`` they include those of the head, which are drawn just as if the checkpoint lacked them.
        """
        config = self.config(**settings)
        start: dict[str, Any] = {"revision": self.weights_revision or self.revision or "main", "use_safetensors": True}
        if own_weights := self.new_head or self._has_wrapped_names():
            auto_class, state = self._read_weights(auto_class, config)
            start = {"state_dict": state}
        model: PreTrainedModel
        try:
            with quiet_transformers():
                model, info = auto_class.from_pretrained(
                    None if own_weights else self.location,
                    config=config,
                    dtype="float32",
                    trust_remote_code=False,
                    output_loading_info=True,
                    **start,  # never a pickle
                )
        except OSError as error:
            raise ModelError(
                f"model.checkpoint: no safetensors weights of {self.source} could be had ({str(error).splitlines()[0]})"
            ) from None
        except RuntimeError as error:
            if "mismatch" not in str(error):
                raise
            raise ModelError(
                f"model.checkpoint: weights of {self.source} have other sizes than {auto_class.__name__} needs here. "
                f"If these are of its head: {NEW_HEAD_ADVICE}"
            ) from None
        if getattr(model, "_hf_peft_config_loaded", False):
            raise ModelError(
                f"model.checkpoint: {self.source} holds a whole model and an adapter, which transformers has added to "
                "it; download it and put the adapter's files elsewhere, or merge it with PEFT's merge_and_unload()"
            )
        missing = set(info["missing_keys"])
        # A head is new, and so may be a pooler; anything else would be random numbers without a word.
        if lost := sorted(name for name in missing - set(head_parameters(model)) if "pool" not in name):
            there = abbreviated(sorted(info["unexpected_keys"]))
            raise ModelError(
                f"model.checkpoint: {self.source} lacks {abbreviated(lost)} of {type(model).__name__}"
                + (f"; its files have {there}, which that does not know" if there else "")
            )
        return model, missing

    def _has_wrapped_names(self) -> bool:
        """Whether names in a local folder's files have parts that torch.compile or data parallelism added."""
        if self.revision is not None:
            return False  # those of the hub are read by transformers, and what they lack is an error
        return any(unwrapped(name) != name for name in self._stored_tensors())

    def _stored_tensors(self) -> dict[str, StoredTensor]:
        try:
            return stored_tensors(self.weights_folder())
        except CheckpointError as error:
            raise ModelError("model.checkpoint: " + "; ".join(error.problems)) from None

    def _read_weights(self, auto_class: Any, config: PreTrainedConfig) -> tuple[Any, dict[str, torch.Tensor]]:
        """The class of the model, and the weights by plain names; with ``new_head``, without those of the head."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = auto_class.from_config(config) if hasattr(auto_class, "from_config") else auto_class(config)
        left_out = set(head_parameters(model)) if self.new_head else set()
        state: dict[str, torch.Tensor] = {}
        for path in dict.fromkeys(tensor.path for tensor in self._stored_tensors().values()):
            weights = {unwrapped(name): value for name, value in load_file(path).items()}
            state |= {name: value for name, value in weights.items() if name not in left_out}
        return type(model), state

    def weights_folder(self) -> Path:
        """The folder of its weights; those of the hub are fetched.

        Raises:
            ModelError: when they cannot be had.
        """
        if self.revision is None or self.folder is not None:
            return Path(self.location)
        commit = self.weights_revision or self.revision
        found = find_on_hub(self.source, commit)
        if found.folder is not None:
            return found.folder
        try:
            files = None if found.files is None else matching(found.files, WEIGHTS_FILES)
            return fetch(self.source, commit, files, WEIGHTS_FILES)
        except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"model.checkpoint: {self.source} could not be fetched from the hub ({reason})") from None


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
    check_headers(folder)
    with quiet_transformers():
        model: PreTrainedModel = auto_class.from_pretrained(folder, dtype="float32", use_safetensors=True)
        return model.eval()


def head_parameters(model: PreTrainedModel | Outline) -> list[str]:
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


def adapter_task(model: PreTrainedModel | Outline) -> str | None:
    """PEFT's name of the kind of task that a model is for; None where it has none."""
    if isinstance(model, Outline):
        return model.task
    with quiet_transformers() as transformers:
        mappings = {task: getattr(transformers, name)._model_mapping for task, name in ADAPTER_TASKS.items()}
    return next((task for task, mapping in mappings.items() if type(model) in mapping.values()), None)


def head_modules(model: PreTrainedModel | Outline) -> list[str]:
    """Names of the model's own modules that its head lies in; parameters of the model itself have none."""
    return list(dict.fromkeys(name.partition(".")[0] for name in head_parameters(model) if "." in name))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder."""
    with quiet_transformers() as transformers:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def check_headers(folder: Path, key: str = "") -> None:
    """Check the headers of a folder's weights; cheap, reads none of them."""
    try:
        check_weights(folder)
    except CheckpointError as error:
        raise ModelError(key + "; ".join(error.problems)) from None


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """The library transformers, without its reports of newly initialised heads and its progress bars for local files.

    It is imported here, as that takes seconds: a model is found, and so are results of it, without it.
    """
    import transformers

    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
