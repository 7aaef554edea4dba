"""Checkpoints that are to be scored: headers and configurations are read first, weights when a test asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.checkpoints.bases import find_bases
from regmean_lab.checkpoints.labels import label_problems, repeated
from regmean_lab.checkpoints.members import Member, read_member
from regmean_lab.checkpoints.merge import check_doubles
from regmean_lab.checkpoints.sources import Source, find_sources
from regmean_lab.checkpoints.tasks import TASKS, class_names, longest_text, task_of
from regmean_lab.checkpoints.tokenizer_folders import tokenizer_in
from regmean_lab.checkpoints.unchanged import ReadFiles
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import ModelError, quiet_transformers
from regmean_lab.suites.base import Task
from regmean_lab.suites.text_generation import FORMS
from regmean_lab.utils.files import contents_sha256, sha256_of
from regmean_lab.utils.names import abbreviated

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from regmean_lab.modules import TaskModule


@dataclass(frozen=True)
class ScoredModel:
    """One checkpoint.

    Attributes:
        member: what its files hold; nothing of its weights was read.
        task: what it predicts, with the names of its outputs in their order; of a language model the kind ``text``
            and its form.
        read: its files, as they were when their headers had been read.
    """

    member: Member
    task: Task
    read: ReadFiles = field(default_factory=ReadFiles, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What messages and tables call it."""
        return self.member.name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what determines what it predicts: weights, configuration, tokenizer, names of outputs."""
        files = dict.fromkeys([*self.member.files, *self.member.tokenizer_files()])
        contents = contents_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))
        return sha256_of([contents, repr(self.task)])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer; without a padding token it pads with the token that ends a text."""
        assert self.member.tokenizer_folder is not None  # as read_models has checked
        return tokenizer_in(self.member.tokenizer_folder)

    def max_length(self, wanted: int | None) -> int:
        """How many tokens of a text it reads: as many as asked for, and as it can take."""
        return longest_text(self.member.architecture.config, self.tokenizer, wanted)

    def module(self, task: Task) -> TaskModule:
        """The model, ready to be tested on a task.

        Raises:
            CheckpointError: when its weights are not those of its class.
            MergeError: when its files hold one weight twice, with different values.
        """
        from regmean_lab.modules import module_type  # Lightning; until then only files are looked at

        check_doubles(self.member)
        return module_type(task)(self._load(self.member.architecture), task)

    def _load(self, architecture: Architecture) -> PreTrainedModel:
        config = architecture.own_config()
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        state = {name: self.member.weights[name] for name in self.member.weights}
        model_class: Any = type(architecture.model)
        model: PreTrainedModel
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                None, config=config, state_dict=state, dtype="float32", output_loading_info=True
            )
        if missing := sorted(info["missing_keys"]):
            raise CheckpointError([f"{self.name}: its files lack {abbreviated(missing)} of {architecture.name}"])
        return model.eval()


def read_models(
    references: Sequence[str],
    *,
    base: str | None,
    labels: Sequence[str] | None,
    models_folder: Path,
    own_bases: Sequence[str | None] = (),
) -> list[ScoredModel]:
    """Find checkpoints and read their headers and configurations.

    Args:
        references: folders, models of the hub, or folders of LoRA adapters.
        base: the base of adapters; None takes the one that each names.
        labels: names of the outputs in their order, in place of those of ``config.json``.
        models_folder: where converted models are kept.
        own_bases: for each checkpoint the base that was named with it, or None; empty where none was.

    Raises:
        CheckpointError: with everything that stands against scoring any of them.
    """
    sources = find_sources(list(references), models_folder)
    bases = find_bases(sources, base, models_folder, own_bases)
    found, models = list(bases.problems), []
    for source in sources:
        if source.is_adapter and source.name not in bases.by_adapter:
            continue  # what its base lacks was told
        try:
            models.append(_read_model(source, bases.by_adapter.get(source.name), labels))
        except CheckpointError as error:
            found += error.problems
    if found:
        raise CheckpointError(found)
    return models


def _read_model(source: Source, base: Source | None, labels: Sequence[str] | None) -> ScoredModel:
    return scored_model(read_member(source, base), labels)


def scored_model(member: Member, labels: Sequence[str] | None) -> ScoredModel:
    """A checkpoint that was read, as one that is scored.

    Args:
        member: the checkpoint.
        labels: names of the outputs in their order, in place of those of ``config.json``.

    Raises:
        CheckpointError: with everything that stands against scoring it.
    """
    source, architecture, found = member.source, member.architecture, list[str]()
    task = None
    try:
        task = _task(architecture, labels)
    except ModelError as error:
        found.append(f"{source.name}: {error}")
    if member.tokenizer_folder is None:
        found.append(f"{source.name}: no tokenizer there, which texts are read with; save it into {source.folder}")
    if found or task is None:
        raise CheckpointError(found)
    read = ReadFiles()
    read.add([*member.files, *member.tokenizer_files()])
    return ScoredModel(member, task, read)


def _task(architecture: Architecture, labels: Sequence[str] | None) -> Task:
    config = architecture.config
    names = [name for name in TASKS if architecture.name == class_names(name).get(config.model_type)]
    if not names:
        raise ModelError(
            f"a {architecture.name}, which predicts nothing that could be scored; expected a model with a head for "
            f"{', '.join(TASKS)}"
        )
    if problems := label_problems({"id2label": config.id2label}):
        raise ModelError(f"config.json: {problems[0]}")
    task = task_of(config, names[0])
    if task.kind == "text":
        task = replace(task, labels=(FORMS[0] if config.is_encoder_decoder else FORMS[1],))
    if labels is not None and task.kind != "text":
        if len(labels) != len(task.labels):
            raise ModelError(f"labels: {len(labels)} names for {len(task.labels)} outputs")
        task = Task(task.kind, tuple(labels), task.key_score)
    if twice := repeated(task.labels):
        raise ModelError(f"config.json: id2label: {twice}; name the outputs with labels=[…]")
    return task
