"""The commands of docs/own_data.md, run from a folder with three csv files and nothing else."""

from __future__ import annotations

import csv
import json
import random
import re
import shlex
from pathlib import Path

import pytest
import torch
from forks import Forks
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from regmean_lab.suites.text_classification import TextClassificationSettings, TextClassificationSuite

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python -m (regmean_lab .*films.csv.*)$", TEXT, re.M)
(TEXTS,) = re.findall(r"^    python -m (regmean_lab suite=text_generation .*)$", TEXT, re.M)
(FILES,) = re.findall(r"^ +python -m (regmean_lab .*\{train: .*)$", TEXT, re.M)
SMALL = ("model=pico_bert", "training.epochs=2", "training.learning_rate=0.01", "trainer=cpu", "logger=none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of sentences in which one word tells the label."""
    made = tmp_path_factory.mktemp("own")
    generator = random.Random(0)
    for name in ("films", "books", "hotels"):
        with (made / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for number in range(120):
                label = generator.choice(["bad", "good"])
                word = {"bad": "awful", "good": "best"}[label]
                writer.writerow([f"the {name} were {word} {number}", label])
    return made


def run(forks: Forks, folder: Path, command: str) -> str:
    status, printed = forks.run([*shlex.split(command)[1:], *SMALL], folder / "log.txt", folder)
    assert status == 0, printed
    return printed


def test_texts_that_a_model_writes(forks: Forks, tmp_path: Path) -> None:
    for corpus, word in (("a", "north"), ("b", "south")):
        rows = [{"question": f"Where is {number}?", "answer": f"{word} {number % 3}"} for number in range(40)]
        (tmp_path / f"{corpus}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, printed = forks.run(
        [*shlex.split(TEXTS.replace("=gpt2", "=pico_gpt2"))[1:], *SMALL[1:]], tmp_path / "log.txt", tmp_path
    )
    assert status == 0, printed
    (result,) = results(tmp_path).values()
    assert set(result["scores"]["in_domain"]) == {"a", "b"}  # type: ignore[index]


def test_a_corpus_of_two_files(forks: Forks, folder: Path, tmp_path: Path) -> None:
    """The test file is what is scored, and labels are those of the named column: the other one has one label."""
    rows = list(csv.reader((folder / "films.csv").open(newline="", encoding="utf-8")))[1:]
    for name, part in (("train", rows[:90]), ("test", rows[90:])):
        with (tmp_path / f"films-{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", "label", "stars"], *([text, "no", label] for text, label in part)])
    (tmp_path / "books.csv").write_text((folder / "books.csv").read_text())
    assert "mean in domain" in run(forks, tmp_path, FILES)
    (result,) = results(tmp_path).values()
    assert set(result["scores"]["in_domain"]) == {"films", "books"}  # type: ignore[index]
    right = result["scores"]["in_domain"]["films"] / 100 * 30  # type: ignore[index]
    assert right == pytest.approx(round(right), abs=1e-6)


def results(folder: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(path.read_text()) for path in folder.glob("outputs/**/result.json")]
    return {f"{result['method']} {len(result['members'])}": result for result in found}


def test_the_page_has_the_commands_that_are_run_here() -> None:
    assert len(COMMANDS) == 5
    assert len(re.findall(r"^ {4,}python -m ", TEXT, re.M)) == len([*COMMANDS, TEXTS, FILES])
    assert ["plan=true" in command for command in COMMANDS] == [True, False, False, False, False]


def test_a_plan_a_table_and_a_merged_folder(forks: Forks, folder: Path) -> None:
    plan, table, methods, merged, pairs = COMMANDS
    told = run(forks, folder, plan)
    assert "3 to train" in told
    assert not list(folder.glob("zoo/*/training.json"))
    assert "mean in domain" in run(forks, folder, table)
    assert len(list(folder.glob("zoo/*/training.json"))) == 3
    told = run(forks, folder, methods)
    assert "3 results, 2 computed now" in told
    run(forks, folder, merged)
    assert len(list(folder.glob("zoo/*/training.json"))) == 3, "members were trained again"
    assert sorted(results(folder)) == ["individual 3", "regmean 2", "regmean 3", "simple 3"]
    assert "6 results, 6 computed now" in run(forks, folder, pairs)  # the experiment's name is another than above

    # The score of the merge on the corpus out of domain, counted by hand from the folder that was written.
    (written,) = folder.glob("outputs/**/merged")
    result = json.loads((written.parent / "result.json").read_text())
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(written),
        AutoTokenizer.from_pretrained(written),
    )
    assert model.config.id2label == {0: "bad", 1: "good"}
    with (folder / "hotels.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["text"]: row["label"] for row in csv.DictReader(file)}
    suite = TextClassificationSuite(folder, TextClassificationSettings(corpora={"hotels": str(folder / "hotels.csv")}))
    texts = [example.text for example in suite.examples("hotels", "test")]
    assert len(texts) == 24
    with torch.inference_mode():
        logits = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    named = [model.config.id2label[int(number)] for number in logits.argmax(-1)]
    right = sum(rows[text] == name for text, name in zip(texts, named, strict=True))
    assert result["scores"]["out_of_domain"]["hotels"] == pytest.approx(100 * right / len(texts))
