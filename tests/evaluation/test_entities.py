from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from torch import Tensor

from regmean_lab.metrics.ensemble import average_logits, majority_vote
from regmean_lab.metrics.entities import EntityScores, published_spans
from regmean_lab.metrics.metrics import build_metrics, percentages, predictions, score, score_predictions
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.conll import LABELS
from regmean_lab.suites.entity_suite import EntitySettings
from regmean_lab.suites.ner import NerSettings, NerSuite
from regmean_lab.suites.ner_open import OpenNerSuite

TASK = Task("token_labels", LABELS, "entity_f1")


def ids(*sentences: str) -> Tensor:
    """Label ids of sentences given as tags; ``-`` is a token without a label."""
    rows = [[IGNORED if tag == "-" else LABELS.index(tag) for tag in sentence.split()] for sentence in sentences]
    return torch.tensor(rows)


def scores(true: Tensor, found: Tensor) -> dict[str, float]:
    return score_predictions(TASK, found, true)


def logits_of(labels: Tensor) -> Tensor:
    """Logits whose largest value is that of the label; any at ``IGNORED``."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(*labels.shape, len(LABELS), generator=generator)
    return noise + 5 * torch.nn.functional.one_hot(labels.clamp(min=0), len(LABELS))


def test_the_key_score_is_measured() -> None:
    measured = scores(ids("B-PER"), ids("B-PER"))
    assert measured == {
        "entity_f1": 100,
        "entity_precision": 100,
        "entity_recall": 100,
        "entity_f1_strict": 100,
        "entity_f1_published": 100,
        "token_accuracy": 100,
    }
    assert TASK.key_score in measured


def test_an_entity_is_right_when_all_of_its_words_are() -> None:
    true = ids("B-PER I-PER O B-LOC", "O B-ORG O O")
    found = ids("B-PER O O B-LOC", "O B-ORG I-ORG B-PER")
    # Found of three entities: LOC. Predicted were four: PER of one word, LOC, ORG of two words, PER.
    measured = scores(true, found)
    assert measured["entity_recall"] == pytest.approx(100 / 3)
    assert measured["entity_precision"] == pytest.approx(25)
    assert measured["entity_f1"] == pytest.approx(200 / 7)
    assert measured["entity_f1_strict"] == pytest.approx(200 / 7)
    assert measured["token_accuracy"] == pytest.approx(100 * 5 / 8)


def test_the_type_must_be_right() -> None:
    measured = scores(ids("B-PER I-PER O"), ids("B-LOC I-LOC O"))
    assert measured["entity_f1"] == measured["entity_f1_strict"] == 0
    assert measured["token_accuracy"] == pytest.approx(100 / 3)


def test_inside_without_begin_counts_unless_strict() -> None:
    measured = scores(ids("B-PER I-PER O"), ids("I-PER I-PER O"))
    assert measured["entity_f1"] == 100
    assert measured["entity_f1_strict"] == 0


def test_entities_do_not_run_on_into_the_next_sentence() -> None:
    true = ids("O B-PER", "I-PER O")
    assert scores(true, true)["entity_f1"] == 100
    # As one sentence this would be one entity, and the prediction below wrong.
    assert scores(true, ids("O B-PER", "B-PER O"))["entity_f1"] == 100


def test_tokens_without_a_label_are_left_out() -> None:
    true = ids("- B-PER - I-PER - O -", "- O - - - - -")
    found = ids("B-LOC B-PER O I-PER B-LOC O O", "B-PER O B-PER B-PER O O O")
    assert scores(true, found) == dict.fromkeys(scores(true, found), 100)


def test_micro_average_over_types() -> None:
    true = ids("B-PER O B-PER O B-PER O B-LOC")
    found = ids("B-PER O B-PER O B-PER O O")
    measured = scores(true, found)
    assert measured["entity_recall"] == pytest.approx(75)
    assert measured["entity_f1"] == pytest.approx(100 * 2 * 3 / 7)


@pytest.mark.parametrize(
    ("true", "found", "accuracy"),
    [("O O B-PER", "O O O", 200 / 3), ("O O O", "O O B-PER", 200 / 3), ("O O", "O O", 100), ("- -", "O O", 0)],
    ids=["nothing found", "nothing there", "neither", "no word"],
)
@pytest.mark.filterwarnings("error")
def test_scores_without_anything_to_count_are_zero(true: str, found: str, accuracy: float) -> None:
    measured = scores(ids(true), ids(found))
    assert measured.pop("token_accuracy") == pytest.approx(accuracy)
    assert set(measured.values()) == {0}


SENTENCES = st.lists(
    st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 6)), min_size=1, max_size=9), min_size=1, max_size=6
)


def naive_published(tags: list[str]) -> set[tuple[int, int, str]]:
    """The published reading by a regular expression over the tags' first letters."""
    matches = re.finditer("BI*|I", "".join(tag[0] for tag in tags))
    return {(match.start(), match.end() - 1, tags[match.end() - 1][2:]) for match in matches}


