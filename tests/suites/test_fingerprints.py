"""Fingerprints of every suite, written down a second time: what is hashed must not change between versions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from glue_files import row, write_rows

from regmean_lab.suites import suite_types


def hashed(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def files(folder: Path, names: list[str]) -> list[str]:
    """Writes files of different contents; returns their hashes."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"1\t2.5\tthe content of {name}\n")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def fingerprint(folder: Path, suite: str, corpus: str, **settings: Any) -> str:
    kind = suite_types()[suite]
    return kind(folder, kind.settings_type(**settings)).fingerprint(corpus)


LIMITS = {"sample_seed": 3, "train_examples": 7, "dev_examples": None}
LAYOUTS = {
    ("emotion", "tec"): "emotion_splits/tec/{train,dev,test}.jsonl",
    ("ner", "wb"): "ner/ontonotes/onto.{train,development,test}.wb.ner",
    ("ner", "conll2003"): "ner/conll2003/{train,dev,test}.conll",
    ("ner", "twitter"): "ner/twitter/annotated.twitter-ner-20-21-tweet-{train,dev,test}-withcleaned.json",
    ("ner_open", "btc_a"): "ner_open/btc_a/{train,dev,test}.conll",
}


@pytest.mark.parametrize(("suite", "corpus"), LAYOUTS)
def test_files_and_settings(tmp_path: Path, suite: str, corpus: str) -> None:
    before, _, rest = LAYOUTS[suite, corpus].partition("{")
    splits, _, after = rest.partition("}")
    found = files(tmp_path, [f"{before}{split}{after}" for split in splits.split(",")])
    content = {"suite": suite, "corpus": corpus, "files": found, **LIMITS}
    if suite == "emotion":
        content["positive_threshold"] = 0.1
    assert fingerprint(tmp_path, suite, corpus, **LIMITS, test_examples=2) == hashed(content)


def test_emotion_as_text(tmp_path: Path) -> None:
    found = files(tmp_path, [f"emotion_splits/tec/{split}.jsonl" for split in ("train", "dev", "test")])
    sentences = {"suite": "emotion_text", "corpus": "tec", "files": found, "positive_threshold": 0.1, **LIMITS}
    wording = {
        "form": "causal",
        "question": "{text} The sentence expresses {subject}.",
        "answers": [" no", " yes"],
    }
    expected = hashed({"sentences": hashed(sentences), "wordings": [wording]})
    assert fingerprint(tmp_path, "emotion_text", "tec", **LIMITS, form="causal") == expected


@pytest.mark.parametrize(("target", "minimum"), [("binary", 0.5), ("regression", None)])
def test_sentiment_and_its_parts(tmp_path: Path, target: str, minimum: float | None) -> None:
    (found,) = files(tmp_path, ["sentiment/movie.tsv"])
    limits = {"split_seed": 4, "train_examples": 7, "dev_examples": 5}
    content = {"suite": "sentiment", "corpus": "movie", "file": found, "target": target, "minimum_score": minimum}
    assert fingerprint(tmp_path, "sentiment", "movie", target=target, **limits) == hashed({**content, **limits})
    parts = {
        "suite": "sentiment_partition",
        "corpus": "partition_1",
        "domain": hashed({**content, **limits, "suite": "sentiment_partition"}),
        "partition": "iid",
        "examples": 30,
        "majority_share": None,
        "partition_seed": 1,
    }
    settings: dict[str, Any] = {"target": target, "partition": "iid", "examples": 30, **limits}
    assert fingerprint(tmp_path, "sentiment_partition", "partition_1", **settings) == hashed(parts)


def test_glue_and_its_parts(tmp_path: Path) -> None:
    write_rows(tmp_path, "rte", "train", [row("rte", 1, "a", "b"), row("rte", 0, "c", "d")])
    write_rows(tmp_path, "rte", "validation", [row("rte", "entailment", "e", "f")])
    lines = ["rte train", '["a", "b", 1]', '["c", "d", 0]', "rte validation", '["e", "f", 0]']
    data = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    content = {"suite": "glue", "corpus": "rte", "content": data, **LIMITS}
    assert fingerprint(tmp_path, "glue", "rte", **LIMITS) == hashed(content)
    parts = {"partition": "non_iid", "examples": 2000, "majority_share": 0.8, "partition_seed": 1}
    content |= {"suite": "glue_partition", "corpus": "partition_0", **parts}
    assert fingerprint(tmp_path, "glue_partition", "partition_0", task="rte", **LIMITS) == hashed(content)
