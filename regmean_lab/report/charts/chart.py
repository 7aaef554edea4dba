"""What all charts share: form, colours, and how they become files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"
"""Black, in a shade of its own: a page replaces it with its text colour."""

# Okabe and Ito's colours, which can be told apart with any colour vision. Their yellow is left out: it is hardly
# visible on white.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE = "#56B4E9", "#CC79A7"

DOTS_PER_INCH = 160
LONGEST_LABEL = 40
CHARACTER_WIDTH = 0.085
"""Mean width of a character, in inches."""
HANDLE_WIDTH = 0.8
"""Width of the line and the gap beside a label of a legend, in inches."""
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "svg.hashsalt": "regmean_lab",
}


@dataclass(frozen=True)
class Style:
    """How a row is drawn: colour, marker and line all differ, so that none is needed alone."""

    colour: str
    marker: str
    line: Any


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: stem of its files.
        title: what it shows.
        description: the same for those who do not see it, with the numbers that matter.
        size: width and height in inches.
        draw: fills an empty figure.
        columns: titles of the columns that it shows: of those in a curve no charts of single rows are drawn.
    """

    name: str
    title: str
    description: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]
    columns: tuple[str, ...]

    def files(self) -> tuple[bytes, str]:
        """The chart as PNG and as SVG, the same bytes whenever it is drawn from the same scores."""
        with matplotlib.rc_context(_SETTINGS):
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure)
            png, svg = io.BytesIO(), io.StringIO()
            figure.savefig(png, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
            figure.set_layout_engine("none")  # the layout stands; to find it again takes as long as to draw
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return png.getvalue(), svg.getvalue()


_KNOWN = {
    "individual": Style(INK, "o", (0, (1, 1.5))),
    "ensemble": Style(PURPLE, "D", (0, (4, 1.5, 1, 1.5))),
    "multitask": Style(SKY, "P", (0, (6, 2))),
    "simple": Style(ORANGE, "s", (0, (5, 1.5))),
    "fisher": Style(GREEN, "^", (0, (3, 1, 1, 1))),
    "regmean": Style(BLUE, "o", "-"),
    "optimal_transport": Style(VERMILION, "v", (0, (2, 1))),
}
_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (8, 2)))


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """A style for each row: always the same one for a known method, another for each further row."""
    styles = {label: _KNOWN[label] for label in labels if label in _KNOWN}
    taken = {(style.colour, style.marker) for style in styles.values()}
    number = 0
    for label in labels:
        if label in styles:
            continue
        while (style := _numbered(number)) and (style.colour, style.marker) in taken:
            number += 1
        number += 1
        styles[label] = style
    return styles


def _numbered(number: int) -> Style:
    # 7 colours and 10 markers have no common divisor: 70 combinations come before the first returns.
    return Style(_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], _LINES[number // 7 % len(_LINES)])


def panels(figure: Figure, domains: Sequence[str]) -> list[Axes]:
    """One set of axes for each domain, side by side, with the domain as title."""
    axes = list(figure.subplots(1, len(domains), squeeze=False)[0])
    for own, domain in zip(axes, domains, strict=True):
        own.set_title(domain)
    axes[0].set_ylabel("mean key score × 100")
    return axes


def legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all axes, each row once, below them, in as many columns as there is room for."""
    found: dict[str, Any] = {}
    for own in axes:
        for handle, label in zip(*own.get_legend_handles_labels(), strict=True):
            found.setdefault(shortened(label), handle)
    room = figure.get_size_inches()[0] / (text_width(found) + HANDLE_WIDTH)
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=max(1, min(int(room), len(found))),
        handlelength=3.2,
    )


MOST_NAMED = 12
"""Of more rows in a scatter chart, only some have marks and names of their own."""

OTHERS = "#8a8a8a"
"""Colour of all others."""


def not_dominated(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Labels of the points that no other one is at least as high as in both coordinates and higher than in one."""
    return [
        label
        for label, (x, y) in points.items()
        if not any((a, b) != (x, y) and a >= x and b >= y for a, b in points.values())
    ]


def shortened(text: str) -> str:
    """A label that is not too long for a chart."""
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def text_width(labels: Iterable[str]) -> float:
    """About how wide the longest of some labels is, in inches."""
    return CHARACTER_WIDTH * max((len(shortened(label)) for label in labels), default=0)


def inline_svg(svg: str, name: str, title: str, description: str) -> str:
    """An SVG to stand inside a page: labelled, in the page's text colour, and with names of its own.

    Args:
        svg: a whole SVG file.
        name: prefix of the names of its parts, which must be unique within a page.
        title: short text for screen readers; escaped already.
        description: longer text for screen readers; escaped already.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(re.escape(INK), "currentColor", body, flags=re.IGNORECASE)
    labels = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    named = f'<title id="{name}-title">{title}</title><desc id="{name}-desc">{description}</desc>'
    return re.sub(r"<svg\b([^>]*)>", lambda match: f"<svg {labels}{match[1]}>{named}", body, count=1)