def naive_published_f1(true: list[list[str]], found: list[list[str]]) -> float:
    spans, predicted = (
        {(number, *span) for number, tags in enumerate(sentences) for span in naive_published(tags)}
        for sentences in (true, found)
    )
    return 2 * len(spans & predicted) / max(len(spans) + len(predicted), 1)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O I-PER I-PER O", {(1, 1, "PER"), (2, 2, "PER")}),
        ("I-PER I-LOC", {(0, 0, "PER"), (1, 1, "LOC")}),
        ("B-PER I-LOC", {(0, 1, "LOC")}),
        ("B-PER I-LOC I-PER O I-ORG", {(0, 2, "PER"), (4, 4, "ORG")}),
        ("B-PER B-PER I-PER", {(0, 0, "PER"), (1, 2, "PER")}),
        ("I-PER B-PER I-PER", {(0, 0, "PER"), (1, 2, "PER")}),
        ("B-PER O I-PER", {(0, 0, "PER"), (2, 2, "PER")}),
        ("O O", set()),
    ],
)
def test_entities_as_published(tags: str, expected: set[tuple[int, int, str]]) -> None:
    assert published_spans(tags.split()) == expected


def test_the_published_score_of_a_stray_inside_tag() -> None:
    true = ids("B-PER I-PER O", "O B-LOC O")
    found = ids("I-PER I-PER O", "O B-LOC O")
    # Predicted as published: PER, PER and LOC, of which LOC is one of the two that are right. seqeval finds both.
    measured = scores(true, found)
    assert measured["entity_f1"] == 100
    assert measured["entity_f1_published"] == pytest.approx(100 * 2 * 1 / (2 + 3))


VALID = st.lists(st.tuples(st.sampled_from(("O", "PER", "LOC", "ORG")), st.integers(1, 3)), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.lists(st.tuples(VALID, VALID), min_size=1, max_size=5))
@pytest.mark.filterwarnings("ignore")
def test_on_valid_tags_the_published_score_is_seqevals(sentences: list[tuple[Any, Any]]) -> None:
    def tags(spans: list[tuple[str, int]]) -> list[str]:
        made = (["O"] * n if name == "O" else [f"B-{name}", *[f"I-{name}"] * (n - 1)] for name, n in spans)
        return [tag for part in made for tag in part]

    pairs = [(tags(true), tags(found)) for true, found in sentences]
    true, found = ([(one + ["O"] * 18)[:18] for one in side] for side in zip(*pairs, strict=True))
    true_ids, found_ids = (torch.tensor([[LABELS.index(tag) for tag in row] for row in side]) for side in (true, found))
    measured = scores(true_ids, found_ids)
    assert measured["entity_f1_published"] == pytest.approx(100 * f1_score(true, found))
    assert measured["entity_f1_published"] == pytest.approx(measured["entity_f1"])


def test_the_key_score_is_a_setting(tmp_path: Path) -> None:
    for suite in (NerSuite(tmp_path, NerSettings()), OpenNerSuite(tmp_path, EntitySettings())):
        assert suite.task("x").key_score == "entity_f1"
    published = NerSuite(tmp_path, NerSettings(key_score="entity_f1_published"))
    assert published.task("bn").key_score in scores(ids("B-PER"), ids("B-PER"))
    assert published.problems() == []
    (problem,) = NerSuite(tmp_path, NerSettings(key_score="f1")).problems()
    assert problem == "key_score: expected one of entity_f1, entity_f1_published, got 'f1'"


