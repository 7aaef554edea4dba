"""Matrices of a checkpoint's layers, measured on pseudo-text from its published counts of tokens by itself."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.tasks import longest_text
from regmean_lab.checkpoints.text_plan import task_of_member
from regmean_lab.checkpoints.tokenizer_folders import tokenizer_in
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import ModelError
from regmean_lab.statistics import KINDS, StatisticsError, TokensFile
from regmean_lab.suites.base import Task
from regmean_lab.suites.pseudo_text import PseudoExamples, pseudo_loader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

EXAMPLES = 3000
"""Texts that are drawn."""

SEED = 0
"""Which texts are drawn."""

BATCH_TOKENS = 2048


@dataclass
class PseudoMatrices:
    """Statistics of a checkpoint's layers, measured when the first matrix is asked for.

    Attributes:
        member: the checkpoint.
        kind: which statistics: ``gram`` or ``weighted_gram``.
        path: its counts of tokens.
        task: what it predicts.
        tokenizer: its own.
    """

    member: Member
    kind: str
    path: Path
    task: Task
    tokenizer: PreTrainedTokenizerBase
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def matrix(self, layer: str) -> Tensor:
        """The matrix of a layer's inputs, shape [in, in]."""
        with self._lock:  # layers may be merged side by side
            file = self._file
        matrix: Tensor = file.matrix(layer)
        return matrix

    @cached_property
    def _file(self) -> Any:
        about, folder = KINDS[self.kind], Path(self._folder.name)
        log.info("measuring %s of %s on %d texts from its counts of tokens", self.kind, self.member.name, EXAMPLES)
        about.save(folder / "matrices.safetensors", self._measured(), {})
        return about.file(folder / "matrices.safetensors")

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="regmean-lab-")  # gone with this object

    def _measured(self) -> Any:
        from regmean_lab.callbacks.text_streams import unlabelled  # imports Lightning
        from regmean_lab.checkpoints.merged_text import module_with

        about, member, tokenizer = KINDS[self.kind], self.member, self.tokenizer
        length = longest_text(member.architecture.config, tokenizer, None)
        with TokensFile(self.path) as file:
            counts = file.counts
        with torch.random.fork_rng(devices=[]):
            module = module_with(member, member.weights, self.task, member.rows, tokenizer.pad_token_id)
            experts = about.of_experts and bool(member.architecture.layout.stacked)
            collection = about.collection(module, about.settings(), None, experts)
            mark = unlabelled(dict, tokenizer, self.task)
            for batch in pseudo_loader(
                counts, tokenizer, seed=SEED, examples=EXAMPLES, batch_tokens=BATCH_TOKENS, max_length=length
            ):
                collection.add(module.with_answers(self._with_labels(mark(batch))))
        return collection.compute()

    def _with_labels(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A batch with the labels that matrices of scores look at, which say only that every text counts."""
        rows, labels = len(batch["input_ids"]), len(self.task.labels)
        if self.task.kind == "multi_label":
            return {**batch, "labels": torch.zeros(rows, labels, dtype=torch.int64)}
        if self.task.kind in ("single_label", "regression"):
            dtype = torch.int64 if self.task.kind == "single_label" else torch.float32
            return {**batch, "labels": torch.zeros(rows, dtype=dtype)}
        return batch


def pseudo_matrices(member: Member, kind: str) -> PseudoMatrices | None:
    """Statistics of a checkpoint's layers on pseudo-text; None where it has no counts of tokens, or cannot read them.

    Nothing is measured before a matrix is asked for.

    Args:
        member: the checkpoint.
        kind: ``gram`` or ``weighted_gram``.
    """
    folder = member.source.statistics_from or member.source.folder
    path = published_path(folder, "tokens")
    if not path.is_file() or member.tokenizer_folder is None or member.sentence is not None or member.own_names:
        return None
    try:
        task, tokenizer = task_of_member(member), tokenizer_in(member.tokenizer_folder)
        with TokensFile(path) as file:
            PseudoExamples(file.counts, tokenizer, SEED)
    except (CheckpointError, ModelError, StatisticsError) as error:
        log.warning("%s: no pseudo-text: %s", member.name, error)
        return None
    return PseudoMatrices(member, kind, path, task, tokenizer)
