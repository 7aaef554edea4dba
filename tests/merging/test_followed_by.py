"""Steps after a merge against plain loops in float64, alone and after methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from merging_members import BASE, LAYOUT, merged, normal, random_member
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeError, MergeMember, MergeMethod, merge_members, method_types
from regmean_lab.merging.followed_by import STEPS, Merged, step_problems, steps_of
from regmean_lab.merging.lines import LayerIncreasingScaling
from regmean_lab.merging.parameters import StackedLayers
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.svc import SingularValueCalibration
from regmean_lab.merging.task_arithmetic import TaskArithmetic

DENSE = "block.0.dense.weight"


def naive_svc(change: Tensor, changes: Sequence[Tensor], weights: Sequence[float], alpha: float) -> Tensor:
    """Algorithm 1: one direction after the other, one member after the other."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    result = torch.zeros_like(change)
    for r in range(len(values)):
        if values[r] < 1e-12 * values[0]:
            continue
        merged_response = left[:, r] @ change
        total = 0.0
        for own, weight in zip(changes, weights, strict=True):
            response = left[:, r] @ own
            square = float(response @ response)
            total += weight * max(alpha, float(merged_response @ response) / square if square > 0 else 0.0)
        result += values[r] * sum(weights) / total * torch.outer(left[:, r], right[r])
    return result


def part(value: Tensor, base: Tensor, members: Sequence[Tensor], **settings: Any) -> Merged:
    return Merged(
        **{
            "name": "x",
            "value": value,
            "given_base": base,
            "mean": lambda: torch.stack(list(members)).mean(0),
            "members": len(members),
            "member": lambda number: members[number],
            "weights": [1.0] * len(members),
            "transposed": False,
            "depth": 0.0,
            **settings,
        }
    )


class TestSvc:
    def test_by_hand(self) -> None:
        """The sum of two members of which the first direction is common, and the second each one's own.

        Δ = diag(2, 1, 1): in the first direction both have s = 2, so that 2 becomes 2 · 2/(2 + 2) = 1. In the second
        the first member has s = 1 and the other does nothing, so that max(1, 0) = 1: it stays.
        """
        first, second = torch.diag(torch.tensor([1.0, 1.0, 0.0])), torch.diag(torch.tensor([1.0, 0.0, 1.0]))
        base = torch.zeros(3, 3)
        found = SingularValueCalibration().apply(part(first + second, base, [first, second]))
        torch.testing.assert_close(found, torch.eye(3))

    @pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
    @pytest.mark.parametrize("alpha", [1.0, 0.3])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_against_loops(self, shape: tuple[int, int], alpha: float, transposed: bool) -> None:
        base, changes, weights = normal(0, *shape), [normal(1, *shape), normal(2, *shape)], [1.5, 0.5]
        total = 1.2 * changes[0] + 0.9 * changes[1]
        expected = base + naive_svc(total, changes, weights, alpha)
        turned = (lambda tensor: tensor.T) if transposed else (lambda tensor: tensor)
        given = part(
            turned(base + total),
            turned(base),
            [turned(base + change) for change in changes],
            transposed=transposed,
            weights=weights,
        )
        torch.testing.assert_close(turned(SingularValueCalibration(alpha).apply(given)), expected)

    def test_a_mean_of_equal_members_stays(self) -> None:
        base, change = normal(0, 4, 3), normal(1, 4, 3)
        found = SingularValueCalibration().apply(part(base + change, base, [base + change] * 3))
        torch.testing.assert_close(found, base + change)

    def test_no_change_stays_none(self) -> None:
        base = normal(0, 4, 3)
        assert torch.equal(SingularValueCalibration().apply(part(base, base, [base, base])), base)

    def test_what_is_no_linear_layer_stays(self) -> None:
        base, value = normal(0, 4), normal(1, 4)
        assert SingularValueCalibration().apply(part(value, base, [value], transposed=None)) is value


@pytest.mark.parametrize(("depth", "factor"), [(0.0, 0.2), (0.5, 0.6), (1.0, 1.0)])
def test_lines_scales_the_change_by_depth(depth: float, factor: float) -> None:
    base, value = normal(0, 4), normal(1, 4)
    found = LayerIncreasingScaling(0.2, 0.8).apply(part(value, base, [value], depth=depth))
    torch.testing.assert_close(found, (1 - factor) * base + factor * value)


DEEP = Layout({f"blocks.{n}.dense.weight": LinearLayer(f"blocks.{n}.dense") for n in range(3)})