@settings(deadline=None)
@given(SENTENCES, st.integers(1, 3))
@pytest.mark.filterwarnings("ignore")
def test_same_as_seqeval(sentences: list[list[tuple[int, int]]], batch_size: int) -> None:
    """Batches of different lengths, some tokens ignored (-1), against seqeval on lists of tags."""
    true = [[LABELS[t] for t, _ in sentence if t >= 0] for sentence in sentences]
    found = [[LABELS[p] for t, p in sentence if t >= 0] for sentence in sentences]
    metrics = build_metrics(TASK)
    for start in range(0, len(sentences), batch_size):
        batch = sentences[start : start + batch_size]
        length = max(len(sentence) for sentence in batch)
        targets = torch.full((len(batch), length), IGNORED)
        predicted = torch.randint(7, (len(batch), length))
        for row, sentence in enumerate(batch):
            for column, (target, prediction) in enumerate(sentence):
                targets[row, column] = IGNORED if target < 0 else target
                predicted[row, column] = prediction
        metrics.update(predicted, targets)
    measured = percentages(TASK, metrics)
    expected = {
        "entity_f1": f1_score(true, found),
        "entity_precision": precision_score(true, found),
        "entity_recall": recall_score(true, found),
        "entity_f1_strict": f1_score(true, found, mode="strict", scheme=IOB2),
        "entity_f1_published": naive_published_f1(true, found),
        "token_accuracy": accuracy_score(true, found) if any(true) else 0.0,
    }
    assert measured == pytest.approx({name: 100 * value for name, value in expected.items()})


def test_metrics_are_reset() -> None:
    metrics = build_metrics(TASK)
    metrics.update(ids("O O"), ids("B-PER O"))
    assert percentages(TASK, metrics)["entity_f1"] == 0
    metrics.reset()
    metrics.update(ids("B-PER"), ids("B-PER"))
    assert percentages(TASK, metrics)["entity_f1"] == 100


def test_states_that_were_gathered_from_processes() -> None:
    """Lightning turns list states into one tensor each before it computes."""
    metric = EntityScores(LABELS)
    metric.update(ids("B-PER I-PER"), ids("B-PER I-PER"))
    metric.update(ids("O B-LOC O"), ids("B-LOC - O"))
    apart = metric.compute()
    gathered = EntityScores(LABELS)
    for name in ("predicted", "targets", "lengths"):
        setattr(gathered, name, torch.cat(getattr(metric, name)))
    gathered._update_count = 1
    together = gathered.compute()
    assert {name: float(value) for name, value in together.items()} == {
        name: float(value) for name, value in apart.items()
    }
    assert 0 < float(apart["entity_f1"]) < 1


def test_predictions_are_the_largest_logits() -> None:
    labels = ids("B-PER I-PER - O", "O O B-LOC -")
    logits = logits_of(labels)
    kept = labels != IGNORED
    assert torch.equal(predictions(TASK, logits)[kept], labels[kept])
    assert score(TASK, logits, labels)["entity_f1"] == 100


def test_ensembles_of_token_labels() -> None:
    votes = [ids("B-PER O B-LOC"), ids("B-PER B-LOC O"), ids("O B-LOC O")]
    assert torch.equal(majority_vote(TASK, votes), ids("B-PER B-LOC O"))
    sure, unsure = logits_of(ids("B-PER O")) * 10, logits_of(ids("O B-LOC"))
    assert torch.equal(predictions(TASK, average_logits([sure, unsure])), ids("B-PER O"))


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_means_over_entity_types_are_seqevals(average: str) -> None:
    true = ids("B-PER I-PER O B-LOC O", "B-ORG O B-PER O O", "B-LOC I-LOC B-LOC O -")
    found = ids("B-PER I-PER O B-ORG O", "B-ORG O O O O", "B-LOC O B-LOC O B-PER")
    tags = [
        [[LABELS[label] for label, real in zip(row, mask, strict=True) if real != IGNORED] for row, mask in pairs]
        for pairs in (
            list(zip(true.tolist(), true.tolist(), strict=True)),
            list(zip(found.tolist(), true.tolist(), strict=True)),
        )
    ]
    for name, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        key = f"entity_{name}_{average}"
        measured = score_predictions(Task("token_labels", LABELS, key), found, true)
        assert measured[key] == pytest.approx(100 * function(*tags, average=average, zero_division=0))
    assert key not in scores(true, found)
