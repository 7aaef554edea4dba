from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.suites.base import IGNORED, SPLITS, DataError, MissingDataError
from regmean_lab.suites.emotion import IN_DOMAIN, LABELS, OUT_OF_DOMAIN, EmotionSettings, EmotionSuite, read_emotions

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
COUNTS = {
    "tec": (6300, 900, 1800),
    "isear": (5226, 747, 1494),
    "dailydialog": (5455, 5361, 5184),
    "emoint": (2772, 396, 792),
    "ssec": (2620, 292, 1956),
    "affectivetext": (875, 125, 250),
}


def line(text: str = "a", vad: dict[str, Any] | None = None, **emotions: Any) -> str:
    return json.dumps({"text": text, "emotions": emotions, "VAD": vad or {}, "split": "train"})


def write(data_dir: Path, corpus: str, split: str = "train", lines: list[str] | None = None) -> Path:
    path = data_dir / "emotion_splits" / corpus / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(entry + "\n" for entry in lines or [line(f"{corpus} {split}", joy=1)]))
    return path


def corpus_of(data_dir: Path, corpus: str, sizes: tuple[int, int, int] = (5, 3, 4)) -> None:
    for split, size in zip(SPLITS, sizes, strict=True):
        write(data_dir, corpus, split, [line(f"{split} {number}", joy=number % 2) for number in range(size)])


def suite(data_dir: Path, **settings: Any) -> EmotionSuite:
    return EmotionSuite(data_dir, EmotionSettings(**settings))


def labels_of(path: Path, threshold: float = 0.1) -> dict[str, int]:
    (example,) = read_emotions(path, threshold)
    assert isinstance(example.label, tuple)
    return dict(zip(LABELS, example.label, strict=True))


def test_label_order() -> None:
    assert LABELS[0] == "joy"
    assert LABELS[8] == "noemo"
    assert LABELS[12:] == ("guilt", "valence", "arousal", "dominance")
    assert len(set(LABELS)) == 16


def test_values_above_the_threshold_are_positive(tmp_path: Path) -> None:
    entry = line(joy=1, anger=0, sadness=0.1, disgust=0.1000001, fear=None, vad={"valence": 0.6, "arousal": 0})
    labels = labels_of(write(tmp_path, "tec", lines=[entry]))
    annotated = {name: value for name, value in labels.items() if value != IGNORED}
    assert annotated == {"joy": 1, "anger": 0, "sadness": 0, "disgust": 1, "valence": 1, "arousal": 0}


def test_threshold_is_a_setting(tmp_path: Path) -> None:
    path = write(tmp_path, "tec", lines=[line(joy=0.4, anger=0.6)])
    assert labels_of(path, 0.5)["joy"] == 0
    assert labels_of(path, 0.5)["anger"] == 1
    assert suite(tmp_path, positive_threshold=0.7).examples("tec", "train")[0].label[:2] == (0, 0)  # type: ignore[index]


@pytest.mark.parametrize("vad", ["", ', "VAD": null', ', "VAD": {"valence": null}'])
def test_dimensions_may_be_absent(tmp_path: Path, vad: str) -> None:
    labels = labels_of(write(tmp_path, "tec", lines=['{"text": "a", "emotions": {"joy": 1}' + vad + "}"]))
    assert {labels[name] for name in LABELS[13:]} == {IGNORED}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{"text": "a"', "not JSON: .* at column 13"),
        ("[1, 2]", r"expected a JSON object, found \[1, 2\]"),
        ('{"VAD": {}}', 'has no "text" and "emotions"'),
        ('{"text": "a"}', 'has no "emotions"$'),
        (json.dumps({"text": 3, "emotions": {}}), '"text" must be a string, found 3'),
        (json.dumps({"text": "a", "emotions": ["joy"]}), '"emotions" must be an object'),
        (json.dumps({"text": "a", "emotions": {}, "VAD": 1}), '"VAD" must be an object, found 1'),
        (line(joy="1"), 'the value of joy must be a finite number or null, found "1"'),
        (line(joy=True), "the value of joy must be a finite number or null, found true"),
        (line(joy=math.nan), "the value of joy must be .* found NaN"),
        (line(joy=math.inf), "the value of joy must be .* found Infinity"),
        (line(happiness=1), "\"emotions\" has an unknown label 'happiness'; known are joy, anger"),
        (line(valence=1), "\"emotions\" has an unknown label 'valence'"),
        (line(vad={"joy": 1}), "\"VAD\" has an unknown label 'joy'; known are valence, arousal, dominance"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, entry: str, message: str) -> None:
    path = write(tmp_path, "tec", lines=[line(), entry])
    with pytest.raises(DataError, match=f":2: .*{message}") as caught:
        read_emotions(path, 0.1)
    assert str(caught.value).startswith(str(path))


def test_all_malformed_lines_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "tec", lines=[line(joy="1"), line(), line(anger=True)])
    with pytest.raises(DataError) as caught:
        read_emotions(path, 0.1)
    assert [entry.split(": ")[0] for entry in str(caught.value).splitlines()] == [f"{path}:1", f"{path}:3"]


