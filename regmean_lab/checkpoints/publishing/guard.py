"""Refuses statistics of too few rows, which could reveal the rows themselves.

G = XᵀX / n of n rows has at most rank n. While n is below the width of the rows, the range of G is exactly the span of
the rows: whether any candidate (the embedding of a token, the features of a text) is among the inputs can be tested
against it. With more rows than columns the range is the whole space, and G determines the rows only up to an unknown
rotation. The Fisher information of a layer's weight is a sum of outer products too, of squared gradients and squared
inputs (where an example has one row), and the same holds for the span of the squared inputs. See docs/publishing.md
for what remains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from regmean_lab.statistics import KINDS, GramStatistics, Kind, StatisticsError, StatisticsFile
from regmean_lab.statistics.errors import name_list

SHOWN_LAYERS = 8
LABELS = ("label", "tags")
"""What examples have besides their texts."""


@dataclass(frozen=True)
class Shortage:
    """A layer of which too few rows were seen, or can be.

    Attributes:
        layer: its name.
        rows: how many rows, or an upper bound, of texts that do not repeat another one.
        width: how many columns its matrix has.
        distinct: share of the texts that do not repeat another one.
    """

    layer: str
    rows: int
    width: int
    distinct: float = 1.0


def shortages(
    rows: Mapping[str, int], widths: Mapping[str, int], minimum: float, distinct: float = 1.0
) -> list[Shortage]:
    """The layers with fewer than ``minimum`` rows for each column.

    Rows of a text that repeats another one are the same again, so that they add nothing to the rank of a matrix.

    Args:
        rows: by layer, the number of rows.
        widths: by layer, the number of columns.
        minimum: rows for each column that are required.
        distinct: share of the texts that do not repeat another one.
    """
    counted = {layer: math.floor(number * distinct) for layer, number in rows.items()}
    return [
        Shortage(layer, number, widths[layer], distinct)
        for layer, number in counted.items()
        if number < minimum * widths[layer]
    ]


def distinct_share(examples: Sequence[Any]) -> float:
    """Share of examples whose texts do not repeat those of another one, whatever their labels; 1 of none.

    Args:
        examples: of a suite: dataclasses.
    """
    texts = {tuple(str(getattr(one, part.name)) for part in fields(one) if part.name not in LABELS) for one in examples}
    return len(texts) / len(examples) if examples else 1.0


def refuse(found: Sequence[Shortage], minimum: float, *, before: bool, kind: Kind) -> None:
    """Raise for layers with too few rows.

    Args:
        found: the layers.
        minimum: rows for each column that are required.
        before: whether nothing was measured yet, and the rows are the most that there can be.
        kind: of the statistics.

    Raises:
        StatisticsError: naming layers, rows and widths, and what to do.
    """
    if not found:
        return
    lines = [
        f"  - {part.layer}: {'at most ' if before else ''}{part.rows} rows for {part.width} columns, "
        f"required {math.ceil(minimum * part.width)}"
        for part in found[:SHOWN_LAYERS]
    ]
    if len(found) > SHOWN_LAYERS:
        lines.append(f"  - and {len(found) - SHOWN_LAYERS} more layers")
    repeats = (
        f" ({found[0].distinct:.1%} of the texts are different, and only their rows count)"
        if found[0].distinct < 1
        else ""
    )
    happened = "nothing was measured" if before else "nothing was written"
    without = (
        "do without them (kinds)"
        if not kind.by_layer
        else "leave these layers out (exclude_layers=[pattern]; who merges averages them: method.exclude_layers), "
        "publish counts of tokens alone (kinds=[tokens])"
    )
    raise StatisticsError(
        f"{kind.name}: too few rows, {happened}: statistics of so few rows can give away the inputs"
        f"{repeats}\n"
        + "\n".join(lines)
        + f"\nUse more examples (data, statistics.{kind.name}.examples), {without}, or, where the data may be public, "
        "set allow_few_rows=true"
    )


def guard_file(path: Path, minimum: float) -> None:
    """Raise for a file of statistics of too few rows, by what it says of itself.

    Args:
        path: the file.
        minimum: rows for each column that are required.

    Raises:
        StatisticsError: as :func:`refuse` does; for one that does not say of how many rows it is.
    """
    with StatisticsFile(path) as file:
        kind, metadata = KINDS[file.metadata["kind"]], file.metadata
    if not kind.by_layer:
        return
    widths = (metadata.get("collected") or {}).get("widths", {})
    if unknown := [layer for layer in metadata["rows"] if layer not in widths]:
        raise StatisticsError(
            f"{path}: it does not say of how many rows {name_list(unknown, 3)} are means, so that nobody knows whether "
            "they give away the inputs; nothing is pushed. Give rows=NUMBER if you know it, or, where the data may be "
            "public, allow_few_rows=true"
        )
    refuse(shortages(metadata["rows"], widths, minimum), minimum, before=False, kind=kind)


def most_rows(probe: GramStatistics, tokens: int, lengths: Sequence[int]) -> dict[str, int]:
    """By layer, the most rows that all examples together can have.

    Args:
        probe: Gram statistics of one batch of a few examples.
        tokens: number of tokens in that batch.
        lengths: tokens of each example.
    """
    # A layer that got one row an example, of examples of more tokens, reads the examples' summaries, as a head does.
    summarises = {layer: rows == probe.examples < tokens for layer, rows in probe.rows.items()}
    return {layer: len(lengths) if once else sum(lengths) for layer, once in summarises.items()}
