from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from headless_chromium import Chromium, find_chromium
from PIL import Image
from report_results import cell_of, diagnosed, incremental, make_result, pairwise, section_of, without, write_results

from regmean_lab.report.cli import main
from regmean_lab.report.tables import overview
from regmean_lab.results import Result

CHROMIUM = find_chromium()
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&amp;\"'"
VOID = {"meta", "link", "col", "br", "img", "input", "path", "use", "rect", "circle", "line", "image"}


def results_with_gaps() -> list[Result]:
    pairs = [diagnosed(result) if result.method == "regmean" else result for result in pairwise()]
    return [
        *without(pairs, "fisher", ("tec", "isear"), 2),
        *pairwise(("simple", "regmean"), (1,), head_init="different"),
        *incremental(),
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with figures, tests, an incomplete cell, missing cells, and a notice."""
    folder = tmp_path_factory.mktemp("page")
    write_results(folder, results_with_gaps())
    (folder / "corrupt").mkdir()
    (folder / "corrupt" / "result.json").write_text("{")
    assert main([f"results={folder}", "title=The title"]) == 0
    return folder / "report" / "report.html"


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of results in which every name is an attack."""
    folder = tmp_path_factory.mktemp("hostile")
    results = []
    for seed in range(1, 3):
        for method in ("simple", HOSTILE):
            result = make_result(
                method, (HOSTILE, "b"), seed, suite=HOSTILE, model=HOSTILE, outside=(HOSTILE + "2",),
                settings={HOSTILE: HOSTILE},
            )  # fmt: skip
            result.environment = {"command": HOSTILE, "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
            result.experiment = HOSTILE
            results.append(result)
    for number, result in enumerate(results):
        path = folder / str(number) / "result.json"
        result.write(path.parent)
    assert main([f"results={folder}", f"title={HOSTILE}", f"reference={HOSTILE}"]) == 0
    return folder / "report" / "report.html"


class Structure(HTMLParser):
    """Names, references and nesting of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.scripts = 0
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        for name in ("href", "src", "xlink:href", "data", "action", "poster"):
            if given.get(name):
                self.references.append(str(given[name]))
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def structure(path: Path) -> Structure:
    found = Structure()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page: Path) -> None:
    found = structure(page)

    assert (found.wrong, found.open) == ([], [])
    assert len(found.ids) == len(set(found.ids))
    assert found.references
    within = ("#", "data:,", "data:image/png;base64,")
    assert all(reference.startswith(within) for reference in found.references)
    assert {reference[1:] for reference in found.references if reference.startswith("#")} <= set(found.ids)
    assert "url(http" not in page.read_text(encoding="utf-8")


def test_names_of_results_are_not_interpreted(hostile_page: Path) -> None:
    found = structure(hostile_page)

    assert (found.wrong, found.open, found.scripts) == ([], [], 2)
    assert "<img" not in hostile_page.read_text(encoding="utf-8")


def test_data_of_the_page_can_be_read_back(hostile_page: Path) -> None:
    text = hostile_page.read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    assert match is not None

    data = json.loads(match[1])

    assert {run["command"] for run in data["runs"]} == {HOSTILE}


def test_only_the_script_of_the_page_may_run(hostile_page: Path) -> None:
    text = hostile_page.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}';" in text


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert CHROMIUM is not None
    with Chromium(CHROMIUM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(chromium: Chromium, page: Path) -> Chromium:
    """The page, open, with nothing recorded but its own loading."""
    chromium.requests.clear()
    chromium.messages.clear()
    chromium.media()
    chromium.open(page)
    return chromium


def asked(opened: Chromium) -> list[str]:
    """What the page has asked for that is not in itself."""
    return [request for request in opened.requests if not request.startswith("data:")]


def button(row: str, column: int) -> str:
    """A cell's button in the table of the section on pairs, as JavaScript."""
    rows = "[...document.querySelector('#section-emotion_pairwise').parentElement.querySelectorAll('tbody tr')]"
    return f"{rows}.find(r => r.cells[0].textContent === '{row}').cells[{column}].querySelector('button')"


@needs_chromium
def test_the_page_loads_without_errors_and_asks_for_nothing_else(opened: Chromium, page: Path) -> None:
    assert opened.messages == []
    assert asked(opened) == [page.resolve().as_uri()]
    assert opened.evaluate("document.title") == "The title"
    assert opened.evaluate("document.querySelectorAll('figure svg').length") == 12
    assert opened.evaluate("document.querySelectorAll('figure svg image').length") >= 3
    assert opened.evaluate("document.querySelector('.notice').textContent").count("corrupt") == 1


@needs_chromium
def test_the_page_shows_every_cell_of_a_table(opened: Chromium) -> None:
    results = [result for result in results_with_gaps() if result.experiment == "emotion_pairwise"]
    table = overview(section_of(results), "t")
    shown = opened.evaluate(
        "[...document.querySelector('#section-emotion_pairwise').parentElement.querySelector('table').tBodies[0].rows]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )

    assert [row[0] for row in shown] == [label for label, _ in table.rows]
    for (_, cells), row in zip(table.rows, shown, strict=True):
        for cell, text in zip(cells, row[1:], strict=True):
            assert text.startswith(cell.mean_text)
    fisher = cell_of(table, "fisher", "head init same, in domain")
    assert shown[2][1] == f"{fisher.mean:.2f} ± {fisher.deviation:.2f} 17 of 18"
    assert shown[2][3] == "missing"
    assert shown[0][1].endswith("n=18 best")


@needs_chromium
def test_a_cell_shows_command_settings_and_scores_of_its_results(opened: Chromium) -> None:
    opened.evaluate(f"{button('regmean', 1)}.click()")

    assert opened.evaluate("document.querySelector('dialog').open") is True
    assert opened.evaluate("document.getElementById('details-heading').textContent") == (
        "regmean: head init same, in domain"
    )
    runs = "[...document.querySelectorAll('#details-body > details')].filter(d => /, seed \\d/.test(d.textContent))"
    assert opened.evaluate(f"{runs}.length") == 18
    opened.evaluate(f"{runs}[0].open = true; new Promise(done => setTimeout(done, 200))")
    text = opened.evaluate(f"{runs}[0].textContent")
    result = next(result for result in results_with_gaps() if result.method == "regmean")
    assert result.environment["command"] in text
    assert f"{result.scores['out_of_domain']['ssec']:.2f}" in text
    assert "method.off_diagonal0.9" in text
    assert "torch2.13.0" in text
    assert "result.json" in text
    assert opened.messages == []


@needs_chromium
def test_a_missing_cell_shows_what_is_missing(opened: Chromium) -> None:
    opened.evaluate(f"{button('fisher', 1)}.click()")

    text = opened.evaluate("document.getElementById('details-body').textContent")

    assert "17 results of 18" in text
    assert "Missingtec + isear, seed 2" in text


PAIRS = "document.querySelector('#section-emotion_pairwise').parentElement.querySelector('table')"
SHOWN = f"""[...{PAIRS}.tBodies[0].rows].filter(r => !r.hidden)
    .map(r => [...r.cells].filter(c => !c.hidden).map(c => c.textContent))"""


def box(kind: str, name: str) -> str:
    """A checkbox of the choice, as JavaScript."""
    return f"document.querySelector('#choices input[name={kind}][value=\"{name}\"]')"


@needs_chromium
def test_chosen_methods_and_columns_are_shown_and_stay_in_the_address(opened: Chromium) -> None:
    assert opened.evaluate("document.getElementById('pick').hidden") is False
    before = opened.evaluate(SHOWN)

    opened.evaluate(f"{box('methods', 'individual')}.click()")
    opened.evaluate(f"{box('columns', 'head init same, out of domain')}.click()")

    shown = opened.evaluate(SHOWN)
    assert [row[0] for row in shown] == ["simple", "fisher", "regmean"]
    assert [row[1].partition(" ±")[0] for row in shown] == [row[1].partition(" ±")[0] for row in before[1:]]
    assert [row[2].removesuffix(" best") for row in shown] == [row[3].removesuffix(" best") for row in before[1:]]
    groups = f"[...{PAIRS}.querySelectorAll('th[scope=colgroup]')].filter(t => !t.hidden).map(t => t.colSpan)"
    assert opened.evaluate(groups) == [1, 2]
    address = opened.evaluate("location.hash")
    assert address.startswith("#methods=simple,fisher,regmean&columns=")
    assert "head%20init%20same%2C%20in%20domain" in address
    assert "3 of 4 methods" in opened.evaluate("document.getElementById('picked').textContent")

    opened.reload()
    assert opened.evaluate(SHOWN) == shown
    opened.evaluate("[...document.querySelectorAll('#choices button')].filter(b => /^All/.test(b.textContent))"
                    ".forEach(b => b.click())")  # fmt: skip
    assert opened.evaluate(SHOWN) == before
    assert opened.evaluate("location.hash") == ""
    assert opened.messages == []


@needs_chromium
def test_of_what_is_chosen_the_best_complete_score_is_bold(opened: Chromium) -> None:
    opened.evaluate(f"{box('methods', 'individual')}.click()")
    results = [r for r in results_with_gaps() if r.experiment == "emotion_pairwise" and r.method != "individual"]
    (expected,) = {r.method for r in results if r.head_init == "same" and r.method == "regmean"}
    bold = opened.evaluate(
        f"[...{PAIRS}.tBodies[0].rows].filter(r => !r.hidden && r.cells[1].querySelector('.best'))"
        ".map(r => r.cells[0].textContent)"
    )
    means = {
        method: sum(r.mean_in_domain for r in results if (r.method, r.head_init) == (method, "same")) / 18
        for method in ("simple", "regmean")  # fisher's is not complete
    }

    assert bold == [expected] == [max(means, key=lambda method: means[method])]
    opened.evaluate(f"{box('methods', 'regmean')}.click()")
    opened.evaluate(f"{box('methods', 'fisher')}.click()")
    assert opened.evaluate(f"{PAIRS}.querySelectorAll('tbody tr:not([hidden]) td:not([hidden]) .best').length") == 0


@needs_chromium
def test_methods_are_chosen_where_they_are_columns_and_in_the_tests_too(opened: Chromium) -> None:
    opened.evaluate("location.hash = '#methods=simple,fisher'")
    opened.wait(lambda: opened.evaluate("document.getElementById('picked').textContent") == "2 of 4 methods", "choice")
    by_members = (
        "[...document.querySelectorAll('#section-emotion_pairwise ~ details table')]"
        ".find(t => t.tHead.textContent.includes('members'))"
    )
    shown = opened.evaluate(
        f"[...{by_members}.rows].map(r => [...r.cells].filter(c => !c.hidden).map(c => c.textContent.trim()))"
    )
    assert shown[0] == ["members", "simple", "fisher"]
    for row, one, other in shown[1:]:  # fisher is better for each pair; one of its results of one pair is missing
        assert ("best" in one, "best" in other) == (False, "of" not in other), row
    tested = "[...document.querySelectorAll('tr[data-method]')].filter(r => !r.hidden).map(r => r.dataset.method)"
    assert set(opened.evaluate(tested)) <= {"simple", "fisher", "all rows"}


@needs_chromium
def test_an_address_shows_its_section_and_its_choice_and_links_keep_it(opened: Chromium, page: Path) -> None:
    opened.evaluate("location.hash = '#section-emotion_incremental&methods=regmean,unheard'")
    opened.wait(lambda: opened.evaluate("window.scrollY > 0"), "scrolled page")

    assert [row[0] for row in opened.evaluate(SHOWN)] == ["regmean"]
    where = "document.getElementById('section-emotion_incremental').getBoundingClientRect().top"
    opened.wait(lambda: abs(opened.evaluate(where)) < 60, "section")

    opened.evaluate("document.querySelector('nav a[href=\"#section-emotion_pairwise\"]').click()")
    opened.wait(lambda: opened.evaluate("location.hash") == "#section-emotion_pairwise&methods=regmean", "address")
    assert [row[0] for row in opened.evaluate(SHOWN)] == ["regmean"]

    opened.evaluate("location.hash = '#methods=%3Cb%3E,%E0%A4%A'")
    opened.wait(lambda: opened.evaluate("document.getElementById('picked').textContent") == "", "all methods")
    assert len(opened.evaluate(SHOWN)) == 4
    assert opened.messages == []


@needs_chromium
def test_cells_can_be_reached_opened_and_left_with_the_keyboard(opened: Chromium) -> None:
    opened.press("Tab", 9)
    assert opened.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        opened.press("Tab", 9)
        if opened.evaluate("document.activeElement.matches('button.cell')"):
            break
    number = opened.evaluate("document.activeElement.dataset.cell")
    outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    opened.press("Enter", 13, "\r")

    assert number is not None
    assert outline == "solid"
    assert opened.evaluate("document.querySelector('dialog').open") is True
    assert opened.evaluate("document.querySelector('dialog').contains(document.activeElement)") is True

    opened.press("Escape", 27)
    assert opened.evaluate("document.querySelector('dialog').open") is False
    assert opened.evaluate("document.activeElement.dataset.cell") == number


@needs_chromium
def test_every_control_and_picture_has_a_name(opened: Chromium) -> None:
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    seen: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            role, name = node["role"].get("value", ""), node.get("name", {}).get("value", "")
            seen.setdefault(role, []).append(name)

    for role in ("button", "image", "table", "region", "link", "rowheader", "columnheader"):
        assert seen.get(role), f"no {role} at all: {sorted(seen)}"
        assert all(seen[role]), f"a {role} without a name"
    assert len(set(seen["region"])) == len(seen["region"])


@needs_chromium
@pytest.mark.parametrize(("scheme", "paper"), [("light", 255), ("dark", 30)])
def test_the_page_is_drawn_light_and_dark(opened: Chromium, scheme: str, paper: int) -> None:
    opened.media(prefers_color_scheme=scheme)
    image = Image.open(io.BytesIO(opened.screenshot(whole=False))).convert("L")
    shades = image.histogram()

    commonest = max(range(256), key=lambda shade: shades[shade])
    assert abs(commonest - paper) <= 20
    ink = range(0, 90) if scheme == "light" else range(170, 256)
    assert sum(shades[shade] for shade in ink) > 0.005 * image.width * image.height


@needs_chromium
def test_figures_have_the_colour_of_the_page(opened: Chromium) -> None:
    label = "getComputedStyle(document.querySelector('figure svg [id*=text] *')).fill"
    opened.media(prefers_color_scheme="light")
    light = opened.evaluate(label)
    opened.media(prefers_color_scheme="dark")

    assert light != opened.evaluate(label)


@needs_chromium
def test_a_narrow_page_does_not_scroll_sideways(opened: Chromium, page: Path) -> None:
    opened.open(page, width=360, height=700)

    assert opened.evaluate("document.documentElement.scrollWidth") <= 360


@needs_chromium
def test_what_is_folded_away_is_printed(opened: Chromium) -> None:
    folded = "document.querySelectorAll('main details:not([open])').length"
    assert opened.evaluate(folded) > 0

    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate(folded) == 0
    opened.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.evaluate(folded) > 0


@needs_chromium
def test_hostile_names_do_nothing_in_a_browser(opened: Chromium, hostile_page: Path) -> None:
    opened.requests.clear()
    opened.open(hostile_page)
    opened.evaluate(
        "[...document.querySelectorAll('button[data-cell]')].forEach(b => { b.click();"
        " document.querySelectorAll('#details-body details').forEach(d => { d.open = true; });"
        " document.querySelector('dialog').close(); }); new Promise(done => setTimeout(done, 200))"
    )
    opened.evaluate("document.querySelector('button[data-cell]').click()")

    assert HOSTILE in opened.evaluate("document.getElementById('details-heading').textContent + document.title")
    assert opened.evaluate("window.hacked === undefined") is True
    assert opened.messages == []
    assert asked(opened) == [hostile_page.resolve().as_uri()]