def test_blank_lines_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = write(tmp_path, "tec")
    path.write_bytes(b"\xef\xbb\xbf" + line("one").encode() + b"\r\n\r\n" + line("t\u2028wo").encode())
    assert [example.text for example in read_emotions(path, 0.1)] == ["one", "t\u2028wo"]


def test_task(tmp_path: Path) -> None:
    task = suite(tmp_path).task("tec")
    assert (task.kind, task.labels, task.key_score) == ("multi_label", LABELS, "macro_f1")
    assert (task.threshold, task.threshold_on) == (0.5, "probability")
    assert suite(tmp_path, threshold_on="logit").task("tec").threshold_on == "logit"


def test_members_and_their_numbers(tmp_path: Path) -> None:
    for corpus in ("zeta", "alpha", "emoint", ".hidden"):
        corpus_of(tmp_path, corpus)
    emotion = suite(tmp_path)
    assert emotion.members == ("dailydialog", "crowdflower", "tec", "tales-emotion", "isear")
    numbers = {name: emotion.member_number(name) for name in ("dailydialog", "isear", "affectivetext", "ssec")}
    assert numbers == {"dailydialog": 0, "isear": 4, "affectivetext": 5, "ssec": 9}
    assert (emotion.member_number("alpha"), emotion.member_number("zeta")) == (10, 11)
    assert emotion.member_problems(["tec", "emoint", "alpha"]) == []
    (problem,) = emotion.member_problems(["tec", "emoin"])
    assert "did you mean" in problem
    assert "emoint" in problem
    assert len(emotion.member_problems([".hidden"])) == 1


def test_out_of_domain_corpora(tmp_path: Path) -> None:
    assert suite(tmp_path).out_of_domain(["tec", "isear"]) == OUT_OF_DOMAIN
    assert suite(tmp_path).out_of_domain(["tec", "ssec"]) == tuple(name for name in OUT_OF_DOMAIN if name != "ssec")
    assert suite(tmp_path, out_of_domain=["ssec", "tec"]).out_of_domain(["tec"]) == ("ssec",)
    with_others = suite(tmp_path, out_of_domain=["ssec", "isear"], include_other_members=True)
    assert with_others.out_of_domain(["tec", "crowdflower"]) == ("ssec", "isear", "dailydialog", "tales-emotion")


