"""The changes of one fine-tuned model, written as a LoRA adapter to its base, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regmean_lab.checkpoints.adapters import read_adapter_files
from regmean_lab.checkpoints.card_metadata import TAGS, front_matter, pipeline_tag
from regmean_lab.checkpoints.compatibility import Agreement
from regmean_lab.checkpoints.lora.card import adapter_section
from regmean_lab.checkpoints.lora.folder import WrittenAdapter, write_adapter
from regmean_lab.checkpoints.lora.placement import Placement
from regmean_lab.checkpoints.lora.request import rank_problems
from regmean_lab.checkpoints.members import Member, read_member
from regmean_lab.checkpoints.merge import OF_THE_BASE, check_doubles
from regmean_lab.checkpoints.merge_base import read_base
from regmean_lab.checkpoints.output import RECORD_FILE, copy_tokenizer, labelled
from regmean_lab.checkpoints.sources import Source
from regmean_lab.merging.parameters import MergeError
from regmean_lab.models.folders import read_json_file
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub import split_reference
from regmean_lab.statistics import all_finite
from regmean_lab.tracking.environment import versions
from regmean_lab.utils.files import CARD_FILE, file_sha256, json_sha256, new_folder, write_json
from regmean_lab.utils.names import abbreviated

SCHEMA = 1


@dataclass(frozen=True)
class ExtractRequest:
    """What is extracted.

    Attributes:
        checkpoint: the fine-tuned model, or an adapter.
        base: the model that it was trained from.
        rank: largest rank of the factors.
        dtype: of the adapter; None is float32 for factors, and the checkpoint's for what is held whole.
    """

    checkpoint: Source
    base: Source
    rank: int
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class PreparedExtraction:
    """An extraction that can begin: the two models belong together.

    Attributes:
        request: what was asked for.
        member: the fine-tuned model.
        base: the base, under the names of the fine-tuned model.
        notes: what a user should know.
    """

    request: ExtractRequest
    member: Member
    base: Member
    notes: list[str]

    def sums(self) -> dict[str, dict[str, str]]:
        """SHA-256 of every file that is read, by model and file name."""
        return {
            name: {
                label: file_sha256(path) for label, path in labelled([*model.files, *model.tokenizer_files()]).items()
            }
            for name, model in ((self.member.name, self.member), (OF_THE_BASE, self.base))
        }

    def fingerprint(self, sums: dict[str, dict[str, str]]) -> str:
        """Hash of everything that determines the adapter."""
        return json_sha256(
            {"schema": SCHEMA, "rank": self.request.rank, "dtype": str(self.request.dtype), "files": sums}
        )


def prepare_extraction(request: ExtractRequest) -> PreparedExtraction:
    """Read headers and configurations of both models and compare them; no weights are read.

    Raises:
        CheckpointError: with everything that stands against the extraction.
    """
    source = request.checkpoint
    member = read_member(source, request.base if source.is_adapter else None)
    agreement = Agreement(member, list(member.weights), [], [{}])
    found = []
    if member.strangers:
        found.append(
            f"{source.name}: its files have {abbreviated(member.strangers)}, which {member.architecture.name} does not "
            "have, and which an adapter would lose"
        )
    if member.sentence is not None:
        agreement.notes.append(
            "the modules of sentence-transformers are left out: an adapter is of the transformer alone"
        )
    base = None
    try:
        base = read_base(request.base, agreement, exact=True)
    except CheckpointError as error:
        found += error.problems
    problems, notes = rank_problems("rank", request.rank, Placement(member.architecture))
    found += problems
    if found or base is None:
        raise CheckpointError(found)
    return PreparedExtraction(request, member, base, [*member.notes, *agreement.notes, *notes])


def find_extracted(folder: Path, prepared: PreparedExtraction) -> bool:
    """Whether a folder holds this adapter, finished."""
    try:
        record = read_json_file(folder / RECORD_FILE)
        read_adapter_files(folder)
    except CheckpointError:
        return False
    return record.get("fingerprint") == prepared.fingerprint(prepared.sums())


def write_extraction(prepared: PreparedExtraction, folder: Path, device: torch.device | str = "cpu") -> WrittenAdapter:
    """Write the adapter's folder, whole or not at all; replaces an earlier one.

    Args:
        prepared: the extraction.
        folder: where the adapter lies afterwards.
        device: where to compute.

    Raises:
        MergeError: for changes that an adapter cannot hold, and for NaN and infinity.
    """
    request, member = prepared.request, prepared.member
    check_doubles(member)
    sums = prepared.sums()
    dtypes = {
        name: request.dtype if request.dtype is not None and own.is_floating_point else own
        for name, own in member.dtypes.items()
    }
    with new_folder(folder, "the adapter") as temporary:
        adapter = write_adapter(
            temporary,
            _weights(prepared, torch.device(device)),
            Placement(member.architecture),
            prepared.base.weights,
            request.base,
            request.rank,
            dtypes,
            request.dtype or torch.float32,
        )
        member.architecture.own_config().save_pretrained(temporary)
        copy_tokenizer(member, temporary)
        (temporary / CARD_FILE).write_text(_card(prepared, adapter), encoding="utf-8")
        write_json(temporary / RECORD_FILE, _record(prepared, adapter, sums))
    return adapter


def _weights(prepared: PreparedExtraction, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the fine-tuned model's tensors, float32 at least."""
    for name in prepared.member.weights:
        value = prepared.member.weights[name]
        if not value.dtype.is_floating_point:
            continue  # buffers such as numbers of positions, which are no parameters
        if not all_finite(value):
            raise MergeError(f"{name}: NaN or infinity in the weights of {prepared.member.name}")
        yield name, value.to(device, torch.promote_types(value.dtype, torch.float32))


def _record(prepared: PreparedExtraction, adapter: WrittenAdapter, sums: dict[str, dict[str, str]]) -> dict[str, Any]:
    request, member = prepared.request, prepared.member
    source = member.source
    return {
        "schema": SCHEMA,
        "fingerprint": prepared.fingerprint(sums),
        "checkpoint": {
            "reference": source.public_reference,
            "revision": source.revision,
            "adapter": source.is_adapter,
            "sha256": sums[member.name],
        },
        "base": {
            "reference": request.base.public_reference,
            "revision": request.base.revision,
            "sha256": sums[OF_THE_BASE],
        },
        "adapter": {"rank": request.rank, **adapter.record()},
        "notes": prepared.notes,
        "versions": versions(),
        "command": _command(prepared),
    }


def _command(prepared: PreparedExtraction) -> str:
    request = prepared.request
    parts = [
        f"checkpoint={request.checkpoint.public_reference}",
        f"base={request.base.public_reference}",
        f"rank={request.rank}",
    ]
    if request.dtype is not None:
        parts.append(f"dtype={str(request.dtype).removeprefix('torch.')}")
    return " ".join(["regmean-lab extract", *parts])


def _card(prepared: PreparedExtraction, adapter: WrittenAdapter) -> str:
    request, member = prepared.request, prepared.member
    base = [split_reference(request.base.reference)[0]] if request.base.revision is not None else []
    pipeline = pipeline_tag(member.architecture.name)
    tags = ["lora", TAGS[-1]]
    return f"""\
{front_matter(library="peft", tags=tags, base_models=base, relation="adapter", pipeline=pipeline)}
# {member.name}, as an adapter of rank {request.rank}

Extracted from the weights of `{member.source.public_reference}`: of each linear layer's change the best of that rank.
{adapter_section(member.architecture, request.base.public_reference, adapter)}
## Made by

```
{_command(prepared)}
```

{", ".join(f"{name} {value}" for name, value in versions().items())}
"""
