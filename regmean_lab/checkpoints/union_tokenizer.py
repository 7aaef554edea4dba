"""A tokenizer with the tokens of all members, where no member has them all."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from regmean_lab.checkpoints.alignment import AlignedWeights, RowOrder
from regmean_lab.checkpoints.architecture_reading import read_architecture
from regmean_lab.checkpoints.empty_models import Like
from regmean_lab.checkpoints.members import Member
from regmean_lab.models.folders import CONFIG_FILE, stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import quiet_transformers

if TYPE_CHECKING:
    from transformers import AddedToken, PreTrainedTokenizerBase

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""They are there until the process ends: a prepared merge reads its tokenizer when it writes."""


def union_lead(members: Sequence[Member]) -> Member | None:
    """The first member that is a whole model, with the tokens of all others added to its tokenizer and vocabulary.

    Rows of added tokens lie behind its own, in the order of the members and of the tokens' rows there; its weights hold
    zeros in them.

    Args:
        members: what is merged, and the base.

    Returns:
        None where a member has all tokens.

    Raises:
        CheckpointError: when no member can be the first.
    """
    known = [member for member in members if member.tokens is not None]
    everything = {token for member in known for token in member.tokens or {}}
    if any(everything <= set(member.tokens or {}) for member in known):
        return None
    whole = [member for member in known if not member.source.is_adapter and member.architecture.vocabulary]
    if not whole:
        raise CheckpointError(["union: all models are adapters; expected a whole one, whose tokenizer is added to"])
    first = whole[0]
    assert first.tokenizer_folder is not None
    folder = tempfile.TemporaryDirectory(prefix="regmean-lab-tokenizer-")
    _FOLDERS.append(folder)
    with quiet_transformers():
        tokenizer = _loaded(first.tokenizer_folder)
        for member in known:
            if member is not first and member.tokenizer_folder is not None:
                _add(tokenizer, member.tokens or {}, _loaded(member.tokenizer_folder))
        tokenizer.save_pretrained(folder.name)
        tokens = dict(tokenizer.get_vocab())
    if lost := sorted(everything - set(tokens)):
        raise CheckpointError([f"union: {', '.join(map(repr, lost[:3]))} cannot be added to {first.name}'s tokenizer"])
    return _extended(first, tokens, Path(folder.name))


def _loaded(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _add(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, int], other: PreTrainedTokenizerBase) -> None:
    """Add the tokens of another tokenizer that one lacks, as they are treated there."""
    there = {token.content: token for token in other.added_tokens_decoder.values()}
    own = tokenizer.get_vocab()
    lacking: list[str | AddedToken] = [
        there.get(token, token) for token, _ in sorted(tokens.items(), key=lambda pair: pair[1]) if token not in own
    ]
    tokenizer.add_tokens(lacking)


def _extended(first: Member, tokens: dict[str, int], folder: Path) -> Member:
    """A model with more rows in its table of tokens."""
    own, rows = first.rows, max(first.rows, max(tokens.values()) + 1)
    stored = stored_tensors(first.source.folder)
    architecture = read_architecture(first.source.folder, len(stored), Like(tokens=rows), stored)
    names = set(first.weights)
    if first.architecture.leaders != architecture.leaders:  # as its files say, against its configuration
        architecture.untie({name: name for name in names})
    order = RowOrder(torch.cat([torch.arange(own), torch.full((rows - own,), -1)]))
    weights = AlignedWeights(
        first.weights, {name: name for name in first.weights}, dict.fromkeys(first.vocabulary, order)
    )
    return Member(
        first.source,
        architecture,
        weights,
        first.dtypes,
        tokens,
        folder,
        [path for path in first.files if path.name == CONFIG_FILE],
    )
