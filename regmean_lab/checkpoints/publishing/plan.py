"""``regmean-lab collect … plan=true``: what would be measured, written and pushed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints.publishing.card import HEADING, tagged_card
from regmean_lab.checkpoints.push_plan import push_lines
from regmean_lab.config.checkpoint_commands import CollectConfig
from regmean_lab.merging.base import matches
from regmean_lab.statistics import KINDS
from regmean_lab.statistics.forms import Form, stored_numbers
from regmean_lab.utils.files import CARD_FILE, STATISTICS_FOLDER
from regmean_lab.utils.quantities import byte_size

NUMBER_BYTES = 4


def collect_lines(plain: CollectConfig, output: Path, widths: Mapping[str, int]) -> list[str]:
    """What would be measured and written, in lines.

    Args:
        plain: the configuration.
        output: the folder below which statistics would be written.
        widths: by linear layer of the model, the number of its inputs.
    """
    lines = [f"statistics of {plain.checkpoint} from {plain.matrices or plain.data}"]
    for kind in dict.fromkeys(plain.kinds):
        path, most = published_path(output, kind), largest_size(plain, kind, widths)
        size = "" if most is None else f", at most {byte_size(most)}"
        there = "; a file is there, which is found if it is the same" if path.is_file() and not plain.force else ""
        lines.append(f"  {KINDS[kind].title}: {path}{size}{there}")
    lines.append(
        f"  described in {output / STATISTICS_FOLDER / CARD_FILE}" + (f" and {output / CARD_FILE}" * plain.card)
    )
    return lines


def largest_size(plain: CollectConfig, kind: str, widths: Mapping[str, int]) -> int | None:
    """Bytes of all matrices of the layers' inputs, without their names; those that layers share are stored once.

    None of a kind that has others.
    """
    if not (KINDS[kind].of == "inputs" and KINDS[kind].file.is_of_matrices):
        return None
    kept = [width for layer, width in widths.items() if not matches(layer, plain.exclude_layers)]
    form = cast(Form, plain.form)  # checked
    numbers = [stored_numbers(width, form, plain.rank) for width in kept]
    return NUMBER_BYTES * sum(numbers)


def collect_push_lines(plain: CollectConfig, output: Path) -> list[str]:
    """What would be pushed of statistics, in lines.

    Args:
        plain: the configuration, which asks for it.
        output: the folder below which they would be written.
    """
    assert plain.push is not None
    files: dict[str, int | None] = {f"{STATISTICS_FOLDER}/{CARD_FILE}": None}
    for kind in plain.kinds:
        path = published_path(output, kind)
        files[f"{STATISTICS_FOLDER}/{path.name}"] = path.stat().st_size if path.is_file() and not plain.force else None
    card, found = None, list[str]()
    if plain.card:
        files[CARD_FILE] = None
        own = output / CARD_FILE
        text = own.read_bytes().decode("utf-8") if own.is_file() else f"# {plain.push.partition('/')[2]}\n"
        try:
            card = tagged_card(text, f"{HEADING}\n")
        except ValueError as error:
            found.append(f"  problem: {own}: {error}")
    licence = "the card names no licence; write license: into the front matter of the repository's README.md"
    lines = push_lines(plain.push, private=plain.private, files=files, card=card, licence=licence)
    if plain.card:
        lines.append("  note: where the repository has a card, that one gets the section and the tag")
    minimum = plain.minimum_rows_per_column
    if not plain.allow_few_rows and any(KINDS[kind].of != "texts" for kind in plain.kinds):
        lines.append(f"  note: nothing is pushed of layers that see fewer than {minimum:g} rows for each column")
    return [*found, *lines]
