from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.suites.answers import AnswerExample
from regmean_lab.suites.base import SPLITS, DataError
from regmean_lab.suites.emotion import LABELS, EmotionSettings, EmotionSuite
from regmean_lab.suites.emotion_text import EmotionTextSettings, EmotionTextSuite
from regmean_lab.suites.evaluations import evaluations_for

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
Row = dict[str, float | None]


def write(data_dir: Path, corpus: str, split: str, rows: list[Row]) -> None:
    path = data_dir / "emotion_splits" / corpus / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"text": f"{split} {number}", "emotions": row, "VAD": None}) + "\n"
        for number, row in enumerate(rows)
    ]
    path.write_text("".join(lines))


def write_all(data_dir: Path, corpus: str, rows: list[Row]) -> None:
    for split in SPLITS:
        write(data_dir, corpus, split, rows)


def suite(data_dir: Path, **settings: Any) -> EmotionTextSuite:
    return EmotionTextSuite(data_dir, EmotionTextSettings(**settings))


def asked(examples: list[AnswerExample]) -> list[tuple[str, str, int]]:
    return [(example.text, LABELS[example.label[1]], example.label[0]) for example in examples]


def test_wording_of_both_forms(tmp_path: Path) -> None:
    write_all(tmp_path, "tec", [{"joy": 1}])
    (example,) = suite(tmp_path).examples("tec", "dev")
    text, causal = example.wordings
    assert text.form == "text_to_text"
    assert text.ask("I smile.", "joy") == "does the sentence express joy? <extra_id_0> I smile."
    assert text.answers == ("<extra_id_0> no", "<extra_id_0> yes")
    assert causal.form == "causal"
    assert causal.ask("I smile.", "joy") == "I smile. The sentence expresses joy."
    assert causal.answers == (" no", " yes")
    assert causal.ask("{text} and {subject}", "joy") == "{text} and {subject} The sentence expresses joy."


@pytest.mark.parametrize("form", ["text_to_text", "causal"])
def test_form_can_be_chosen(tmp_path: Path, form: str) -> None:
    write_all(tmp_path, "tec", [{"joy": 1}])
    (example,) = suite(tmp_path, form=form).examples("tec", "dev")
    assert [wording.form for wording in example.wordings] == [form]


def test_every_annotated_label_is_asked_about(tmp_path: Path) -> None:
    rows: list[Row] = [{"guilt": 0, "anger": 0.7, "joy": 0}, {"joy": None, "fear": 1}]
    write_all(tmp_path, "tec", rows)
    write_all(tmp_path, "emoint", rows)
    text = suite(tmp_path)
    for split in ("dev", "test"):
        examples = text.examples("tec", split)
        assert asked(examples) == [
            (f"{split} 0", "joy", 0),
            (f"{split} 0", "anger", 1),
            (f"{split} 0", "guilt", 0),
            (f"{split} 1", "fear", 1),
        ]
        assert [example.subject for example in examples] == ["joy", "anger", "guilt", "fear"]
    outside = asked(text.out_of_domain_examples("emoint"))
    assert [entry[0] for entry in outside] == [f"{split} {row}" for split in SPLITS for row in (0, 0, 0, 1)]
    assert asked(text.out_of_domain_examples("tec")) == asked(text.examples("tec", "test"))


def test_out_of_domain_the_first_member_s_labels_can_be_asked_alone(tmp_path: Path) -> None:
    write_all(tmp_path, "tec", [{"joy": 1, "anger": 0}])
    write_all(tmp_path, "isear", [{"fear": 1, "love": 0}])
    write_all(tmp_path, "emoint", [{"joy": 0, "fear": 1, "guilt": 0}, {"anger": 1}])
    everything = suite(tmp_path).evaluated_out_of_domain("emoint", ("tec", "isear"))
    assert everything == suite(tmp_path).out_of_domain_examples("emoint")
    chosen = suite(tmp_path, out_of_domain_labels="first_member")
    expected = {("tec", "isear"): {"joy", "anger"}, ("isear", "tec"): {"fear"}}
    for merged, subjects in expected.items():
        asked_about = chosen.evaluated_out_of_domain("emoint", merged)
        assert asked_about == [question for question in everything if question.subject in subjects]
        limited = suite(tmp_path, out_of_domain_labels="first_member", out_of_domain=["emoint"])
        assert evaluations_for(limited, merged)[-1].examples == asked_about
    write_all(tmp_path, "ssec", [{"guilt": 1}])
    with pytest.raises(DataError, match=r"ssec annotates none of the labels that isear, the first member,.*=all"):
        chosen.evaluated_out_of_domain("ssec", ("isear", "tec"))
    (problem,) = suite(tmp_path, out_of_domain_labels="each").problems()
    assert problem == "out_of_domain_labels: expected one of all, first_member, got 'each'"


def test_negatives_of_training_are_kept_by_the_root_of_the_share_of_positives(tmp_path: Path) -> None:
    shares = {"joy": 0.04, "anger": 0.25, "fear": 0.0, "love": 1.0}
    generator = random.Random(1)
    rows: list[Row] = [
        {**{name: float(generator.random() < share) for name, share in shares.items()}, "trust": None}
        for _ in range(4000)
    ]
    for row in rows[:1000]:  # the share is that among annotated sentences
        row["anger"] = None
    write_all(tmp_path, "tec", rows)
    counts = Counter((name, answer) for _, name, answer in asked(suite(tmp_path).examples("tec", "train")))
    assert {name for name, _ in counts} == {"joy", "anger", "love"}
    for name in shares:
        positives = sum(row[name] == 1 for row in rows)
        negatives = sum(row[name] == 0 for row in rows)
        assert counts[name, 1] == positives
        rate = math.sqrt(positives / (positives + negatives))
        deviation = math.sqrt(negatives * rate * (1 - rate))
        assert abs(counts[name, 0] - negatives * rate) <= 4 * deviation


