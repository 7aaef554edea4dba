from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from report_results import cell_of, make_result, pairwise, section_of, without

from regmean_lab.report.comma_separated import csv_runs, csv_table, csv_tests
from regmean_lab.report.files import FileNames
from regmean_lab.report.latex import escape as latex_escape
from regmean_lab.report.latex import latex_table, latex_tests
from regmean_lab.report.markdown import markdown_table, markdown_tests
from regmean_lab.report.significance import HEADINGS, comparisons, explanation
from regmean_lab.report.tables import Table, corpus_table, overview

HOSTILE = "a|b*c_d`e<f>&[g]\\h%i$j#k{l}~m^n"


@pytest.fixture
def table() -> Table:
    """Two columns with groups, of which one has an incomplete and a missing cell."""
    results = without(pairwise(), "fisher", ("tec", "isear"), 2)
    return overview(section_of([*results, *pairwise(("simple",), head_init="different")]), "t")


def parsed_markdown(text: str) -> list[list[str]]:
    """Rows of the first table, each cell as the plain text that a reader sees."""
    rows: list[list[str]] = []
    before = ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and before in ("th_open", "td_open"):
            rows[-1].append("".join(part.content for part in token.children or []))
        before = token.type
    return rows


def test_markdown_shows_every_cell(table: Table) -> None:
    head, *rows = parsed_markdown(markdown_table(table))

    assert head == ["method", *(heading.full for heading in table.headings)]
    assert [row[0] for row in rows] == [label for label, _ in table.rows]
    cell = cell_of(table, "regmean", "head init same, in domain")
    assert rows[3][1] == f"{cell.mean:.2f} ± {cell.deviation:.2f}"
    assert rows[2][1].endswith("(17 of 18)")
    assert rows[2][3:] == ["missing", "missing"]


def test_markdown_marks_the_best(table: Table) -> None:
    bold = re.findall(r"\| \*\*(.*?)\*\* ", markdown_table(table))

    assert bold == [f"{cell.mean:.2f} ± {cell.deviation:.2f}" for cell in dict(table.rows)["individual"][:2]]


def test_markdown_shows_names_as_they_are() -> None:
    section = section_of([make_result(HOSTILE, ("tec", "isear")), make_result("simple")])
    rows = parsed_markdown(markdown_table(overview(section, "t")))

    assert rows[2][0] == HOSTILE


def test_csv_has_every_number(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(table))))

    for row in rows:
        for heading in table.headings:
            cell = cell_of(table, row["method"], heading.full)
            found = [row[f"{heading.full}: {part}"] for part in ("mean", "deviation", "results", "expected")]
            assert found == [
                "" if cell.mean is None else repr(cell.mean),
                "" if cell.deviation is None else repr(cell.deviation),
                str(cell.runs),
                str(cell.expected),
            ]


def test_csv_of_results_has_a_line_and_the_command_of_each() -> None:
    results = [make_result(HOSTILE), make_result("simple", outside=())]
    section = section_of(results)
    rows = list(csv.DictReader(io.StringIO(csv_runs([section]))))

    assert {row["method"]: row["command"] for row in rows} == {
        result.method: result.environment["command"] for result in results
    }
    assert {row["mean_in_domain"] for row in rows} == {repr(result.mean_in_domain) for result in results}
    assert [row["seconds"] for row in rows] == ["10.0", "10.0"]


def test_csv_of_tests_is_not_rounded() -> None:
    found = comparisons(section_of(pairwise()), "simple")
    rows = list(csv.DictReader(io.StringIO(csv_tests(found))))

    assert [float(row["p"]) for row in rows] == [one.test.probability for one in found if one.test]
    assert [float(row["p_holm"]) for row in rows] == [one.adjusted for one in found]


def latex_rows(text: str) -> list[list[str]]:
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    return [line.removesuffix(r" \\").split(" & ") for line in body.splitlines()[1:]]


def test_latex_has_every_cell_in_booktabs(table: Table) -> None:
    text = latex_table(table)
    rows = latex_rows(text)

    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){2-3}"))
    cell = cell_of(table, "individual", "head init same, in domain")
    assert rows[0][1] == rf"\textbf{{{cell.mean:.2f}}} {{\small$\pm$ {cell.deviation:.2f}}}"
    assert rows[2][3] == r"\emph{missing}"
    assert rows[2][1].endswith("(17 of 18)")
    assert {len(row) for row in rows} == {5}
    assert r"\begin{tabular}{lrrrr}" in text


def test_latex_commands_in_names_are_harmless() -> None:
    assert latex_escape(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert latex_escape("a_b % c") == r"a\_b \% c"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path, table: Table) -> None:
    hostile = section_of([make_result(HOSTILE, ("tec", "isear"), outside=("a_b",)), make_result("simple")])
    found = comparisons(section_of(pairwise()), "simple") + comparisons(hostile, "simple")
    parts = [
        latex_table(table),
        latex_table(overview(hostile, "hostile")),
        latex_table(corpus_table(hostile, hostile.columns[0], "corpora")),
        latex_tests("tests", found, explanation("simple")),
    ]
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "tables.tex").write_text(document % "\n".join(parts), encoding="utf-8")

    done = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 0


def test_tests_without_numbers_have_cells_for_all_columns() -> None:
    found = comparisons(section_of(pairwise(seeds=(1,))[:8]), "simple")
    rows = parsed_markdown(markdown_tests(found, explanation("simple")))

    assert {len(row) for row in rows} == {len(HEADINGS)}
    assert any("not" in row[3] or "no result" in row[3] for row in rows[1:])


def test_file_names_are_safe_and_given_once() -> None:
    names = FileNames()

    assert names.stem("../a b/c", "", "d=1,e") == "a-b-c-d-1-e"
    assert names.stem("A-b-c-d-1-e") == "A-b-c-d-1-e-2"
    assert names.stem("..", "///") == "report"
    assert len(names.stem("x" * 1000)) == 120
