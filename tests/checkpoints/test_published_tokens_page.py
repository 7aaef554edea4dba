"""The commands of docs/publishing.md on counts of tokens, run from a folder with two models and two files of texts."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from checkpoint_folders import LABELS, save_classifier
from forks import Forks
from scipy.special import rel_entr, softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TEXT = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Counts of tokens")[2].partition("###")[0]
COMMANDS = re.findall(r"^    python -m regmean_lab (.*)$", SECTION, re.M)
WORDS = {
    "reviews": ("the film was a story of music and people", ("happy", "angry")),
    "tweets": ("people and rain came to the village by the river", ("sun", "dark")),
}
"""Of each member the words of its texts, and by label the one that decides."""


def texts_of(name: str, seed: int, count: int) -> list[tuple[str, int]]:
    """Texts of a member with their labels."""
    draw, (words, deciding) = random.Random(f"{name} {seed}"), WORDS[name]
    rows = []
    for _ in range(count):
        label = draw.randrange(2)
        text = draw.choices(words.split(), k=draw.randint(3, 9))
        text.insert(draw.randrange(len(text)), deciding[label])
        rows.append((" ".join(text), label))
    return rows


def trained(folder: Path, name: str, pico_cache: Path) -> None:
    """A member, trained from what both begin with."""
    model = save_classifier(folder, pico_cache, 0).train()
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), texts_of(name, 0, 96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(200):
            part = [rows[(16 * step + number) % len(rows)] for number in range(16)]
            batch = tokenizer([text for text, _ in part], padding=True, return_tensors="pt")
            loss = model(**batch, labels=torch.tensor([label for _, label in part])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder)


def logits_of(folder: Path, texts: list[str]) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).double().numpy()


def divergence(merged: Path, folder: Path, name: str) -> float:
    """KL(member ‖ merged) on texts of the member that nothing has seen, by SciPy."""
    texts = [text for text, _ in texts_of(name, 1, 100)]
    said, other = (softmax(logits_of(one, texts), 1) for one in (folder, merged))
    return float(rel_entr(said, other).sum(1).mean())


def test_two_owners_and_whoever_merges(forks: Forks, tmp_path: Path, pico_cache: Path) -> None:
    """What comes out is nearer to the members than the mean of their weights is, and nobody has read a text."""
    assert len(COMMANDS) == 3
    for name in WORDS:
        trained(tmp_path / name, name, pico_cache)
        texts = [text for text, _ in texts_of(name, 0, 96)]
        (tmp_path / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")

    def command(*arguments: str) -> None:
        given = [*arguments, "trainer=cpu", "trainer.progress_bar=false"]
        status, printed = forks.run(given, tmp_path / "log", tmp_path)
        assert status == 0, printed

    for number, line in enumerate(COMMANDS):
        command(*shlex.split(line), *["method.examples=300"] * (number == 2))
        for name in WORDS:  # who merges has no texts
            if number == 1:
                (tmp_path / f"{name}.txt").unlink()
    sizes = [(tmp_path / name / "statistics" / "tokens.safetensors").stat().st_size for name in WORDS]
    assert max(sizes) < 3000
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").config.id2label == dict(
        enumerate(LABELS)
    )
    record = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert record["method"]["text"] == "pseudo"
    assert len(record["diagnostics"]) > 10
    command("experiment=merge_checkpoints", "checkpoints=[reviews,tweets]", "method=simple", "output=mean")
    fitted, mean = (
        [divergence(tmp_path / merged, tmp_path / name, name) for name in WORDS] for merged in ("merged", "mean")
    )
    assert max(mean) > 0.05  # there is a gap to close; the mean may be near one of them
    assert sum(fitted) < 0.5 * sum(mean)
    # The members have learned something, so that there is something to keep.
    for name in WORDS:
        texts, labels = zip(*texts_of(name, 1, 100), strict=True)
        assert (logits_of(tmp_path / name, list(texts)).argmax(1) == labels).mean() > 0.9