def test_absent_out_of_domain_corpora_are_skipped_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus_of(tmp_path, "emoint")
    write(tmp_path, "ssec", "dev")
    assert suite(tmp_path).out_of_domain(["tec"]) == OUT_OF_DOMAIN
    emotion = suite(tmp_path, skip_missing_out_of_domain=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert emotion.out_of_domain(["tec"]) == ("emoint", "ssec")
    assert len(caplog.records) == 3
    assert "electoraltweets is left out" in caplog.text
    (message,) = emotion.missing(["ssec"])
    assert "train.jsonl" in message and "test.jsonl" in message and "dev.jsonl" not in message


def test_corpora_that_are_not_there_are_told_from_those_that_are(tmp_path: Path) -> None:
    for corpus in ("my tweets", "emoint"):
        corpus_of(tmp_path, corpus)
    assert suite(tmp_path, out_of_domain=["my tweets"]).problems() == []
    (problem,) = suite(tmp_path, out_of_domain=["my tweet", "emoint"]).problems()
    assert problem.startswith("out_of_domain: no corpus my tweet (did you mean my tweets?); there are dailydialog, ")
    # On request they are left out, with a warning.
    assert suite(tmp_path, out_of_domain=["my tweet"], skip_missing_out_of_domain=True).problems() == []
    (message,) = suite(tmp_path).missing(["my tweet", "my tweets"])
    assert "unknown corpus 'my tweet'; did you mean my tweets?" in message
    with pytest.raises(DataError, match=r"unknown corpus 'my tweet'; did you mean my tweets\?"):
        suite(tmp_path).examples("my tweet", "train")


def test_missing_files_are_named(tmp_path: Path) -> None:
    corpus_of(tmp_path, "isear")
    write(tmp_path, "tec", "dev")
    (message,) = suite(tmp_path).missing(["isear", "tec"])
    for split in ("train", "test"):
        assert str(tmp_path / "emotion_splits" / "tec" / f"{split}.jsonl") in message
    assert "dev.jsonl" not in message
    assert "data/README.md" in message
    assert "regmean_lab.prepare suite=emotion" in message
    assert "skip_missing_out_of_domain" not in message
    assert all("suite.skip_missing_out_of_domain=true" in message for message in suite(tmp_path).missing(["ssec"]))
    with pytest.raises(MissingDataError, match=r"data/README\.md"):
        suite(tmp_path).examples("tec", "train")
    with pytest.raises(MissingDataError, match=r"data/README\.md"):
        suite(tmp_path).fingerprint("tec")


def test_examples_keep_the_order_of_the_file(tmp_path: Path) -> None:
    corpus_of(tmp_path, "tec")
    texts = [example.text for example in suite(tmp_path).examples("tec", "test")]
    assert texts == ["test 0", "test 1", "test 2", "test 3"]


def test_limits_choose_a_seeded_subset(tmp_path: Path) -> None:
    corpus_of(tmp_path, "tec", (40, 30, 20))
    everything = suite(tmp_path).examples("tec", "train")
    few = suite(tmp_path, train_examples=5).examples("tec", "train")
    more = suite(tmp_path, train_examples=15).examples("tec", "train")
    other = suite(tmp_path, train_examples=15, sample_seed=1).examples("tec", "train")
    assert (len(few), len(more)) == (5, 15)
    assert [example for example in more if example in few] == few
    assert [example for example in everything if example in more] == more
    assert more != other
    limited = suite(tmp_path, dev_examples=2, test_examples=100)
    assert [len(limited.examples("tec", split)) for split in SPLITS] == [40, 2, 20]


def test_out_of_domain_examples(tmp_path: Path) -> None:
    for corpus in ("tec", "ssec", "other"):
        corpus_of(tmp_path, corpus, (5, 3, 4))
    emotion = suite(tmp_path, test_examples=1)
    assert emotion.out_of_domain_examples("tec") == suite(tmp_path).examples("tec", "test")
    for corpus in ("ssec", "other"):
        everything = emotion.out_of_domain_examples(corpus)
        assert [example.text.split()[0] for example in everything] == ["train"] * 5 + ["dev"] * 3 + ["test"] * 4
    limited = suite(tmp_path, out_of_domain_examples=6).out_of_domain_examples("ssec")
    assert len(limited) == 6
    assert set(limited) < set(suite(tmp_path).out_of_domain_examples("ssec"))


def test_annotated_labels_are_those_of_the_training_split(tmp_path: Path) -> None:
    write(tmp_path, "tec", "train", [line(joy=0, anger=None), line(fear=1)])
    write(tmp_path, "tec", "dev", [line(guilt=1)])
    annotated = suite(tmp_path).annotated_labels("tec")
    assert {name for name, value in zip(LABELS, annotated, strict=True) if value} == {"joy", "fear"}


def test_files_are_read_once(tmp_path: Path) -> None:
    path = write(tmp_path, "tec", "train", [line("before")])
    emotion = suite(tmp_path)
    assert emotion.examples("tec", "train")[0].text == "before"
    path.write_text(line("after"))
    assert emotion.examples("tec", "train")[0].text == "before"
    assert suite(tmp_path).examples("tec", "train")[0].text == "after"


def test_fingerprint_changes_with_what_changes_a_member(tmp_path: Path) -> None:
    for corpus in ("tec", "isear"):
        corpus_of(tmp_path, corpus)
    base = suite(tmp_path).fingerprint("tec")
    assert len(base) == 64
    assert base == suite(tmp_path).fingerprint("tec")
    assert base == suite(tmp_path, test_examples=1, out_of_domain=[], out_of_domain_examples=1).fingerprint("tec")
    others = [
        suite(tmp_path, **{name: value}).fingerprint("tec")
        for name, value in (
            ("positive_threshold", 0.5),
            ("train_examples", 2),
            ("dev_examples", 2),
            ("sample_seed", 3),
        )
    ]
    others.append(suite(tmp_path).fingerprint("isear"))
    for split in SPLITS:
        write(tmp_path, "tec", split)
        others.append(suite(tmp_path).fingerprint("tec"))
    assert len({base, *others}) == 9


def test_settings_that_cannot_work_are_all_named(tmp_path: Path) -> None:
    assert suite(tmp_path).problems() == []
    problems = suite(
        tmp_path,
        positive_threshold=math.nan,
        threshold_on="odds",
        out_of_domain=["ssec", "ssec"],
        train_examples=0,
        out_of_domain_examples=-1,
    ).problems()
    assert [problem.split(":")[0] for problem in problems] == [
        "train_examples",
        "out_of_domain_examples",
        "out_of_domain",
        "threshold_on",
        "positive_threshold",
    ]


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
@pytest.mark.parametrize("corpus", COUNTS)
def test_real_corpora(corpus: str) -> None:
    assert DATA is not None
    emotion = suite(Path(DATA))
    assert emotion.missing([corpus]) == []
    assert tuple(len(emotion.examples(corpus, split)) for split in SPLITS) == COUNTS[corpus]
    expected = COUNTS[corpus][2] if corpus in IN_DOMAIN else sum(COUNTS[corpus])
    assert len(emotion.out_of_domain_examples(corpus)) == expected
    # An independent reading of the training file: positives of joy, and which labels have any number.
    rows = [json.loads(row) for row in (Path(DATA) / "emotion_splits" / corpus / "train.jsonl").open(encoding="utf-8")]
    positives = sum((row["emotions"]["joy"] or 0) > 0.1 for row in rows)
    train = emotion.examples(corpus, "train")
    assert sum(example.label[0] == 1 for example in train) == positives > 0  # type: ignore[index]
    annotated = {name for row in rows for name, value in {**row["emotions"], **row["VAD"]}.items() if value is not None}
    assert {name for name, known in zip(LABELS, emotion.annotated_labels(corpus), strict=True) if known} == annotated


def test_a_folder_too_deep_is_answered_with_its_parent(tmp_path: Path) -> None:
    folder = tmp_path / "emotion_splits"
    for corpus in ("tec", "emoint"):
        (folder / corpus).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            (folder / corpus / f"{split}.jsonl").write_text("{}\n")
    (tec, emoint, isear) = suite(folder).missing(["tec", "emoint", "isear"])
    for message in (tec, emoint):
        assert message.endswith(f"paths.data_dir is one folder too deep, write paths.data_dir={tmp_path}.")
    assert "too deep" not in isear
    assert suite(tmp_path).missing(["tec"]) == []


def test_leaving_out_comes_first_in_the_advice(tmp_path: Path) -> None:
    (message,) = suite(tmp_path).missing(["ssec"])
    assert "are not there. To leave out what is missing: suite.skip_missing_out_of_domain=true. To get it: " in message
