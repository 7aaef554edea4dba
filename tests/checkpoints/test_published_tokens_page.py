"""The commands of docs/publishing.md on counts of tokens, run from a folder with two models and two files of texts."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

from checkpoint_folders import LABELS, save_classifier
from forks import Forks
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TEXT = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Counts of tokens")[2].partition("###")[0]
COMMANDS = re.findall(r"^    python -m regmean_lab (.*)$", SECTION, re.M)
WORDS = {"reviews": "the film was a happy story of music", "tweets": "people were angry and the rain came"}


def test_two_owners_and_whoever_merges(forks: Forks, tmp_path: Path, pico_cache: Path) -> None:
    assert len(COMMANDS) == 3
    for seed, (name, words) in enumerate(WORDS.items()):
        save_classifier(tmp_path / name, pico_cache, seed)
        draw = random.Random(seed)
        texts = [" ".join(draw.choices(words.split(), k=draw.randint(3, 9))) for _ in range(80)]
        (tmp_path / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    for number, command in enumerate(COMMANDS):
        small = ["trainer=cpu", "trainer.progress_bar=false"] + ["method.examples=40"] * (number == 2)
        status, printed = forks.run([*shlex.split(command), *small], tmp_path / "log", tmp_path)
        assert status == 0, printed
        for name in WORDS:  # who merges has no texts
            if number == 1:
                (tmp_path / f"{name}.txt").unlink()
    sizes = [(tmp_path / name / "statistics" / "tokens.safetensors").stat().st_size for name in WORDS]
    assert max(sizes) < 3000
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    logits = model(**tokenizer("the film was angry", return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] in LABELS
    record = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert record["method"]["text"] == "pseudo"
    assert len(record["diagnostics"]) > 10
