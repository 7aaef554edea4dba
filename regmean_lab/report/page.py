"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from regmean_lab import __version__
from regmean_lab.report.charts.chart import inline_svg
from regmean_lab.report.content import DrawnChart, Report
from regmean_lab.report.details import Details
from regmean_lab.report.files import FileNames
from regmean_lab.report.significance import HEADINGS, cells_of_test
from regmean_lab.report.tables import Cell, Table
from regmean_lab.utils.files import sha256

WIDE = 7.0
"""From how many inches on a figure has a line of its own."""


def html_page(report: Report) -> str:
    """The whole page: ``templates/page.html.jinja``, filled."""
    # Only the package's own files are marked as safe; everything else is escaped.
    environment = Environment(
        loader=PackageLoader("regmean_lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    environment.filters |= {"below_heading": _below_heading, "drawing": _drawing}
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    details, anchors = Details(report.runs), FileNames()
    bodies = {table.name: _body(table, details) for section in report.sections for table in section.tables}
    return environment.get_template("page.html.jinja").render(
        report=report,
        anchors=[f"section-{anchors.stem(section.name)}" for section in report.sections],
        bodies=bodies,
        details=details.content(),
        test_headings=HEADINGS,
        cells_of_test=cells_of_test,
        wide=WIDE,
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(bytes.fromhex(sha256(script))).decode('ascii')}",
        version=__version__,
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _body(table: Table, details: Details) -> list[tuple[str, list[tuple[Cell, bool, int | None]]]]:
    """Rows of a table: each cell, whether it is a best one, and the number of its details."""
    best = table.best
    return [
        (
            label,
            [
                (cell, (row, place) in best, details.add(table, label, table.headings[place], cell))
                for place, cell in enumerate(cells)
            ],
        )
        for row, (label, cells) in enumerate(table.rows)
    ]


def _below_heading(title: str, section: str) -> str:
    """A title without the name of the section, which stands above it."""
    own = title.removeprefix(f"{section}: ")
    return own[:1].upper() + own[1:]


def _drawing(drawn: DrawnChart, section: str) -> Markup:
    chart = drawn.chart
    title, description = escape(_below_heading(chart.title, section)), escape(chart.description)
    return Markup(inline_svg(drawn.svg, chart.name.replace(".", "-"), title, description))
