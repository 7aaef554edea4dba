from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.prepare import PrepareError, Request
from regmean_lab.prepare.emotion import EmotionPreparer, Row, split_rows
from regmean_lab.suites.base import IGNORED, SPLITS, DataError
from regmean_lab.suites.emotion import EMOTIONS, IN_DOMAIN, LABELS, OUT_OF_DOMAIN, EmotionSettings, EmotionSuite

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
NO_VAD = dict.fromkeys(("valence", "arousal", "dominance"))


def unified(source: str, text: str, split: str | None = None, **more: Any) -> dict[str, Any]:
    """An object as the unifying script writes it."""
    emotions = dict.fromkeys(EMOTIONS) | {"joy": 1, "fear": 0}
    row = {"id": 7, "VAD": NO_VAD, "source": source, "text": text, "emotions": emotions, "split": split}
    return {**row, "domain": "tweets", **more}


def write(tmp_path: Path, rows: list[Any]) -> Path:
    path = tmp_path / "unified-dataset.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def prepare(tmp_path: Path, source: Path | None, seed: int = 0, force: bool = False) -> None:
    EmotionPreparer().prepare(Request(tmp_path / "data", source=source, seed=seed, force=force))


def texts(tmp_path: Path, corpus: str) -> dict[str, list[str]]:
    folder = tmp_path / "data" / "emotion_splits" / corpus
    return {
        split: [json.loads(line)["text"] for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        for split in SPLITS
    }


def test_the_suite_reads_what_is_written(tmp_path: Path) -> None:
    corpora = IN_DOMAIN + OUT_OF_DOMAIN
    assert set(EmotionPreparer().files(tmp_path)) == set(corpora)
    rows = [unified(corpus, f"{corpus} {number}") for number in range(10) for corpus in corpora]
    prepare(tmp_path, write(tmp_path, rows))
    suite = EmotionSuite(tmp_path / "data", EmotionSettings())
    assert suite.missing(corpora) == []
    for corpus in corpora:
        assert [len(suite.examples(corpus, split)) for split in SPLITS] == [7, 1, 2]
        example = suite.examples(corpus, "train")[0]
        assert example.text.startswith(corpus)
        expected = {"joy": 1, "fear": 0}
        assert example.label == tuple(expected.get(label, IGNORED) for label in LABELS)
    assert "COLING 2018" in (tmp_path / "data" / "emotion_splits" / "NOTICE.txt").read_text()


def test_own_splits_are_kept_and_dev_is_drawn_from_train(tmp_path: Path) -> None:
    rows = [unified("meld", f"{split} {number}", split) for split in ("train", "val", "test") for number in range(4)]
    rows += [unified("ssec", f"train {number}", "train") for number in range(40)]
    rows += [unified("ssec", f"test {number}", "test") for number in range(8)]
    rows += [unified("affectivetext", f"trial {number}", "Trial") for number in range(10)]
    rows += [unified("affectivetext", "a headline", "test")]
    prepare(tmp_path, write(tmp_path, rows))
    assert texts(tmp_path, "meld") == {
        split: [f"{name} {number}" for number in range(4)]
        for split, name in zip(SPLITS, ("train", "val", "test"), strict=True)
    }
    ssec = texts(tmp_path, "ssec")
    assert ssec["test"] == [f"test {number}" for number in range(8)]
    assert len(ssec["dev"]) == 4
    assert sorted(ssec["train"] + ssec["dev"]) == sorted(f"train {number}" for number in range(40))
    assert {split: len(found) for split, found in texts(tmp_path, "affectivetext").items()} == {
        "train": 9,
        "dev": 1,
        "test": 1,
    }


def test_random_splits_follow_the_seed_and_keep_equal_texts_together(tmp_path: Path) -> None:
    rows = [unified("tec", f"text {number % 20}") for number in range(60)]
    path = write(tmp_path, rows)
    prepare(tmp_path, path)
    first = texts(tmp_path, "tec")
    assert {split: Counter(found).most_common(1)[0][1] for split, found in first.items()} == dict.fromkeys(SPLITS, 3)
    assert {split: len(set(found)) for split, found in first.items()} == {"train": 14, "dev": 2, "test": 4}
    prepare(tmp_path, path, seed=1)
    assert texts(tmp_path, "tec") == first
    prepare(tmp_path, path, seed=1, force=True)
    assert texts(tmp_path, "tec") != first
    prepare(tmp_path, path, force=True)
    assert texts(tmp_path, "tec") == first


@pytest.mark.parametrize(
    "splits",
    [("train", None, "test"), ("train", "train", "train"), ("test", "dev", "test"), (None, None, None)],
    ids=["some rows without one", "train only", "no train", "none"],
)
def test_incomplete_own_splits_are_not_used(splits: tuple[Any, ...]) -> None:
    rows = [Row("c", f"text {number}", splits[number % 3], "{}") for number in range(30)]
    found, how = split_rows(rows, 0)
    assert Counter(found) == {"train": 21, "dev": 3, "test": 6}
    assert ("incomplete" in how) == any(splits)


def test_values(tmp_path: Path) -> None:
    """Ratings of EmoBank come as strings; other keys are kept, missing labels become null."""
    vad = {"valence": "3.2", "arousal": None, "dominance": "0"}
    rows = [
        {"source": "emobank", "text": f"ça {number}", "emotions": {}, "VAD": vad, "id": number, "split": ""}
        for number in range(3)
    ]
    prepare(tmp_path, write(tmp_path, rows))
    path = tmp_path / "data" / "emotion_splits" / "emobank" / "train.jsonl"
    row = json.loads(path.read_text())
    assert row == {
        "source": "emobank",
        "text": f"ça {row['id']}",
        "emotions": dict.fromkeys(EMOTIONS),
        "VAD": {"valence": 3.2, "arousal": None, "dominance": 0.0},
        "id": row["id"],
        "split": "train",
    }
    (example,) = EmotionSuite(tmp_path / "data", EmotionSettings()).examples("emobank", "train")
    assert example.label == (IGNORED,) * 13 + (1, IGNORED, 0)


def test_malformed_lines(tmp_path: Path) -> None:
    good = unified("tec", "a")
    path = write(
        tmp_path,
        [
            good,
            "{",
            "[]",
            {**good, "source": None},
            {**good, "source": "../up"},
            {**good, "text": 3},
            {**good, "split": "fold 1"},
            {**good, "emotions": None},
            {**good, "emotions": {"happiness": 1}},
            {**good, "emotions": {"joy": True}},
            {**good, "VAD": {"valence": "high"}},
        ],
    )
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, path)
    found = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}:").split(":")[0] for line in found] == [str(number) for number in range(2, 12)]
    assert [line.split(": ", 1)[1] for line in found[3:]] == [
        "\"source\" cannot be the name of a folder: '../up'",
        '"text" must be a string, found 3',
        '"split" must be one of train, training, trial, dev, development, val, valid, validation, test, testing, or '
        'null; found "fold 1"',
        '"emotions" must be an object, found null',
        f"\"emotions\" has an unknown label 'happiness'; known are {', '.join(EMOTIONS)}",
        '"emotions": joy must be a finite number or null, found true',
        '"VAD": valence must be a finite number or null, found "high"',
    ]
    assert not (tmp_path / "data").exists()


