"""A merged model as a Hugging Face folder: weights, configuration, tokenizer, heads, model card and record."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from regmean_lab.checkpoints.adapters import read_adapter_files
from regmean_lab.checkpoints.card_metadata import TAGS, front_matter, pipeline_tag
from regmean_lab.checkpoints.hashing import hashed
from regmean_lab.checkpoints.heads import HEADS_FOLDER
from regmean_lab.checkpoints.lora.card import adapter_section
from regmean_lab.checkpoints.lora.changes import write_merged_adapter
from regmean_lab.checkpoints.lora.folder import WrittenAdapter
from regmean_lab.checkpoints.lora.request import AdapterRequest
from regmean_lab.checkpoints.lora.residuals import residuals_section, write_residuals
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.merge import OF_THE_BASE, OF_THE_TEXT, PreparedMerge, write_merged_weights
from regmean_lab.checkpoints.recipe.chat_templates import TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, chosen_template
from regmean_lab.checkpoints.recipe.record import RECIPE_FILE, public_name, recipe_text
from regmean_lab.checkpoints.recipe.translation import method_settings
from regmean_lab.checkpoints.writing import PlannedTensor, Shard, plan_shards, write_shards
from regmean_lab.checkpoints.written_configuration import Changes, write_configuration
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.merging.parameters import MergeError
from regmean_lab.models.folders import ADAPTER_WEIGHTS_FILE, check_tokenizer_files, read_json_file, stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub import split_reference
from regmean_lab.tracking.environment import command_line, versions
from regmean_lab.utils.files import CARD_FILE, STATISTICS_FOLDER, new_folder, sha256, write_json
from regmean_lab.utils.later_settings import without_later_settings
from regmean_lab.utils.names import abbreviated
from regmean_lab.utils.quantities import byte_size

log = logging.getLogger(__name__)

RECORD_FILE = "merge.json"
TEMPLATES_FOLDER = "additional_chat_templates"
SCHEMA = 1


def checksums(prepared: PreparedMerge) -> dict[str, dict[str, str]]:
    """SHA-256 of every file that a merge reads, by source and file name."""
    with hashed(_named_files(prepared), torch.get_num_threads()) as sums:
        return sums.result()


def _named_files(prepared: PreparedMerge) -> dict[str, dict[str, Path]]:
    """Every file that a merge reads, by source and by the name that it has in the record."""
    files = {name: labelled(paths) for name, paths in prepared.source_files().items()}
    if prepared.modules is not None:
        for member in prepared.members:
            files[member.name] |= prepared.modules.files(member.name)
    return files


def fingerprint(prepared: PreparedMerge, settings: Mapping[str, Any], sums: Mapping[str, Mapping[str, str]]) -> str:
    """Hash of everything that determines the merged folder's weights.

    Args:
        prepared: the merge.
        settings: the method with its settings.
        sums: checksums of its sources.
    """
    request = prepared.request
    content = {
        "schema": SCHEMA,
        "method": without_later_settings(settings, "method."),
        "members": [[member.name, sums[member.name]] for member in prepared.members],
        "base": sums.get(OF_THE_BASE),
        "heads": request.heads,
        "dtype": str(request.dtype),
        "shards": [shard.file for shard in prepared.shards],
    }
    if request.recipe is not None:
        content["recipe"] = method_settings(request.recipe)
    content |= {
        key: value
        for key, value in (("tokenizer", request.tokenizer and prepared.lead.name), ("template", request.chat_template))
        if value is not None
    }
    if request.adapter is not None:
        content["adapter"] = asdict(request.adapter)
    if OF_THE_TEXT in sums:
        content["text"] = sums[OF_THE_TEXT]
    if prepared.text is not None and request.trainer.precision != TrainerConfig().precision:
        content["precision"] = request.trainer.precision
    return sha256(json.dumps(content, sort_keys=True, default=str))


def has_record(folder: Path) -> bool:
    """Whether a folder holds what a merge has written."""
    return (folder / RECORD_FILE).is_file()


def find_merged(folder: Path, wanted: str) -> bool:
    """Whether a folder holds a finished merge with this fingerprint."""
    try:
        record = read_json_file(folder / RECORD_FILE)
        if record.get("adapter") is None:
            stored_tensors(folder)
        else:
            read_adapter_files(folder)
    except CheckpointError:
        return False
    return record.get("fingerprint") == wanted


def evaluation_folder(folder: Path) -> Path:
    """Where the scores of a merged model lie, beside its folder."""
    return folder.with_name(f"{folder.name}-evaluation")


def output_problem(folder: Path) -> str | None:
    """Why nothing can be written to a folder: it holds something that no merge has made."""
    if not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or has_record(folder))):
        return None
    return f"output: {folder} is there and was not written by a merge; choose another folder, or remove it"


def write_output(
    prepared: PreparedMerge,
    folder: Path,
    settings: Mapping[str, Any],
    device: torch.device | str = "cpu",
    sums: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Merge and write the folder, whole or not at all; replaces an earlier merge.

    Args:
        prepared: the merge.
        folder: where the merged model lies afterwards.
        settings: the method with its settings, for the record.
        device: where to compute.
        sums: checksums of the sources, if they are known; otherwise they are computed while weights are merged.

    Raises:
        MergeError: for weights that cannot be merged, for less room than the weights take, and for files that change
            while they are read.
        DiskShortage: where the disk is full on the way.
    """
    if problem := _space_problem(prepared, folder):
        raise MergeError(problem)
    files = _named_files(prepared)
    prepared.read.add(path for own in files.values() for path in own.values())
    room = new_folder(folder, "the merged model", _needed(prepared))
    with hashed(files if sums is None else {}) as computed, room as temporary:
        adapter = None
        if prepared.request.adapter is None:
            write_merged_weights(prepared, temporary, device)
        else:
            adapter = write_merged_adapter(prepared, temporary, device)
            for line in adapter.lines():
                log.info("%s", line)
        _write_configuration(prepared, temporary)
        copy_tokenizer(prepared.lead, temporary)
        _set_template(prepared, temporary)
        if prepared.request.heads != "drop" and prepared.agreement.apart:
            for member in prepared.members:
                _write_head(prepared, member, temporary / HEADS_FOLDER / member.name)
        residuals = write_residuals(prepared, temporary, folder, device)
        for name, part in residuals.items():
            log.info("residual of %s: %s", name, part.lines()[0])
        record = _record(prepared, settings, computed.result() if sums is None else sums, adapter, residuals)
        if prepared.request.recipe is not None:
            (temporary / RECIPE_FILE).write_text(recipe_text(prepared.request.recipe), encoding="utf-8")
        (temporary / CARD_FILE).write_text(_card(prepared, record, adapter, residuals), encoding="utf-8")
        write_json(temporary / RECORD_FILE, record)
        if changed := prepared.read.changed(path for own in files.values() for path in own.values()):
            raise MergeError(
                f"{abbreviated(list(map(str, changed)))}: changed while it was read, so that the merge may be of "
                "neither state; nothing was written. Merge again when nothing else writes there"
            )


