"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from regmean_lab import __version__
from regmean_lab.report.charts.chart import inline_svg
from regmean_lab.report.content import DrawnChart, Report, SectionContent
from regmean_lab.report.details import Details
from regmean_lab.report.files import FileNames
from regmean_lab.report.significance import HEADINGS, Comparison, cells_of_test
from regmean_lab.report.tables import Cell, Table

TEXT = ' class="text"'
"""Of cells and headings with words; numbers stand to the right."""

WIDE = 7.0
"""From how many inches on a figure has a line of its own."""


def html_page(report: Report) -> str:
    """The whole page. All text is escaped, and no script but the page's own can run in it."""
    details, anchors = Details(report.runs), FileNames()
    names = [f"section-{anchors.stem(section.name)}" for section in report.sections]
    sections = [_section(section, name, details) for section, name in zip(report.sections, names, strict=True)]
    contents = [
        f'<li><a href="#{name}">{escape(section.name)}</a></li>'
        for section, name in zip(report.sections, names, strict=True)
    ]
    script = _package_file("page.js")
    return Template(_package_file("page.html")).substitute(
        title=escape(report.title),
        style=_package_file("page.css"),
        script=script,
        script_hash=_content_hash(script),
        facts="".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in report.facts),
        notices=_notices(report.notices),
        contents=f"<ul>{''.join(contents)}</ul>" if len(contents) > 1 else "",
        sections="\n".join(sections),
        command=escape(report.command),
        version=escape(__version__),
        data=_json_in_html(details.content()),
    )


def _package_file(name: str) -> str:
    return (files("regmean_lab.report") / name).read_text(encoding="utf-8")


def _content_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _json_in_html(content: object) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _notices(notices: Sequence[str]) -> str:
    if not notices:
        return ""
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
    return (
        '<section class="notice" aria-labelledby="notices"><h2 id="notices">To know before reading</h2>'
        f"<ul>{items}</ul></section>"
    )


def _section(section: SectionContent, name: str, details: Details) -> str:
    parts = [f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(section.name)}</h2>']
    parts.append(_table(section.overview, details, section.name))
    if section.charts:
        figures = "".join(_figure(drawn, section.name) for drawn in section.charts)
        parts.append(f'<h3>Figures</h3><div class="figures">{figures}</div>')
    if section.comparisons:
        parts.append(_tests(section.name, section.comparisons, section.explanation))
    for title, tables in section.more:
        content = "".join(_table(table, details, section.name) for table in tables)
        parts.append(f'<details class="more"><summary>{escape(title)}</summary>{content}</details>')
    return "\n".join([*parts, "</section>"])


def _table(table: Table, details: Details, section: str) -> str:
    best, grouped = table.best, any(heading.group for heading in table.headings)
    groups = [(group, len(list(own))) for group, own in itertools.groupby(table.headings, key=lambda h: h.group)]
    starts = set(itertools.accumulate((width for _, width in groups), initial=0)) if grouped else set()
    span = ' rowspan="2"' if grouped else ""
    head = [f'<th scope="col"{span}>{escape(table.corner)}</th>']
    names = [
        f'<th scope="col"{_group_start(place, starts)}>{escape(heading.name)}</th>'
        for place, heading in enumerate(table.headings)
    ]
    if grouped:
        places = itertools.accumulate((width for _, width in groups), initial=0)
        head += [
            f'<th scope="colgroup" colspan="{width}"{_group_start(place, starts)}>{escape(group)}</th>'
            for place, (group, width) in zip(places, groups, strict=False)
        ]
        lines = [f"<tr>{''.join(head)}</tr>", f"<tr>{''.join(names)}</tr>"]
    else:
        lines = [f"<tr>{''.join([*head, *names])}</tr>"]
    columns = "<col>" + "".join(f'<colgroup span="{width}"></colgroup>' for _, width in groups) if grouped else ""
    body = []
    for number, (label, cells) in enumerate(table.rows):
        shown = [
            f"<td{_group_start(place, starts)}>"
            + _cell(cell, (number, place) in best, details.add(table, label, table.headings[place], cell))
            + "</td>"
            for place, cell in enumerate(cells)
        ]
        body.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(shown)}</tr>')
    columns = columns.replace("<col>", '<colgroup span="1"></colgroup>')
    content = f"{columns}<thead>{''.join(lines)}</thead><tbody>{''.join(body)}</tbody>"
    return _scrolling(table.title, _below_heading(table.title, section), table.caption, content)


def _scrolling(name: str, title: str, note: str, content: str) -> str:
    """A table below its title and note, which scrolls by itself where it is too wide, with the keyboard too.

    ``name`` is what the table is called outside of its section.
    """
    return (
        f'<p class="title" aria-hidden="true">{escape(title)}</p><p class="note">{escape(note)}</p>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}"><table>'
        f'<caption class="unseen">{escape(name)}</caption>{content}</table></div>'
    )


def _below_heading(title: str, section: str) -> str:
    """A title without the name of the section, which stands above it."""
    own = title.removeprefix(f"{section}: ")
    return own[:1].upper() + own[1:]


def _group_start(place: int, starts: set[int]) -> str:
    return ' class="first-of-group"' if place in starts else ""


def _cell(cell: Cell, best: bool, number: int | None) -> str:
    """A button that opens the cell's details; plain text where there is nothing behind it."""
    if number is None:
        return f'{cell.mean_text}<span class="unseen"> not applicable</span>'
    button = f'<button type="button" class="cell" data-cell="{number}" aria-haspopup="dialog">'
    if cell.mean is None:
        return f'{button}<span class="gap">{cell.mean_text}</span></button>'
    mean = f'<strong class="best">{cell.mean_text}</strong>' if best else cell.mean_text
    deviation = "" if cell.deviation is None else f'<span class="small"> ± {cell.deviation:.2f}</span>'
    count = f"n={cell.runs}" if not cell.absent else f"{cell.runs} of {cell.expected}"
    kind = "gap small" if cell.absent else "small"
    said = '<span class="unseen"> best</span>' if best else ""
    return f'{button}{mean}{deviation} <span class="{kind}">{count}</span>{said}</button>'


def _figure(drawn: DrawnChart, section: str) -> str:
    chart = drawn.chart
    title, description = escape(_below_heading(chart.title, section)), escape(chart.description)
    files = f'<span class="small">figures/{chart.name}.png, .svg</span>'
    svg = inline_svg(drawn.svg, chart.name.replace(".", "-"), title, description)
    width = ' class="wide"' if chart.size[0] > WIDE else ""
    return f"<figure{width}><figcaption>{title} {files}</figcaption>{svg}</figure>"


def _tests(section: str, comparisons: Sequence[Comparison], explanation: str) -> str:
    head = "".join(
        f'<th scope="col"{TEXT if place < 3 else ""}>{escape(text)}</th>' for place, text in enumerate(HEADINGS)
    )
    body = []
    for comparison in comparisons:
        named, numbers = cells_of_test(comparison)[:3], cells_of_test(comparison)[3:]
        cells = [f"<td{TEXT}>{escape(text)}</td>" for text in named[1:]]
        if comparison.test is None:
            cells.append(f'<td{TEXT} colspan="{len(HEADINGS) - 3}">{escape(numbers[0])}</td>')
        else:
            cells += [f"<td>{escape(text)}</td>" for text in numbers]
        body.append(f'<tr><th scope="row">{escape(named[0])}</th>{"".join(cells)}</tr>')
    content = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    title = "Differences from the reference"
    return _scrolling(f"{section}: {title}", title, explanation, content)