def test_missing_sources(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"give from= unified-dataset\.jsonl"):
        prepare(tmp_path, None)
    with pytest.raises(PrepareError, match=r"unified-dataset\.jsonl is not there"):
        prepare(tmp_path, tmp_path)


def test_a_corpus_that_is_too_small_stops_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [unified("tec", f"{n}") for n in range(5)] + [unified("isear", "same") for _ in range(5)])
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(PrepareError, match=r"^isear: 1 different texts cannot be divided"),
    ):
        prepare(tmp_path, tmp_path)
    assert sum(map(len, texts(tmp_path, "tec").values())) == 5
    assert any(
        "no sentence of dailydialog, crowdflower, tales-emotion, emoint" in message for message in caplog.messages
    )


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
def test_real_corpora_come_back(tmp_path: Path) -> None:
    """One file of all rows, each with its split, gives the same rows in the same files."""
    assert DATA is not None
    real = Path(DATA) / "emotion_splits"
    corpora = ("ssec", "affectivetext", "emoint")
    paths = [real / corpus / f"{split}.jsonl" for corpus in corpora for split in SPLITS]
    unified_file = tmp_path / "unified-dataset.jsonl"
    unified_file.write_text("".join(path.read_text() for path in paths))
    prepare(tmp_path, unified_file)
    for path in paths:
        again = tmp_path / "data" / "emotion_splits" / path.parent.name / path.name
        assert [json.loads(line) for line in again.read_text().splitlines()] == [
            json.loads(line) for line in path.read_text().splitlines()
        ]
