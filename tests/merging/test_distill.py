"""Settings of distillation, and the merge that it begins with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from merging_members import LAYOUT, merged, random_member

from regmean_lab.merging import MergeError
from regmean_lab.merging.distill import Distill, mixed
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.merging.starting_merge import permuted
from regmean_lab.merging.task_arithmetic import TaskArithmetic


def test_without_text_it_is_the_merge_that_it_begins_with() -> None:
    members = [random_member(seed) for seed in range(2)]
    method = Distill(start="regmean", start_settings={"off_diagonal": 0.25}, coefficients=[0.25, 0.75])
    expected = merged(RegMean(off_diagonal=0.25, coefficients=[0.25, 0.75]), members)
    assert all(torch.equal(value, expected[name]) for name, value in merged(method, members).items())
    assert method.statistics == ("gram", "tokens")
    assert method.gram_layers(["head.weight"], LAYOUT) == ["head"]


def test_it_needs_what_its_beginning_needs() -> None:
    assert Distill().statistics == ("tokens",)
    assert Distill(text="own").statistics == ()
    assert not Distill().needs_base
    assert Distill(start="task_arithmetic").needs_base
    assert Distill(start="slerp").count_problems(3) == ["members: slerp merges exactly two, got 3"]
    assert Distill(coefficients=[0.5, 0.5]).number_problems(3) == ["coefficients: 2 numbers for 3 members"]
    weighted = Distill(start="simple", start_settings={"weights": [1.0]})
    assert weighted.number_problems(2) == ["weights: 1 numbers for 2 members"]


def test_a_beginning_that_reads_text_reads_the_same() -> None:
    method = Distill(start="regmean_sequential", start_settings={"examples": 50}, text="own", text_seed=3)
    assert method.beginning == RegMeanSequential(text="own", text_seed=3, examples=50)
    assert method.examples == 1000


def test_parts_are_the_beginnings() -> None:
    members = [random_member(seed) for seed in range(2)]
    parts = {"head": {"off_diagonal": 0.5}}
    found = merged(Distill(start="regmean", parts=parts), members)
    expected = merged(RegMean(parts=parts), members)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert Distill(start="regmean", parts=parts).problems() == []
    assert Distill(parts={"head": {"steps": 3.0}}).problems()[0].startswith("parts.head.steps: no number")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": -5}, "steps: expected at least 1, got -5"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"held_out": 0}, "held_out: expected at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every: expected at least 1, got 0"),
        ({"examples": 0}, "examples: expected at least 1 or null, got 0"),
        ({"patience": 0}, "patience: expected at least 1 or null, got 0"),
        ({"temperature": 0}, "temperature: expected a positive number, got 0"),
        ({"temperature": -1.0}, "temperature: expected a positive number, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected a positive number, got nan"),
        ({"learning_rate": 0}, "learning_rate: expected a positive number, got 0"),
        ({"logits": -1}, "logits: expected at least 0, got -1"),
        ({"hidden": float("nan")}, "hidden: expected at least 0, got nan"),
        ({"logits": 0, "hidden": 0}, "logits: expected more than 0, as hidden is 0 too and nothing would be learned"),
        ({"anchor": float("inf")}, "anchor: expected at least 0, got inf"),
        ({"warmup": 1.0}, "warmup: expected a number from 0 to below 1, got 1.0"),
        ({"mix": 1.5}, "mix: expected a number from 0 to 1, got 1.5"),
        ({"hidden_layers": "first"}, "hidden_layers: expected one of last, all, got 'first'"),
        (
            {"start": "regmaen"},
            "start: there is no merge method 'regmaen' to begin with; did you mean regmean or "
            "regmean_sequential or regmean_plusplus?",
        ),
        ({"start_settings": {"off": 1}}, "start_settings.off: no setting of simple; there are: normalize, weights"),
        (
            {"start": "regmean", "start_settings": {"off_diagonl": 1}},
            "start_settings.off_diagonl: no setting of regmean; did you mean off_diagonal or diagonal",
        ),
        (
            {"start": "regmean", "start_settings": {"off_diagonal": "half"}},
            "start_settings.off_diagonal: expected a number, got 'half'",
        ),
        (
            {"start": "regmean", "start_settings": {"off_diagonal": 2.0}},
            "start_settings.off_diagonal: expected a number from 0 to 1, got 2.0",
        ),
        ({"start": "ties", "start_settings": {"scope": 3}}, "start_settings.scope: expected a word, got 3"),
        (
            {"start": "regmean_sequential", "start_settings": {"examples": 1.5}},
            "start_settings.examples: expected a whole number or null, got 1.5",
        ),
        (
            {"start": "regmean_sequential", "start_settings": {"text": "own"}},
            "start_settings.text: no setting of regmean_sequential; there are: damping, diagonal, examples, ",
        ),
        (
            {"text": "psuedo", "start": "regmean_sequential"},
            "text: expected own, pseudo, or a file (.txt, .csv, .tsv, .jsonl, .json, .parquet), got 'psuedo'; "
            "did you mean pseudo?",
        ),
        (
            {"start": "simple", "start_settings": {"weights": 1.0}},
            "start_settings.weights: expected a list or null, got 1.0",
        ),
        ({"examples": 50}, "examples: has no effect with text=pseudo, of which every step draws other sentences"),
        ({"coefficients": [0.5, 0.3]}, "coefficients: expected a sum of 1, got 0.8"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told(settings: dict[str, Any], expected: str) -> None:
    (problem,) = Distill(**settings).problems()
    assert problem.startswith(expected)


def test_it_does_not_begin_with_itself() -> None:
    (problem,) = Distill(start="distill").problems()
    assert problem.startswith("start: there is no merge method 'distill' to begin with; ")


def test_what_belongs_to_a_member_goes_with_it() -> None:
    method = Distill(
        start="task_arithmetic",
        start_settings={"weights": [1.0, 2.0, 3.0], "scaling": 0.3},
        coefficients=[0.5, 0.3, 0.2],
        parts={"head": {"coefficients": [0.1, [0.2, 0.4], 0.7], "scaling": 0.5}},
    )
    found = permuted(method, [2, 0, 1])
    assert found.start_settings == {"weights": [3.0, 1.0, 2.0], "scaling": 0.3}
    assert found.coefficients == [0.2, 0.5, 0.3]
    assert found.parts == {"head": {"coefficients": [0.7, 0.1, [0.2, 0.4]], "scaling": 0.5}}
    assert permuted(found, [1, 2, 0]) == method
    assert permuted(TaskArithmetic(weights=[1.0, 2.0]), [1, 0]) == TaskArithmetic(weights=[2.0, 1.0])


def test_mixing_in_the_start() -> None:
    trained = {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor([7])}
    start = {"w": torch.tensor([2.0, 1.0]).bfloat16(), "n": torch.tensor([7])}
    found = mixed(trained, start, 0.25)
    assert found["w"].dtype == torch.bfloat16
    assert found["w"].tolist() == [1.25, 2.5]
    assert found["n"].tolist() == [7]
    with pytest.raises(MergeError, match="only one of the start and what was trained from it has n"):
        mixed({"w": trained["w"]}, start, 0.5)
    with pytest.raises(MergeError, match=r"w: shape \(3,\) after training, \(2,\) before"):
        mixed({**trained, "w": torch.ones(3)}, start, 0.5)
