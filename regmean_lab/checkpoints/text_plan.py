"""Text for merges of checkpoints whose method reads some: pseudo-text from published counts of tokens, or a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.tokenizer_folders import tokenizer_in
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.member_text import OWN, PSEUDO, ReadsText
from regmean_lab.merging.refining import RefiningMethod
from regmean_lab.models.pretrained import ModelError
from regmean_lab.models.shapes import CLASSES, FORMS
from regmean_lab.statistics import StatisticsError
from regmean_lab.statistics.pseudo_text import few_tokens
from regmean_lab.statistics.token_counts import TokenCounts
from regmean_lab.suites.base import DataError, Task
from regmean_lab.suites.plain_text import read_texts
from regmean_lab.suites.pseudo_text import PseudoExamples
from regmean_lab.suites.tables.table import missing_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextPlan:
    """How the text of a merge is read.

    Attributes:
        method: whose text it reads.
        tokenizer: the merged model's.
        task: what the models predict.
        max_length: texts are cut to this many tokens.
        counts: for pseudo-text, of each member the counts that it is drawn from.
    """

    method: ReadsText
    tokenizer: PreTrainedTokenizerBase
    task: Task
    max_length: int
    counts: Sequence[TokenCounts | None]


def request_problems(method: MergeMethod, *, by_tensor: bool, adapter: bool) -> list[str]:
    """Why a method cannot read text in a merge of checkpoints, whatever they are; empty for one that reads none.

    Args:
        method: the method.
        by_tensor: whether tensors have settings of their own, by a recipe.
        adapter: whether a LoRA adapter is written.
    """
    if not method.needs_text:
        return []
    found = []
    if not isinstance(method, ReadsText):
        return [f"method: {method.name} reads the members' text while it merges, and checkpoints come without"]
    if method.text == OWN:
        found.append(
            f"method.text: {method.name} reads text while it merges, and checkpoints come without their own; expected "
            f"{PSEUDO}, drawn from the counts of tokens that were published beside them (collect kinds=[tokens]), or a "
            "file of texts"
        )
    elif method.text_file is not None:
        if problem := missing_file(str(method.text_file), "method.text"):
            found.append(problem)
        else:
            try:
                read_texts(method.text_file, "method.text")
            except DataError as error:
                found.append(str(error))
    if by_tensor:
        what = "refits layer after layer, all with the same settings"
        if not isinstance(method, RefiningMethod):
            what = "reads text with the whole model"
        found.append(f"method: {method.name} {what}: not in a recipe")
    if adapter:
        found.append(whole_models(method))
    return found


def whole_models(method: MergeMethod) -> str:
    """Why a method writes no LoRA adapter, and how to get one."""
    return (
        f"adapter.rank: {method.name} writes whole models; merge without it, and then extract an adapter: "
        "regmean-lab extract checkpoint=MERGED base=BASE rank=RANK"
    )


def plan_text(
    method: ReadsText, members: Sequence[Member], lead: Member, sources: Sequence[Mapping[str, Any]]
) -> tuple[TextPlan | None, list[str], list[str]]:
    """How the text is read, what stands against it, and what a user should know.

    Args:
        method: the method.
        members: the checkpoints.
        lead: the member whose configuration and tokenizer the merged model has.
        sources: of each member its statistics by kind.
    """
    from regmean_lab.checkpoints.tasks import longest_text  # with transformers' lists of models

    assert isinstance(method, MergeMethod)
    found: list[str] = []
    notes: list[str] = []
    architecture = lead.architecture
    if lead.tokenizer_folder is None:
        found.append(f"{lead.name}: no tokenizer there, which text is read with; save it into {lead.source.folder}")
    if any(member.sentence is not None for member in members):
        found.append(f"method: {method.name} does not read through modules of sentence-transformers; choose another")
    prefixes = {member.architecture.encoder_prefix for member in members}
    if len(prefixes) > 1 or any(member.own_names for member in members):
        found.append(f"method: {method.name} needs checkpoints of one class, to read text with")
    task = None
    try:
        task = task_of_member(lead)
    except ModelError as error:
        found.append(str(error).replace("task:", f"{lead.name}:"))
    if task is not None and FORMS[task.kind] in CLASSES:
        found += [f"method.{problem}" for problem in method.reading_problems()]
    if not found and (isinstance(method, Distill) or (isinstance(method, Auto) and method.by_text)):
        found += _unlike_tasks(method, members)
    if found or task is None or lead.tokenizer_folder is None:
        return None, found, notes
    tokenizer = tokenizer_in(lead.tokenizer_folder)
    files = [source.get("tokens") if method.text == PSEUDO else None for source in sources]
    max_length = longest_text(architecture.config, tokenizer, None)
    for member, file in zip(members, files, strict=True):
        if file is None:
            continue
        try:
            known = PseudoExamples(file.counts, tokenizer, 0, max_length=max_length).known
        except StatisticsError as error:
            found.append(f"{file.path}: {error}")
            continue
        if warning := few_tokens(member.name, file.counts):
            notes.append(warning)
        if known < 1:
            notes.append(f"{member.name}: {known:.1%} of its counted tokens are in the merged model's vocabulary")
    counts = [None if file is None else file.counts for file in files]
    return TextPlan(method, tokenizer, task, max_length, counts), found, notes


def _unlike_tasks(method: MergeMethod, members: Sequence[Member]) -> list[str]:
    """Why outputs of members cannot be compared with those of one model by one divergence, if they cannot."""
    kinds: dict[str, str] = {}
    for member in members:
        try:
            kinds.setdefault(task_of_member(member).kind, member.name)
        except ModelError as error:
            return [str(error).replace("task:", f"{member.name}:")]
    if len(kinds) < 2:
        return []
    told = " and ".join(f"{name} is of {kind}" for kind, name in kinds.items())
    return [
        f"method: {method.name} measures how far the merge is from all checkpoints in one unit, and {told}; choose a "
        "method that does not compare outputs"
    ]


def task_of_member(member: Member) -> Task:
    """What a checkpoint predicts, by its own class.

    Raises:
        ModelError: where that cannot be told.
    """
    from regmean_lab.checkpoints.tasks import task_name, task_of

    config = copy.copy(member.architecture.config)
    config.architectures = [member.architecture.name]
    return task_of(config, task_name(config, None))