def _needed(prepared: PreparedMerge) -> int:
    """Bytes that the merged weights take; 0 of an adapter: how large it is shows when it is there."""
    if prepared.request.adapter is not None:
        return 0
    return sum(tensor.size for shard in prepared.shards for tensor in shard.tensors)


def _space_problem(prepared: PreparedMerge, folder: Path) -> str | None:
    """Why the merged weights do not fit where they are to be written."""
    needed = _needed(prepared)
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free >= needed:
        return None
    return (
        f"output: {folder}: the merged weights take {byte_size(needed)}, and {byte_size(free)} are free there; make "
        "room, or choose a folder on another disk"
    )


def _write_configuration(prepared: PreparedMerge, folder: Path) -> None:
    architecture = prepared.lead.architecture
    headless = prepared.request.heads != "merge" and architecture.head
    floating = {tensor.dtype for shard in prepared.shards for tensor in shard.tensors if tensor.dtype.is_floating_point}
    changes = Changes(
        architecture.base_name if headless else architecture.name,
        untied=architecture.is_untied,
        dtype=floating.pop() if len(floating) == 1 else None,
    )
    write_configuration(architecture, changes, folder)


def copy_tokenizer(member: Member, folder: Path) -> None:
    """Copy the files of a member's tokenizer, without what names code, and how it generates."""
    for path in member.tokenizer_files():
        inner = path.parent.name == TEMPLATES_FOLDER
        check_tokenizer_files(path.parent.parent if inner else path.parent, [path])
        if inner:
            (folder / TEMPLATES_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(path, folder / TEMPLATES_FOLDER / path.name)
            continue
        if path.name == TOKENIZER_CONFIG_FILE and "auto_map" in (content := read_json_file(path)):
            del content["auto_map"]
            write_json(folder / path.name, content)
        else:
            shutil.copyfile(path, folder / path.name)


def _set_template(prepared: PreparedMerge, folder: Path) -> None:
    """Give the merged tokenizer the chat template that was asked for, in a file of its own."""
    wanted = prepared.request.chat_template
    if wanted is None:
        return
    known = [*prepared.members, *([prepared.base] if prepared.base is not None else [])]
    folders = [member.tokenizer_folder for member in known if member.tokenizer_folder is not None]
    template = chosen_template(wanted, folders)
    if template is None:
        return
    if (folder / TOKENIZER_CONFIG_FILE).is_file():
        content = read_json_file(folder / TOKENIZER_CONFIG_FILE)
        if content.pop("chat_template", None) is not None:
            write_json(folder / TOKENIZER_CONFIG_FILE, content)
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")


def kept_shard(prepared: PreparedMerge, member: Member) -> Shard:
    """The tensors that a member keeps to itself, in one file."""
    names = set(prepared.agreement.names)
    own = [
        PlannedTensor(name, member.dtypes[name], member.weights.shape(name))
        for name in member.weights
        if name not in names
    ]
    (shard,) = plan_shards(own, 1 << 62)
    return shard


def _write_head(prepared: PreparedMerge, member: Member, folder: Path) -> None:
    """Write what a member keeps to itself: its configuration, and the tensors that were not merged."""
    folder.mkdir(parents=True)
    shards = [kept_shard(prepared, member)]
    write_shards(folder, shards, ((part.name, member.weights[part.name]) for part in shards[0].tensors))
    changes, merged = Changes(member.architecture.name), set(prepared.agreement.names)
    # Where the table of tokens is merged, a head reads the merged model's tokens.
    if member.vocabulary and merged.issuperset(member.vocabulary):
        lead = prepared.lead
        changes = replace(changes, tokens=lead.architecture.token_settings, rows=lead.rows)
    write_configuration(member.architecture, changes, folder)


def _record(
    prepared: PreparedMerge,
    settings: Mapping[str, Any],
    sums: Mapping[str, Mapping[str, str]],
    adapter: WrittenAdapter | None,
    residuals: Mapping[str, WrittenAdapter],
) -> dict[str, Any]:
    request = prepared.request
    sources = [
        {
            "name": member.name,
            "reference": member.source.public_reference,
            "revision": member.source.revision,
            "adapter": member.source.is_adapter,
            "sha256": dict(sums[member.name]),
        }
        for member in prepared.members
    ]
    base = None
    if prepared.base is not None:
        source = prepared.base.source
        base = {"reference": source.public_reference, "revision": source.revision, "sha256": dict(sums[OF_THE_BASE])}
    return {
        "schema": SCHEMA,
        "fingerprint": fingerprint(prepared, settings, sums),
        "method": dict(settings),
        **({"recipe": method_settings(request.recipe)} if request.recipe is not None else {}),
        "checkpoints": sources,
        "base": base,
        "configuration_and_tokenizer": prepared.lead.name,
        "heads": request.heads,
        "kept_apart": prepared.agreement.apart,
        "dtypes": sorted({str(part.dtype) for shard in prepared.shards for part in shard.tensors}),
        "files": [shard.file for shard in prepared.shards] if adapter is None else [ADAPTER_WEIGHTS_FILE],
        **({"adapter": {**asdict(request.adapter), **adapter.record()}} if adapter and request.adapter else {}),
        **({"residuals": {name: part.record() for name, part in residuals.items()}} if residuals else {}),
        "notes": prepared.notes,
        **({"choice": prepared.choice.record()} if prepared.choice is not None else {}),
        "diagnostics": [asdict(row) for row in prepared.diagnostics],
        "versions": versions(),
        "command": (
            command_line(_public_overrides(prepared, settings))
            if request.recipe is None
            else " ".join(["regmean-lab merge", RECIPE_FILE, *(_adapter_overrides(request.adapter))])
        ),
    }


def _public_overrides(prepared: PreparedMerge, settings: Mapping[str, Any]) -> list[str]:
    """Overrides that ask for the merge, with the last part of each path only."""
    request = prepared.request
    listed = ",".join(member.source.public_reference for member in prepared.members)
    overrides = ["experiment=merge_checkpoints", f"checkpoints=[{listed}]", f"method={settings['name']}"]
    defaults = type(request.method)()
    for key, value in settings.items():
        if key != "name" and value != getattr(defaults, key):
            overrides.append(f"method.{key}={_override(value)}")
    if prepared.base is not None:
        overrides.append(f"base={prepared.base.source.public_reference}")
    if request.heads != "merge":
        overrides.append(f"heads={request.heads}")
    if request.dtype is not None:
        overrides.append(f"dtype={str(request.dtype).removeprefix('torch.')}")
    return overrides + _adapter_overrides(request.adapter)


def _adapter_overrides(adapter: AdapterRequest | None) -> list[str]:
    """Overrides that ask for an adapter."""
    if adapter is None:
        return []
    return [f"adapter.rank={adapter.rank}", *([f"adapter.space={adapter.space}"] if adapter.space != "full" else [])]


def _override(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_override, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_override(own)}' for key, own in value.items())}}}"
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


def _card(
    prepared: PreparedMerge,
    record: Mapping[str, Any],
    adapter: WrittenAdapter | None,
    residuals: Mapping[str, WrittenAdapter],
) -> str:
    names = [member.name for member in prepared.members]
    rows = [
        f"| {source['name']} | `{source['reference']}` | {source['revision'] or ''} | `{file}` | `{digest}` |"
        for source in [*record["checkpoints"], *([{"name": "base", **record["base"]}] if record["base"] else [])]
        for file, digest in source["sha256"].items()
    ]
    kept = record["kept_apart"]
    if not kept:
        heads = "All parameters were merged."
    elif record["heads"] == "drop":
        heads = "The encoders were merged; the heads were left out."
    else:
        heads = (
            f"Each checkpoint kept {len(kept)} separate parameters, in `{HEADS_FOLDER}/NAME`; "
            "`regmean_lab.checkpoints.heads.load_with_head(folder, NAME)` puts the two together."
        )
    notes = "".join(f"- {note}\n" for note in record["notes"])
    loaded = ""
    if adapter is not None:
        loaded = adapter_section(
            prepared.lead.architecture, record["base"]["reference"], adapter, prepared.request.heads == "drop"
        )
    kept_beside = residuals_section(residuals, prepared.lead.architecture, prepared.request.heads)
    chosen = ""
    if prepared.choice is not None:
        rows_of_candidates = "\n".join(prepared.choice.lines())
        chosen = f"\n## What was tried\n\nBy {prepared.choice.criterion}; less is better.\n\n{rows_of_candidates}\n"
    recipe = ""
    if prepared.request.recipe is not None:
        recipe = (
            "\n\nThe recipe says which of them are others for single tensors and models." if prepared.settings else ""
        )
        recipe += f"\n\n## Recipe\n\n```yaml\n{recipe_text(prepared.request.recipe)}```"
    return f"""\
{card_front_matter(prepared)}
# {" + ".join(names)}, merged by {record["method"]["name"]}

Merged from weights{_read_too(prepared)}. {heads}

Configuration and tokenizer are those of {record["configuration_and_tokenizer"]}. Method, with its settings:

```json
{json.dumps(record["method"], indent=2)}
```{recipe}
{loaded}{kept_beside}{chosen}
## Sources

| checkpoint | from | commit | file | SHA-256 |
|---|---|---|---|---|
{chr(10).join(rows)}

## Made by

```
{record["command"]}
```

{", ".join(f"{name} {value}" for name, value in record["versions"].items())}

{notes}"""


def _read_too(prepared: PreparedMerge) -> str:
    """What was read beside weights, for the card."""
    published = " and published statistics" if any(part.files for part in prepared.statistics) else ""
    texts = None if prepared.text is None else prepared.text.method.text_file
    return f"{published} alone,\nwithout data" if texts is None else f"{published},\nand the texts of {texts.name}"


def card_front_matter(prepared: PreparedMerge) -> str:
    """What the hub reads: the models that were merged, for its tree of models, and tags."""
    members = [*prepared.members, *([prepared.base] if prepared.base is not None else [])]
    if prepared.request.adapter is not None:  # what it is loaded onto
        members = members[-1:]
    names = [split_reference(member.source.reference)[0] for member in members if member.source.revision is not None]
    given = [name for name in prepared.request.adapter_bases if name is not None and public_name(name) == name]
    given = given if prepared.request.adapter is None else []
    listed = dict.fromkeys([*names, *(split_reference(name)[0] for name in given)])
    tags, library = list(TAGS), "transformers"
    architecture = prepared.lead.architecture
    headless = prepared.request.heads != "merge" and bool(architecture.head)
    pipeline = "feature-extraction" if headless else pipeline_tag(architecture.name)
    if prepared.request.adapter is not None:
        library = "peft"
        tags.append("lora")
    if prepared.modules is not None:
        library, pipeline = "sentence-transformers", "sentence-similarity"
        tags += ["sentence-transformers", "sentence-similarity"]
    relation = "merge" if prepared.request.adapter is None else "adapter"
    return front_matter(library=library, tags=tags, base_models=list(listed), relation=relation, pipeline=pipeline)


def labelled(paths: Iterable[Path]) -> dict[str, Path]:
    """Files of one source by the names that they have in a record, each under one of its own.

    An adapter and the model below it may both have a ``config.json``: the later one has its folder's name before it.
    """
    files: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        label = file_label(path)
        while label in files:
            label = f"{path.parent.name}/{label}"
        files[label] = path
    return files


def file_label(path: Path) -> str:
    """A file's name, with its folder where that is one of a checkpoint's own."""
    return f"{path.parent.name}/{path.name}" if path.parent.name in (STATISTICS_FOLDER, TEMPLATES_FOLDER) else path.name
