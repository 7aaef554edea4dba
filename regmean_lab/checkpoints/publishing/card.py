"""The section of a model card that states what was measured, how, and what it may reveal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.card_metadata import STATISTICS_TAG, with_tag
from regmean_lab.statistics import KINDS, StatisticsFile
from regmean_lab.utils.files import CARD_FILE, STATISTICS_FOLDER, write_bytes

BEGIN = "<!-- regmean_lab statistics: begin -->"
END = "<!-- regmean_lab statistics: end -->"
HEADING = "## Statistics for merging"

UNKNOWN = "not recorded"

FORMS = {
    "full": "whole",
    "packed": "upper triangles; nothing is lost",
    "diagonal": "diagonals only; off-diagonal entries read as 0",
    "low_rank": "exact diagonals, off-diagonal entries of rank {rank}",
}


@dataclass(frozen=True)
class Described:
    """A statistics file as the card tells it.

    Attributes:
        name: the file's name.
        kind: its kind.
        size: its bytes.
        metadata: its metadata, decoded.
        contents: how much it holds.
    """

    name: str
    kind: str
    size: int
    metadata: Mapping[str, Any]
    contents: str


def describe(folder: Path) -> list[Described]:
    """The published statistics in a folder; a member of a zoo has others beside them.

    Raises:
        StatisticsError: for one that cannot be read.
    """
    found = []
    for path in (folder / f"{kind}.safetensors" for kind in KINDS):
        if not path.exists():
            continue
        with StatisticsFile(path) as file:
            kind = file.metadata["kind"]
        with KINDS[kind].file(path) as file:
            contents = KINDS[kind].contents(file)
            found.append(Described(path.name, kind, path.stat().st_size, file.metadata, contents))
    return found


def section(files: Sequence[Described], model: str) -> str:
    """The section as Markdown, without markers.

    Args:
        files: what there is, at least one file.
        model: name of the model's folder, for the command that merges it.
    """
    measured = all(_imported(file) is None for file in files)
    lines = [
        HEADING,
        "",
        f"{'Measured' if measured else 'Made'} with this model, so that others can merge it from its weights and these "
        "files, without its data.",
        "",
    ]
    lines += ["| file | what | form | examples | rows | bytes |", "|---|---|---|---:|---:|---:|"]
    lines += [
        f"| `statistics/{file.name}` | {KINDS[file.kind].title}; {file.contents} | {_form(file)} "
        f"| {UNKNOWN if _imported(file) else file.metadata['examples']} | {_rows(file)} | {file.size} |"
        for file in files
    ]
    lines += ["", "How they were measured:", ""]
    for file in files:
        lines += [f"- `{file.name}`: {_settings(file)}"]
    lines += _provenance(files)
    methods = [KINDS[file.kind].method for file in files]
    lines += ["", "To merge with them, beside another folder of the same architecture:", ""]
    lines += [
        f"    python -m regmean_lab experiment=merge_checkpoints checkpoints=[{model},OTHER] method={method}"
        for method in methods
    ]
    excluded = sorted({pattern for file in files for pattern in _collected(file).get("exclude_layers", [])})
    if excluded:
        lines += ["", f"Layers without statistics are averaged: method.exclude_layers=[{','.join(excluded)}]."]
    lines += ["", *_revealed(files)]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The section as a page of its own, ``statistics/README.md``."""
    return text.replace("## ", "# ", 1)


def insert_section(card: str, text: str) -> str:
    """A card with the section between its markers, in place of the one that was there; all else stays as it is.

    Args:
        card: the card's text, with its front matter; may be empty.
        text: the section.

    Raises:
        ValueError: for a card with one marker, or with markers in the wrong order.
    """
    block = f"{BEGIN}\n{text}{END}\n"
    begins, ends = card.count(BEGIN), card.count(END)
    if not begins and not ends:
        gap = "" if not card or card.endswith("\n\n") else "\n" if card.endswith("\n") else "\n\n"
        return f"{card}{gap}{block}"
    start, stop = card.find(BEGIN), card.find(END)
    if begins != 1 or ends != 1 or stop < start:
        raise ValueError(f"expected {BEGIN} and after it {END}, once each; delete what is left of the old section")
    rest = card[stop + len(END) :]
    return f"{card[:start]}{block}{rest.removeprefix(chr(10))}"


