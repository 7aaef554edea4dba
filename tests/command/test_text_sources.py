"""Jobs whose method reads pseudo-text or a file, from the command line to result.json."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from forks import Forks

MEMBERS = ("suite=text_classification", "suite.corpora.films=films.csv", "suite.corpora.books=books.csv")
SMALL = ("model=pico_bert", "training.epochs=1", "trainer=cpu", "logger=none", "trainer.progress_bar=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of labelled sentences."""
    made = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for name in ("films", "books"):
        rows = [
            (f"the {name} were {word} {' '.join(draw.choices('abcdefgh', k=3))}", word)
            for word in draw.choices(("bad", "good"), k=120)
        ]
        (made / f"{name}.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return made


def run(forks: Forks, folder: Path, *overrides: str) -> str:
    status, printed = forks.run([*MEMBERS, *SMALL, *overrides], folder / "log.txt", folder)
    assert status == 0, printed
    return printed


def result_of(folder: Path, method: str) -> dict[str, Any]:
    (path,) = folder.glob(f"outputs-{method}/**/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_pseudo_text_is_drawn_from_counts_that_are_kept_beside_the_member(forks: Forks, folder: Path) -> None:
    asked = ("method=regmean_sequential", "method.start=simple", "method.text=pseudo", "method.examples=50")
    run(forks, folder, *asked, "paths.output_dir=outputs-pseudo")
    result = result_of(folder, "pseudo")
    assert len(result["diagnostics"]) > 10
    assert len(list(folder.glob("zoo/*/statistics/tokens-*.safetensors"))) == 2
    assert not list(folder.glob("zoo/*/statistics/gram-*.safetensors"))
    assert result["configuration"]["method"]["text"] == "pseudo"


def test_results_on_a_file_are_found_by_its_content(forks: Forks, folder: Path) -> None:
    texts = folder / "texts.txt"
    texts.write_text("the river was good\n" * 9)
    asked = ("method=regmean_sequential", "method.text=texts.txt", "paths.output_dir=outputs-file")
    run(forks, folder, *asked)
    first = result_of(folder, "file")
    assert "found the finished result" in run(forks, folder, *asked)
    texts.write_text("the sun was bad\n" * 9)
    assert "found the finished result" not in run(forks, folder, *asked)
    assert result_of(folder, "file")["data_fingerprint"] != first["data_fingerprint"]


def test_what_is_wrong_is_told_before_any_work(forks: Forks, tmp_path: Path, folder: Path) -> None:
    for asked, message in (
        (("method.text=none.txt",), "method.text: no such file: none.txt"),
        (("method.text=psuedo",), "method.text: expected own, pseudo, or a file"),
        (("method.text=pseudo", "statistics.tokens.epsilon=-1"), "statistics.tokens.epsilon: expected a number of at"),
        (("method.text=pseudo", "statistics.tokens.epsilon=1", "statistics.tokens.delta=1"), "statistics.tokens.delta"),
    ):
        status, printed = forks.run([*MEMBERS, *SMALL, "method=regmean_plusplus", *asked], tmp_path / "log", folder)
        assert status != 0
        assert message in printed
    assert (
        "did you mean pseudo?"
        in forks.run([*MEMBERS, *SMALL, "method=regmean_plusplus", "method.text=psuedo"], tmp_path / "log", folder)[1]
    )
