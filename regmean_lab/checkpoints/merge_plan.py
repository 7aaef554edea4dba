"""``regmean-lab merge … plan=true``: what would be merged, written and pushed."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.checkpoints.card_metadata import card_licence
from regmean_lab.checkpoints.heads import HEADS_FOLDER
from regmean_lab.checkpoints.lora.residuals import RESIDUALS_FOLDER
from regmean_lab.checkpoints.merge import PreparedMerge
from regmean_lab.checkpoints.merge_pushing import pushed_files
from regmean_lab.checkpoints.output import RECORD_FILE, TEMPLATES_FOLDER, card_front_matter, has_record, kept_shard
from regmean_lab.checkpoints.push_plan import push_lines
from regmean_lab.checkpoints.recipe.chat_templates import TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from regmean_lab.checkpoints.recipe.record import RECIPE_FILE
from regmean_lab.checkpoints.writing import file_size
from regmean_lab.merging.residual import residual_of
from regmean_lab.models.folders import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, CONFIG_FILE
from regmean_lab.models.sentence_folders import MODULES_FILE
from regmean_lab.utils.files import CARD_FILE, INDEX_FILE, WEIGHTS_FILE
from regmean_lab.utils.quantities import byte_size, counted


def merge_lines(prepared: PreparedMerge, output: Path) -> list[str]:
    """What a merge would do, in lines.

    Args:
        prepared: the merge.
        output: where the merged model would lie.
    """
    files = planned_files(prepared)
    sizes = [size for name, size in files.items() if name.endswith(".safetensors")]
    known = "" if None in sizes else f", {byte_size(sum(size or 0 for size in sizes))}"
    there = "; an earlier merge is there, which is found if it is this one, and replaced if not"
    named = " + ".join(member.source.reference for member in prepared.members)
    return [
        f"merge of {named} by {prepared.request.method.name}",
        *([f"  base: {prepared.base.source.reference}"] if prepared.base is not None else []),
        f"  written to {output}: {counted(len(sizes), 'file')} of weights{known}{there if has_record(output) else ''}",
        *(f"  warning: {warning}" for warning in prepared.warnings),
        *(f"  note: {note}" for note in prepared.agreement.notes),
    ]


def merge_push_lines(prepared: PreparedMerge, output: Path, name: str, *, private: bool) -> list[str]:
    """What would be pushed of a merge, in lines.

    Args:
        prepared: the merge.
        output: where the merged model would lie.
        name: ``owner/name``.
        private: whether only its owner would see it.
    """
    own = []
    for member in prepared.members:
        path = (member.source.statistics_from or member.source.folder) / CARD_FILE
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        own.append(f"{member.name}: {card_licence(text) or 'none'}")
    licence = (
        f"the card names no licence (those of the checkpoints: {', '.join(own)}); to give it one, merge without push=, "
        f"write license: into {output / CARD_FILE}, and push by the same command with push="
    )
    files, card = planned_files(prepared), card_front_matter(prepared)
    if has_record(output):
        files |= {
            path: size
            for path, size in ((path, file.stat().st_size) for path, file in pushed_files(output).items())
            if path not in files
        }
        if (output / CARD_FILE).is_file():
            card = (output / CARD_FILE).read_text(encoding="utf-8")
    return push_lines(name, private=private, files=files, card=card, licence=licence)


def planned_files(prepared: PreparedMerge) -> dict[str, int | None]:
    """The files of the merged folder, with their bytes where those are known before the merge."""
    files: dict[str, int | None] = {CARD_FILE: None, RECORD_FILE: None, CONFIG_FILE: None}
    request = prepared.request
    if request.adapter is not None:
        files |= {ADAPTER_CONFIG_FILE: None, ADAPTER_WEIGHTS_FILE: None}
    else:
        files |= {shard.file: file_size(shard) for shard in prepared.shards}
        if len(prepared.shards) > 1:
            files[INDEX_FILE] = None
    for path in prepared.lead.tokenizer_files():
        inner = path.parent.name == TEMPLATES_FOLDER
        files[f"{TEMPLATES_FOLDER}/{path.name}" if inner else path.name] = path.stat().st_size
    if request.chat_template is not None:
        files |= {TEMPLATE_FILE: None, TOKENIZER_CONFIG_FILE: None}
    if request.heads != "drop" and prepared.agreement.apart:
        for member in prepared.members:
            files[f"{HEADS_FOLDER}/{member.name}/{CONFIG_FILE}"] = None
            shard = kept_shard(prepared, member)
            files[f"{HEADS_FOLDER}/{member.name}/{shard.file}"] = file_size(shard)
    if residual_of(request.method.followed_by) is not None:
        for member in prepared.members:
            for file in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
                files[f"{RESIDUALS_FOLDER}/{member.name}/{file}"] = None
    if prepared.modules is not None:
        for name, path in prepared.modules.first.files.items():
            files[name] = None if path.name in (WEIGHTS_FILE, MODULES_FILE) else path.stat().st_size
    if request.recipe is not None:
        files[RECIPE_FILE] = None
    return files
