"""The notebook with a pico model, against the command's own jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from regmean_lab.experiment import run

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "demo.ipynb"
PARAMETERS = """
model, members, seed = "pico_bert", ["tweets", "nyt"], 1
train_examples, test_examples, statistics_examples = 40, 30, 20
factors = [0, 1]
data_dir, zoo_dir = "data", "zoo"

# The suite takes the made-up files for the published ones.
import dataclasses, hashlib, pathlib
from regmean_lab.suites import sentiment

for name, domain in sentiment.DOMAINS.items():
    content = pathlib.Path("data", "sentiment", f"{name}.tsv").read_bytes()
    sentiment.DOMAINS[name] = dataclasses.replace(domain, sha256=hashlib.sha256(content).hexdigest())
"""


def test_the_notebook_measures_what_the_command_measures(
    made_up_sentiment: Path, tmp_path: Path, compose_job: Callable[..., Any]
) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = PARAMETERS
    notebook.cells.append(
        nbformat.v4.new_code_cell("print(table.to_json(orient='index'))\nprint(curve.to_json(orient='index'))")
    )
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    table, curve = (json.loads(line) for line in notebook.cells[-1].outputs[0].text.splitlines())
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    shared = [
        "suite=sentiment",
        "model=pico_bert",
        "members=[tweets,nyt]",
        "suite.train_examples=40",
        "suite.dev_examples=100",
        "suite.test_examples=30",
        "statistics.gram.examples=20",
        "training.batch_size=8",
        f"paths.data_dir={made_up_sentiment}",
        f"paths.zoo_dir={tmp_path / 'zoo'}",
        "trainer.progress_bar=false",
        "logger=none",
    ]
    rows = {
        "simple": table["simple"],
        "regmean": table["regmean"],
        "regmean method.off_diagonal=0": curve["0"],
        "regmean method.off_diagonal=1": curve["1"],
    }
    for number, (method, found) in enumerate(rows.items()):
        overrides = [*shared, *f"method={method}".split(" ")]
        result, _ = run(compose_job(*overrides), tmp_path / f"job{number}", overrides)
        assert result is not None
        assert {**result.scores["in_domain"], **result.scores["out_of_domain"]} == pytest.approx(found, abs=1e-6)
    assert set(table) == {"trained on tweets", "trained on nyt", "simple", "regmean"}
    assert all(0 <= score <= 100 for row in table.values() for score in row.values())


def test_the_notebook_names_no_folder_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/tmp/" not in text