def deep_members() -> tuple[list[MergeMember], dict[str, Tensor]]:
    """Three blocks, an embedding, and a head that the base lacks."""
    shapes = {
        "embedding.weight": (6, 4),
        **{f"blocks.{n}.dense.weight": (4, 4) for n in range(3)},
        "head.weight": (2, 4),
    }
    base = {name: normal(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    members = [
        MergeMember(str(seed), {n: base[n] + 0.1 * normal(10 * seed + i, *shapes[n]) for i, n in enumerate(shapes)})
        for seed in (1, 2)
    ]
    del base["head.weight"]
    return members, base


def test_depth_grows_from_the_first_block_to_the_last() -> None:
    members, base = deep_members()
    plain = merged(Simple(), members, DEEP, base)
    found = merged(Simple(followed_by=[{"lines": {"alpha": 0.2, "beta": 0.8}}]), members, DEEP, base)
    factors = {"embedding.weight": 0.2, **{f"blocks.{n}.dense.weight": 0.2 + 0.4 * n for n in range(3)}}
    for name, factor in factors.items():
        torch.testing.assert_close(found[name], base[name] + factor * (plain[name] - base[name]))
    assert torch.equal(found["head.weight"], plain["head.weight"])


@pytest.mark.parametrize("method", [Simple(), RegMean(), TaskArithmetic(scaling=1.0)], ids=lambda method: method.name)
@pytest.mark.parametrize("coefficients", [None, [0.7, 0.3]])
def test_after_a_method_it_is_the_step_by_hand(method: MergeMethod, coefficients: list[float] | None) -> None:
    members = [random_member(1), random_member(2)]
    method = replace(method, coefficients=coefficients)
    plain = merged(method, members)
    found = merged(replace(method, followed_by=["svc", {"lines": {"alpha": 0.25}}]), members)
    weights = [2 * share for share in coefficients or [0.5, 0.5]]
    for name, value in plain.items():
        if name.startswith("head"):
            assert torch.equal(found[name], value)  # no base
            continue
        change = value - BASE[name]
        if name == DENSE:
            change = naive_svc(change, [member.weights[name] - BASE[name] for member in members], weights, 1.0)
        factor = 0.25 + 0.5 if name.startswith("block.0.") else 0.25  # the only block is the last one
        torch.testing.assert_close(found[name], BASE[name] + factor * change)


def test_the_order_of_steps_counts() -> None:
    members = [random_member(1), random_member(2)]
    halved = {"lines": {"alpha": 0.5, "beta": 0.0}}
    sum_of_all = TaskArithmetic(scaling=1.0)
    first = merged(replace(sum_of_all, followed_by=[halved, "svc"]), members)[DENSE]
    second = merged(replace(sum_of_all, followed_by=["svc", halved]), members)[DENSE]
    assert not torch.allclose(first, second)


def test_a_method_that_needs_no_base_does_not_see_one() -> None:
    """Nothing but the steps changes: `multislerp` and others would use a base that is there."""
    members = [random_member(1), random_member(2)]
    nothing = [{"lines": {"alpha": 1.0, "beta": 0.0}}]
    for name in ("simple", "slerp", "karcher", "multislerp", "nuslerp", "regmean", "mats", "fisher"):
        method = method_types()[name]()
        plain, found = merged(method, members), merged(replace(method, followed_by=nothing), members)
        for key, value in plain.items():
            torch.testing.assert_close(found[key], value)


def test_experts_are_calibrated_one_by_one() -> None:
    base = {"experts": normal(0, 2, 3, 4)}
    members = [MergeMember(str(seed), {"experts": base["experts"] + normal(seed, 2, 3, 4)}) for seed in (1, 2)]
    layout = Layout({}, stacked={"experts": StackedLayers("experts", 2, True)})
    method = TaskArithmetic(scaling=1.0)
    plain = merged(method, members, layout, base)["experts"]
    found = merged(replace(method, followed_by="svc"), members, layout, base)["experts"]
    for expert in range(2):
        changes = [(member.weights["experts"] - base["experts"])[expert].T for member in members]
        expected = naive_svc((plain - base["experts"])[expert].T, changes, [1, 1], 1.0).T
        torch.testing.assert_close(found[expert], base["experts"][expert] + expected)


def test_weights_of_low_precision_stay_so() -> None:
    members = [random_member(seed, dtype=torch.bfloat16) for seed in (1, 2)]
    members = [replace(member, gram=None, fisher=None, gradient_gram=None) for member in members]
    found = merged(Simple(followed_by=["lines"]), members)
    assert {value.dtype for value in found.values()} == {torch.bfloat16}


def test_without_a_base_they_are_refused() -> None:
    with pytest.raises(MergeError, match="followed_by needs the weights of the model that the members were trained"):
        list(merge_members(Simple(followed_by=["svc"]), [random_member(1), random_member(2)], LAYOUT))


@pytest.mark.parametrize("method", [RegMean(), TaskArithmetic(scaling=1.0)], ids=lambda method: method.name)
@pytest.mark.parametrize("coefficients", [None, [0.7, 0.3]])
def test_towards_the_mean_every_parameter_is_drawn(method: MergeMethod, coefficients: list[float] | None) -> None:
    """Heads too, of which the base has none; a row of a label over the members that annotate it."""
    annotated = ((True,) * 6, (True, False, True, True, True, True))
    members = [random_member(number + 1, annotated=own) for number, own in enumerate(annotated)]
    method = replace(method, coefficients=coefficients)
    plain = merged(method, members)
    found = merged(replace(method, followed_by=[{"towards_mean": {"share": 0.3}}]), members)
    first, second = coefficients or [0.5, 0.5]
    for name, value in plain.items():
        mean = first * members[0].weights[name] + second * members[1].weights[name]
        if name.startswith("head"):
            mean[1] = members[0].weights[name][1]  # the label that the second member lacks
        torch.testing.assert_close(found[name], 0.7 * value + 0.3 * mean)


def test_towards_the_mean_needs_no_base() -> None:
    members = [random_member(1), random_member(2)]
    method = RegMean(followed_by=[{"towards_mean": {"share": 1}}])
    assert not method.reads_base
    found = {part.name: part.value for part in merge_members(method, members, LAYOUT)}
    for name, value in found.items():
        torch.testing.assert_close(value, (members[0].weights[name] + members[1].weights[name]) / 2)


def test_towards_the_mean_after_and_before_another_step() -> None:
    members, base = deep_members()
    scaled, drawn = {"lines": {"alpha": 0.5, "beta": 0.0}}, "towards_mean"
    plain = merged(TaskArithmetic(scaling=1.0), members, DEEP, base)
    first = merged(TaskArithmetic(scaling=1.0, followed_by=[scaled, drawn]), members, DEEP, base)
    second = merged(TaskArithmetic(scaling=1.0, followed_by=[drawn, scaled]), members, DEEP, base)
    for name, value in plain.items():
        mean = (members[0].weights[name] + members[1].weights[name]) / 2
        if name == "head.weight":
            torch.testing.assert_close(first[name], (value + mean) / 2)
            continue
        torch.testing.assert_close(first[name], ((value + base[name]) / 2 + mean) / 2)
        torch.testing.assert_close(second[name], ((value + mean) / 2 + base[name]) / 2)


def test_experts_are_drawn_towards_their_means() -> None:
    base = {"experts": normal(0, 2, 3, 4)}
    members = [MergeMember(str(seed), {"experts": normal(seed, 2, 3, 4)}) for seed in (1, 2)]
    layout = Layout({}, stacked={"experts": StackedLayers("experts", 2, True)})
    plain = merged(TaskArithmetic(scaling=1.0), members, layout, base)["experts"]
    found = merged(TaskArithmetic(scaling=1.0, followed_by="towards_mean"), members, layout, base)["experts"]
    mean = (members[0].weights["experts"] + members[1].weights["experts"]) / 2
    torch.testing.assert_close(found, (plain + mean) / 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("svc", [SingularValueCalibration()]),
        ([], []),
        (None, []),
        (["svc", {"lines": {"beta": 1}}], [SingularValueCalibration(), LayerIncreasingScaling(beta=1)]),
        ({"lines": None}, [LayerIncreasingScaling()]),
    ],
)
def test_forms_of_the_setting(given: Any, expected: list[Any]) -> None:
    assert step_problems(given) == [] and steps_of(given) == expected


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["scv"], "followed_by: 'scv' is no step after a merge; did you mean svc?"),
        (["line"], "followed_by: 'line' is no step after a merge; did you mean lines?"),
        ([3], "followed_by: 3 is no step after a merge; there are: "),
        ([{"lines": {"alfa": 1}}], "followed_by.lines.alfa: no such setting; did you mean alpha?"),
        ([{"lines": 2}], "followed_by.lines: expected settings by name, got 2"),
        ([{"lines": {"beta": "much"}}], "followed_by.lines.beta: expected a number, got 'much'"),
        ([{"towards_mean": {"share": 2}}], "followed_by.towards_mean.share: expected a number from 0 to 1, got 2"),
        ([{"svc": {"alpha": 0}}], "followed_by.svc.alpha: expected a positive number, got 0"),
    ],
)
def test_what_makes_no_sense_is_told(given: Any, problem: str) -> None:
    (found,) = Simple(followed_by=given).problems()
    assert found.startswith(problem)


def test_every_step_is_described() -> None:
    assert set(STEPS) == {"svc", "lines", "towards_mean", "residual"}
    assert all(isinstance(kind.__doc__, str) and "arXiv" in kind.__doc__ for kind in STEPS.values())


def test_rows_that_the_base_lacks_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is new since the pretrained model has no change that could be scaled."""

    class Lacking(dict[str, Tensor]):
        """A base whose embedding lacks its last row."""

    members, base = deep_members()
    lacking = Lacking(base)
    present = torch.tensor([True] * 5 + [False])

    def present_rows(weights: Mapping[str, Tensor], name: str) -> Tensor | None:
        return present if isinstance(weights, Lacking) and name == "embedding.weight" else None

    monkeypatch.setattr("regmean_lab.merging.finishing.present_rows", present_rows)
    plain = merged(Simple(), members, DEEP, base)["embedding.weight"]
    found = merged(Simple(followed_by=["lines"]), members, DEEP, lacking)["embedding.weight"]
    assert torch.equal(found[5], plain[5])
    torch.testing.assert_close(found[:5], (base["embedding.weight"] + plain)[:5] / 2)
