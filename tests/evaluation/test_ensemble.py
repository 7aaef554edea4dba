from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regmean_lab.metrics.ensemble import average_logits, ensemble_predictions, majority_vote
from regmean_lab.metrics.metrics import predictions
from regmean_lab.suites.base import Task

LABELS = ("a", "b", "c")
MULTI = Task("multi_label", LABELS, "macro_f1")
SINGLE = Task("single_label", LABELS, "macro_f1")
REGRESSION = Task("regression", ("score",), "pearson")
UNUSED = torch.empty(0)


@st.composite
def members(draw: st.DrawFn) -> tuple[list[Tensor], list[tuple[bool, ...]]]:
    """Logits [examples, 3] of 1 to 5 members, and which labels each of them knows."""
    count, examples = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = [torch.randn(examples, 3, generator=generator) for _ in range(count)]
    known = draw(st.lists(st.tuples(*[st.booleans()] * 3), min_size=count, max_size=count))
    return logits, known


def knowing(known: list[tuple[bool, ...]], label: int) -> list[int]:
    return [number for number, row in enumerate(known) if row[label]]


@settings(max_examples=60, deadline=None)
@given(members())
def test_logits_are_averaged_over_the_members_that_know_the_label(
    data: tuple[list[Tensor], list[tuple[bool, ...]]],
) -> None:
    logits, known = data
    for annotated in (None, known):
        result = average_logits(logits, annotated)
        for example in range(len(logits[0])):
            for label in range(3):
                chosen = list(range(len(logits))) if annotated is None else knowing(known, label)
                expected = sum(float(logits[i][example, label]) for i in chosen) / max(len(chosen), 1)
                assert float(result[example, label]) == pytest.approx(expected, abs=1e-6)
        assert torch.equal(ensemble_predictions(MULTI, "soft", logits, UNUSED, annotated), (result > 0).long())


@settings(max_examples=60, deadline=None)
@given(members())
def test_a_label_needs_more_than_half_of_the_votes_of_those_who_know_it(
    data: tuple[list[Tensor], list[tuple[bool, ...]]],
) -> None:
    logits, known = data
    result = ensemble_predictions(MULTI, "majority", logits, UNUSED, known)
    for example in range(len(logits[0])):
        for label in range(3):
            votes = [float(logits[i][example, label]) > 0 for i in knowing(known, label)]
            assert int(result[example, label]) == int(sum(votes) > len(votes) / 2)


@settings(max_examples=60, deadline=None)
@given(members())
def test_the_label_with_most_votes_wins_and_of_equals_the_first(
    data: tuple[list[Tensor], list[tuple[bool, ...]]],
) -> None:
    logits, _ = data
    result = ensemble_predictions(SINGLE, "majority", logits, UNUSED)
    for example in range(len(logits[0])):
        votes = Counter(
            max(range(3), key=lambda label, i=i: float(logits[i][example, label])) for i in range(len(logits))
        )
        most = max(votes.values())
        assert int(result[example]) == min(label for label, count in votes.items() if count == most)


def most_common_and_of_equals_the_first(votes: list[int]) -> int:
    """Counted in a plain loop: the vote with the largest count; of equal counts that of the earliest member."""
    best = votes[0]
    for vote in votes:
        if votes.count(vote) > votes.count(best):
            best = vote
    return best


@settings(max_examples=60, deadline=None)
@given(members())
def test_ties_can_go_to_the_first_member(data: tuple[list[Tensor], list[tuple[bool, ...]]]) -> None:
    logits, known = data
    numbers = range(len(logits))
    result = ensemble_predictions(SINGLE, "majority", logits, UNUSED, ties="first_member")
    for example in range(len(logits[0])):
        votes = [max(range(3), key=lambda label, i=i: float(logits[i][example, label])) for i in numbers]
        assert int(result[example]) == most_common_and_of_equals_the_first(votes)
    for annotated in (None, known):
        result = ensemble_predictions(MULTI, "majority", logits, UNUSED, annotated, "first_member")
        for example in range(len(logits[0])):
            for label in range(3):
                voices = numbers if annotated is None else knowing(known, label)
                votes = [int(logits[i][example, label] > 0) for i in voices]
                assert int(result[example, label]) == (most_common_and_of_equals_the_first(votes) if votes else 0)


@pytest.mark.parametrize(("ties", "expected"), [("lowest", [1, 0, 0]), ("first_member", [2, 1, 0])])
def test_ties_by_hand(ties: str, expected: list[int]) -> None:
    # The first member alone is for 0; 1 and 2 have two votes each, and 2 is named first.
    votes = [torch.tensor([label]) for label in (0, 2, 1, 1, 2)]
    assert majority_vote(SINGLE, votes, ties=ties).tolist() == [expected[0]]
    # The first member does not know label b, and the second one's vote decides.
    yes_no = [torch.tensor([[1, 0, 0]]), torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 0]])]
    known = [(True, False, True), (False, True, True), (False, True, True)]
    assert majority_vote(MULTI, yes_no, known, ties).tolist() == [[1, expected[1], 0]]
    answers = Task("answers", LABELS, "macro_f1")
    asked = torch.tensor([[0, 1], [1, 1]])
    logits = [torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])]
    expected_answers = [0, 0] if ties == "lowest" else [1, 0]
    assert ensemble_predictions(answers, "majority", logits, asked, None, ties).tolist() == expected_answers


def test_single_labels_and_values_are_averaged_before_the_decision() -> None:
    logits = [torch.tensor([[3.0, 2.0, 0.0]]), torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.5, 1.0]])]
    assert ensemble_predictions(SINGLE, "soft", logits, UNUSED).tolist() == [1]
    assert ensemble_predictions(SINGLE, "majority", logits[:2], UNUSED).tolist() == [0]
    values = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]])]
    for vote in ("soft", "majority"):
        assert ensemble_predictions(REGRESSION, vote, values, UNUSED).tolist() == [2.0, 2.25]


def test_one_member_alone_is_its_own_ensemble() -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    for task in (MULTI, SINGLE):
        alone = predictions(task, logits)
        assert torch.equal(majority_vote(task, [alone]), alone)
        assert torch.equal(ensemble_predictions(task, "soft", [logits], UNUSED), alone)