def tagged_card(card: str, text: str) -> str:
    """A card with the section, and with the tag by which the hub finds published statistics; its line ends are kept.

    Args:
        card: the card's text, with its front matter; may be empty.
        text: the section.

    Raises:
        ValueError: for a card whose markers are broken, or whose front matter cannot have another tag.
    """
    windows = "\r\n" in card
    after = with_tag(insert_section(card.replace("\r\n", "\n"), text), STATISTICS_TAG)
    return after.replace("\n", "\r\n") if windows else after


def write_cards(folder: Path, name: str, *, both: bool = True) -> list[Path]:
    """Write ``statistics/README.md`` below a model's folder, and the same section into the folder's own card.

    Args:
        folder: the model's folder, with files below ``statistics``.
        name: the model's name, for a card that is not there yet.
        both: write the folder's own card as well.

    Returns:
        The files written.

    Raises:
        ValueError: as :func:`tagged_card` does; ``statistics/README.md`` is written all the same.
    """
    text = section(describe(folder / STATISTICS_FOLDER), name)
    own = folder / STATISTICS_FOLDER / CARD_FILE
    write_bytes(own, page(text).encode())
    if not both:
        return [own]
    card = folder / CARD_FILE
    before = card.read_bytes().decode("utf-8") if card.is_file() else f"# {name}\n"
    try:
        write_bytes(card, tagged_card(before, text).encode())
    except ValueError as error:
        raise ValueError(f"{card}: {error}") from None
    return [own, card]


def _collected(file: Described) -> dict[str, Any]:
    collected = file.metadata.get("collected")
    return collected if isinstance(collected, dict) else {}


def _form(file: Described) -> str:
    if KINDS[file.kind].of == "texts":
        return "whole numbers"
    if not KINDS[file.kind].file.is_of_matrices:
        return "diagonal"
    return FORMS[file.metadata.get("form", "full")].format(rank=file.metadata.get("rank"))


def _imported(file: Described) -> dict[str, Any] | None:
    """What is known of a file whose matrices another program has measured; None of one that was measured by this."""
    imported = file.metadata["settings"].get("imported")
    return imported if isinstance(imported, dict) else None


def _rows(file: Described) -> str:
    imported = _imported(file)
    if imported is not None and imported["rows"] is None:
        return UNKNOWN
    rows = sorted(file.metadata["rows"].values())
    if not rows:
        return "–"
    return str(rows[0]) if rows[0] == rows[-1] else f"{rows[0]} to {rows[-1]}"


def _settings(file: Described) -> str:
    if (imported := _imported(file)) is not None:
        return (
            f"matrices that another program has measured, from `{imported['file']}` (SHA-256 `{imported['sha256']}`), "
            "which does not say how; checked to be symmetric, finite and of the layers' sizes; as whoever converted "
            f"them says, count_padding {_plain(file.metadata['settings']['count_padding'])}"
        )
    settings = {key: value for key, value in file.metadata["settings"].items() if key not in ("kind", "layers")}
    return ", ".join(f"{key} {_plain(value)}" for key, value in settings.items() if key != "data_fingerprint")


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(str(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else str(value)


def _provenance(files: Sequence[Described]) -> list[str]:
    lines = []
    for file in files:
        collected = _collected(file)
        if not collected:
            continue
        versions = ", ".join(f"{name} {version}" for name, version in collected["versions"].items())
        lines += [f"- `{file.name}` was made by `{collected['command']}` ({versions})."]
    return lines


def _revealed(files: Sequence[Described]) -> list[str]:
    """What the files may reveal, in plain words."""
    lines = ["What these files may reveal of the data:", ""]
    told: dict[str, list[float]] = {}
    for file in files:
        ratios = [rows / width for rows, width in _rows_and_widths(file)]
        told.setdefault(KINDS[file.kind].told(file.metadata), []).extend(ratios)
    for sentence, ratios in told.items():
        rows = f" (here at least {min(ratios):.3g} rows for each column)" if ratios else ""
        lines.append(f"- {sentence.format(rows=rows)}")
    private = [f"`{file.name}`" for file in files if file.metadata.get("privacy")]
    if not private:
        last = "There is no guarantee in the sense of differential privacy, as there is none for the weights."
    else:
        last = f"Differential privacy is that of {' and '.join(private)} alone: there is none for the weights."
    return [*lines, f"- {last}"]


def _rows_and_widths(file: Described) -> list[tuple[int, int]]:
    widths = _collected(file).get("widths", {})
    return [(rows, widths[layer]) for layer, rows in file.metadata["rows"].items() if layer in widths]