def test_choice_of_negatives_depends_on_seed_and_corpus_and_not_on_other_labels(tmp_path: Path) -> None:
    rows: list[Row] = [{"joy": float(number % 4 == 0), "anger": 0.0} for number in range(200)]
    write_all(tmp_path, "tec", rows)
    write_all(tmp_path, "isear", rows)
    base = asked(suite(tmp_path).examples("tec", "train"))
    assert base == asked(suite(tmp_path).examples("tec", "train"))
    assert base != asked(suite(tmp_path, sample_seed=1).examples("tec", "train"))
    assert base != asked(suite(tmp_path).examples("isear", "train"))
    write_all(tmp_path, "tec", [{**row, "anger": 1.0, "fear": 0.0} for row in rows])
    changed = asked(suite(tmp_path).examples("tec", "train"))
    assert [entry for entry in changed if entry[1] == "joy"] == base


def test_limits_count_sentences(tmp_path: Path) -> None:
    write_all(tmp_path, "tec", [{"joy": 1, "anger": 1, "fear": 1}] * 9)
    text = suite(tmp_path, train_examples=4, dev_examples=3, test_examples=2)
    for split, sentences in (("train", 4), ("dev", 3), ("test", 2)):
        examples = text.examples("tec", split)
        assert (len(examples), len({example.text for example in examples})) == (3 * sentences, sentences)
    assert len(suite(tmp_path, out_of_domain_examples=5).out_of_domain_examples("tec")) == 15


def test_share_of_positives_is_that_of_the_sentences_within_the_limit(tmp_path: Path) -> None:
    """Of one sentence, a negative label has a share of 0: its question is dropped, whatever the whole split has."""
    write_all(tmp_path, "tec", [{"joy": float(number % 2)} for number in range(10)])
    answers = []
    for seed in range(12):
        limited = suite(tmp_path, train_examples=1, sample_seed=seed)
        (sentence,) = limited.sentences("tec", "train")
        answers.append(sentence.label[0])  # type: ignore[index]
        assert [example.label[0] for example in limited.examples("tec", "train")] == [1] * answers[-1]
    assert set(answers) == {0, 1}


def test_members_rules_and_known_labels_are_those_of_the_emotion_suite(tmp_path: Path) -> None:
    write_all(tmp_path, "tec", [{"joy": 0, "guilt": None}, {"fear": 1}])
    text, labels = suite(tmp_path, out_of_domain=["ssec", "tec"]), EmotionSuite(tmp_path, EmotionSettings())
    assert text.members == labels.members
    assert text.candidates == labels.candidates
    assert text.out_of_domain(["tec"]) == ("ssec",)
    assert text.annotated_labels("tec") == labels.annotated_labels("tec")
    assert [line.replace("emotion_text:", "emotion:", 1) for line in suite(tmp_path).missing(["isear"])] == (
        labels.missing(["isear"])
    )
    task = text.task("tec")
    assert (task.kind, task.labels, task.key_score, task.answer_by) == ("answers", LABELS, "macro_f1", "scoring")
    assert suite(tmp_path, answer_by="generation").task("tec").answer_by == "generation"


def test_fingerprint_changes_with_what_changes_a_member(tmp_path: Path) -> None:
    write_all(tmp_path, "tec", [{"joy": 1}] * 3)
    base = suite(tmp_path).fingerprint("tec")
    assert base == suite(tmp_path, test_examples=1, answer_by="generation").fingerprint("tec")
    others = [
        suite(tmp_path, **{name: value}).fingerprint("tec")
        for name, value in (("form", "causal"), ("form", "text_to_text"), ("sample_seed", 1), ("train_examples", 2))
    ]
    assert len({base, EmotionSuite(tmp_path, EmotionSettings()).fingerprint("tec"), *others}) == 6


def test_settings_that_cannot_work_are_all_named(tmp_path: Path) -> None:
    assert suite(tmp_path, form="causal", answer_by="generation").problems() == []
    problems = suite(tmp_path, train_examples=0, form="dialogue", answer_by="guessing").problems()
    assert problems[0].startswith("train_examples:")
    assert problems[1:] == [
        "form: expected one of text_to_text, causal, null, got 'dialogue'",
        "answer_by: expected one of scoring, generation, got 'guessing'",
    ]


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
@pytest.mark.parametrize("corpus", ["tec", "isear"])
def test_real_corpora(corpus: str) -> None:
    """Counted anew from the file: one test question for each number, and about √share of the training negatives."""
    assert DATA is not None
    text = suite(Path(DATA))
    folder = Path(DATA) / "emotion_splits" / corpus
    test = [json.loads(row)["emotions"] for row in (folder / "test.jsonl").open(encoding="utf-8")]
    assert len(text.examples(corpus, "test")) == sum(value is not None for row in test for value in row.values())
    train = [json.loads(row)["emotions"] for row in (folder / "train.jsonl").open(encoding="utf-8")]
    expected, variance = 0.0, 0.0
    for name in train[0]:
        values = [row[name] for row in train if row[name] is not None]
        if values:
            share = sum(value > 0.1 for value in values) / len(values)
            negatives = len(values) * (1 - share)
            expected += len(values) - negatives + negatives * math.sqrt(share)
            variance += negatives * math.sqrt(share) * (1 - math.sqrt(share))
    assert abs(len(text.examples(corpus, "train")) - expected) < 4 * math.sqrt(variance)
