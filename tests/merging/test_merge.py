from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from merging_members import BASE, LAYOUT, SHAPES, Grams, Recorded, merged, random_member
from torch import Tensor

from regmean_lab.merging import (
    Layout,
    MergeError,
    MergeMember,
    MergeMethod,
    Parameter,
    differences,
    merge_members,
    method_types,
)
from regmean_lab.merging.breadcrumbs import Breadcrumbs
from regmean_lab.merging.dare import Dare
from regmean_lab.merging.della import Della
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.iso_c import IsotropicCommon
from regmean_lab.merging.iso_cts import IsotropicCommonAndSpecific
from regmean_lab.merging.karcher import Karcher
from regmean_lab.merging.mats import Mats
from regmean_lab.merging.model_stock import ModelStock
from regmean_lab.merging.parameters import FeedForward
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.slerp import Slerp
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties
from regmean_lab.merging.tsv import TaskSingularVectors
from regmean_lab.merging.wudi import Wudi

MEANS: list[MergeMethod] = [
    Simple(),
    Fisher(),
    Fisher(normalization="parameter"),
    Fisher(normalization="model"),
    RegMean(),
    RegMean(off_diagonal=1),
    RegMean(diagonal=True),
    RegMean(regularization="shrinkage"),
    RegMean(regularization="ridge"),
    Karcher(),
    Mats(iterations=500, tolerance=1e-13),
]
"""Methods that give a member whose coefficient is 1."""

METHODS: list[MergeMethod] = [
    *MEANS,
    RegMean(regularization="ridge", ridge_towards="base"),
    TaskArithmetic(),
    Ties(),
    Ties(scope="parameter"),
    Dare(),
    Dare(then="ties"),
    Della(),
    Della(then="linear"),
    Breadcrumbs(),
    ModelStock(),
    TaskSingularVectors(),
    IsotropicCommon(),
    IsotropicCommonAndSpecific(),
    Wudi(steps=5),
    Mats(start="base"),
]


def describe(method: MergeMethod) -> str:
    return f"{method.name}-" + "-".join(str(value) for value in vars(method).values() if isinstance(value, str | bool))


class TestAnyMethod:
    @pytest.mark.parametrize(
        ("name", "count"),
        [
            (name, count)
            for name, method in sorted(method_types().items())
            for count in (2, 3)
            if not method().count_problems(count)
        ],
    )
    def test_a_model_that_did_not_move_stays_itself(self, name: str, count: int) -> None:
        method = method_types()[name]()
        block = FeedForward((LAYOUT.linear["block.0.dense.weight"],), LAYOUT.linear["head.weight"])
        layout = replace(LAYOUT, feed_forward=(block,))
        one, other = random_member(0), random_member(1)
        # The same weights; what was measured on each one's own data differs.
        members = [replace(other, name=str(n), weights=one.weights) for n in range(count - 1)]
        members.append(replace(one, name="last"))
        for key, value in merged(method, members, layout, one.weights).items():
            torch.testing.assert_close(value, one.weights[key], rtol=1e-14, atol=1e-14)

    @pytest.mark.parametrize("method", METHODS, ids=describe)
    def test_the_order_of_members_does_not_matter(self, method: MergeMethod) -> None:
        annotated = [(True, False, True, True, False, False), (True, True, False, True, False, True), (True,) * 6]
        members = [random_member(seed, annotated=labels) for seed, labels in enumerate(annotated)]
        coefficients = [0.5, 0.2, 0.3]
        expected = merged(replace(method, coefficients=coefficients), members)
        for order in itertools.permutations(range(3)):
            permuted = replace(method, coefficients=[coefficients[i] for i in order])
            for name, value in merged(permuted, [members[i] for i in order]).items():
                torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("method", METHODS, ids=describe)
    def test_equal_coefficients_are_the_default(self, method: MergeMethod) -> None:
        members = [random_member(seed) for seed in range(4)]
        expected = merged(method, members)
        for name, value in merged(replace(method, coefficients=[0.25] * 4), members).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("method", MEANS, ids=describe)
    def test_a_coefficient_of_1_gives_that_member(self, method: MergeMethod) -> None:
        members = [random_member(seed) for seed in range(3)]
        for name, value in merged(replace(method, coefficients=[0.0, 1.0, 0.0]), members).items():
            torch.testing.assert_close(value, members[1].weights[name], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS, ids=describe)
    def test_members_stay_as_they_are(self, method: MergeMethod) -> None:
        members, untouched = [random_member(seed) for seed in range(2)], [random_member(seed) for seed in range(2)]
        merged(method, members)
        for member, before in zip(members, untouched, strict=True):
            assert isinstance(member.gram, Grams)
            assert isinstance(before.gram, Grams)
            assert all(torch.equal(member.weights[name], before.weights[name]) for name in SHAPES)
            assert all(torch.equal(gram, before.gram.matrix(key)) for key, gram in member.gram.matrices.items())

    @pytest.mark.parametrize("method", METHODS, ids=describe)
    def test_values_have_the_members_dtype(self, method: MergeMethod) -> None:
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            members = [random_member(seed, dtype=dtype) for seed in range(2)]
            assert {value.dtype for value in merged(method, members).values()} == {dtype}


class TestLabelRows:
    """Rows of a multi-label head: each is merged over the members whose data annotates its label."""

    ANNOTATED = (
        (True, True, False, False, True, False),
        (True, False, True, False, True, False),
        (True, True, True, False, False, False),
    )

    @staticmethod
    def naive(members: list[MergeMember], name: str, coefficients: list[float]) -> Tensor:
        rows = []
        for row in range(len(members[0].weights[name])):
            chosen = [i for i, m in enumerate(members) if m.annotated is None or m.annotated[row]]
            chosen = chosen or list(range(len(members)))
            total = sum(coefficients[i] for i in chosen)
            shares = {i: coefficients[i] / total if total else 1 / len(chosen) for i in chosen}
            rows.append(sum(share * members[i].weights[name][row] for i, share in shares.items()))
        return torch.stack([torch.as_tensor(row) for row in rows])

    @pytest.mark.parametrize("coefficients", [[1 / 3] * 3, [0.6, 0.3, 0.1], [0.0, 0.0, 1.0]])
    @pytest.mark.parametrize("name", ["head.weight", "head.bias"])
    def test_are_averaged_over_the_members_that_annotate_them(self, name: str, coefficients: list[float]) -> None:
        members = [random_member(seed, annotated=labels) for seed, labels in enumerate(self.ANNOTATED)]
        value = merged(Simple(coefficients=coefficients), members)[name]
        torch.testing.assert_close(value, self.naive(members, name, coefficients), rtol=1e-13, atol=1e-13)

    def test_a_member_that_does_not_say_annotates_all(self) -> None:
        members = [random_member(0, annotated=self.ANNOTATED[0]), random_member(1)]
        value = merged(Simple(), members)["head.weight"]
        torch.testing.assert_close(value, self.naive(members, "head.weight", [0.5, 0.5]), rtol=1e-13, atol=1e-13)

    def test_other_parameters_are_merged_over_all_members(self) -> None:
        members = [random_member(seed, annotated=labels) for seed, labels in enumerate(self.ANNOTATED)]
        plain = merged(Simple(), [replace(member, annotated=None) for member in members])
        for name, value in merged(Simple(), members).items():
            assert torch.equal(value, plain[name]) == (name not in LAYOUT.label_outputs)

    def test_regression_means_are_solved_over_the_members_that_annotate_a_row(self) -> None:
        members = [random_member(seed, annotated=labels) for seed, labels in enumerate(self.ANNOTATED)]
        value = merged(RegMean(off_diagonal=1), members)["head.weight"]
        for row, chosen in enumerate([(0, 1, 2), (0, 2), (1, 2), (0, 1, 2), (0, 1), (0, 1, 2)]):
            total = right = torch.zeros(())
            for i in chosen:
                gram = members[i].gram.matrix("head")  # type: ignore[union-attr]
                total = total + gram
                right = right + gram @ members[i].weights["head.weight"][row]
            torch.testing.assert_close(value[row], torch.linalg.inv(total) @ right, rtol=1e-9, atol=1e-9)

    def test_diagnostics_are_those_of_the_rows_posed_worst(self) -> None:
        members = [random_member(seed, annotated=labels) for seed, labels in enumerate(self.ANNOTATED)]
        gram = torch.ones(5, 5, dtype=torch.float64)  # of the first two members: rank 1
        for member in members[:2]:
            member.gram.matrices["head"] = gram  # type: ignore[union-attr]
        parts = {part.name: part.diagnostics for part in merge_members(RegMean(off_diagonal=1), members, LAYOUT)}
        assert parts["head.bias"] is None
        assert parts["head.weight"] is not None
        assert parts["head.weight"].jitter == 1e-10  # of row 4, which only those two annotate


class TestAveragedLabelRows:
    """``label_head="row_mean"``: the output layer is averaged row by row, whatever the method."""

    ANNOTATED = (
        (True, True, False, False, True, False),
        (True, False, True, False, True, False),
        (True, True, True, False, False, False),
    )
    SETTINGS: dict[str, Any] = {"label_head": "row_mean", "coefficients": [0.6, 0.3, 0.1]}  # noqa: RUF012

    def members(self, dtype: torch.dtype = torch.float64) -> list[MergeMember]:
        return [random_member(seed, annotated=labels, dtype=dtype) for seed, labels in enumerate(self.ANNOTATED)]

    def expected(self, members: list[MergeMember]) -> dict[str, list[Any]]:
        """Element by element, in Python's floats."""
        weights = [member.weights["head.weight"].tolist() for member in members]
        biases = [member.weights["head.bias"].tolist() for member in members]
        rows = []
        for row in range(6):
            knowing = [weight[row] for weight, known in zip(weights, self.ANNOTATED, strict=True) if known[row]]
            rows.append([sum(values) / len(values) for values in zip(*knowing, strict=True)] if knowing else [0.0] * 5)
        return {"head.weight": rows, "head.bias": [sum(values) / 3 for values in zip(*biases, strict=True)]}

    @pytest.mark.parametrize("method", METHODS, ids=describe)
    def test_are_plain_means_over_the_members_that_annotate_them(self, method: MergeMethod) -> None:
        members = self.members()
        settings = self.SETTINGS if not isinstance(method, Slerp) else {"label_head": "row_mean"}
        value = merged(replace(method, **settings), members)
        for name, rows in self.expected(members).items():
            torch.testing.assert_close(value[name], torch.tensor(rows, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        assert torch.equal(value["head.weight"][[3, 5]], torch.zeros(2, 5, dtype=torch.float64))

    @pytest.mark.parametrize("method", [Simple(), RegMean(), Fisher()], ids=describe)
    def test_nothing_else_changes(self, method: MergeMethod) -> None:
        one, other = merged(replace(method, label_head="row_mean"), self.members()), merged(method, self.members())
        assert {name for name in one if not torch.equal(one[name], other[name])} == LAYOUT.label_outputs

    def test_have_no_diagnostics(self) -> None:
        parts = merge_members(RegMean(label_head="row_mean"), self.members(), LAYOUT)
        assert [part.name for part in parts if part.diagnostics is not None] == ["block.0.dense.weight"]

    def test_keep_the_members_dtype(self) -> None:
        value = merged(Simple(label_head="row_mean"), self.members(torch.bfloat16))
        assert value["head.weight"].dtype == value["head.bias"].dtype == torch.bfloat16

    def test_where_labels_are_the_same_for_all_members_the_method_merges_them(self) -> None:
        members = [random_member(seed) for seed in range(3)]
        value, plain = merged(RegMean(label_head="row_mean"), members), merged(RegMean(), members)
        assert torch.equal(value["head.weight"], plain["head.weight"])

    def test_another_value_is_told(self) -> None:
        assert RegMean(label_head="published").problems() == [
            "label_head: expected one of merged, row_mean, got 'published'"
        ]


class TestBase:
    """The model that members were trained from."""

    NEEDING = [method for method in METHODS if method.needs_base]  # noqa: RUF012

    @pytest.mark.parametrize("method", NEEDING, ids=describe)
    def test_must_be_given_where_it_is_needed(self, method: MergeMethod) -> None:
        with pytest.raises(MergeError, match=f"{method.name} needs the weights of the model"):
            merged(method, [random_member(0), random_member(1)], base=None)

    @pytest.mark.parametrize("method", [method for method in NEEDING if method.name not in ("mats", "regmean")])
    def test_what_it_lacks_is_averaged(self, method: MergeMethod) -> None:
        members = [random_member(seed) for seed in range(3)]
        for base in (BASE, {}):
            value, mean = merged(method, members, base=base), merged(Simple(), members)
            for name in set(SHAPES) - set(base):
                torch.testing.assert_close(value[name], mean[name], rtol=0, atol=0)

    @pytest.mark.parametrize("method", NEEDING, ids=describe)
    def test_may_be_of_another_dtype(self, method: MergeMethod) -> None:
        members = [random_member(seed) for seed in range(2)]
        narrow = {name: value.bfloat16() for name, value in BASE.items()}
        wide = {name: value.double() for name, value in narrow.items()}
        expected = merged(method, members, base=wide)
        for name, value in merged(method, members, base=narrow).items():
            assert torch.equal(value, expected[name])

    def test_is_read_when_a_parameters_turn_comes(self) -> None:
        source = Recorded(BASE)
        parameters = merge_members(TaskArithmetic(), [random_member(0), random_member(1)], LAYOUT, base=source)
        for name in SHAPES:
            source.read.clear()
            assert next(parameters).name == name
            assert source.read == [name]  # also where it is not there

    def test_another_shape_is_told(self) -> None:
        wrong = {**BASE, "norm.weight": torch.ones(4)}
        with pytest.raises(MergeError, match=r"norm\.weight: shape \(4,\) in the base model, \(5,\) in the members"):
            merged(TaskArithmetic(), [random_member(0), random_member(1)], base=wrong)

    def test_a_nan_is_told(self) -> None:
        wrong = {**BASE, "norm.weight": torch.full((5,), math.nan)}
        with pytest.raises(MergeError, match=r"norm\.weight: NaN or infinity in the weights of the base model"):
            merged(TaskArithmetic(), [random_member(0), random_member(1)], base=wrong)

    def test_label_rows_have_their_own_part_of_it(self) -> None:
        """Rows of the head that one member annotates are θ₀ + λ (θᵢ − θ₀) of that member alone."""
        annotated = [(True, True, False, False, True, False), (True, False, True, False, True, True)]
        members = [random_member(seed, annotated=labels) for seed, labels in enumerate(annotated)]
        base = random_member(4711).weights
        value = merged(TaskArithmetic(scaling=0.3), members, base=base)["head.weight"]
        for row, chosen in enumerate([(0, 1), (0,), (1,), (0, 1), (0, 1), (1,)]):
            start = base["head.weight"][row]
            expected = start + 0.3 * sum(members[i].weights["head.weight"][row] - start for i in chosen)
            torch.testing.assert_close(value[row], torch.as_tensor(expected), rtol=1e-13, atol=1e-13)


class TestErrors:
    @pytest.mark.parametrize(("method", "count"), [(Slerp(), 3), (Simple(), 1), (ModelStock(), 1)])
    def test_a_wrong_number_of_members_is_told(self, method: MergeMethod, count: int) -> None:
        with pytest.raises(MergeError, match=f"members: {method.name} merges .* got {count}"):
            merged(method, [random_member(seed) for seed in range(count)])

    def test_all_differences_are_told_at_once(self) -> None:
        one, other = random_member(0, name="first"), random_member(1, name="second")
        weights: dict[str, Any] = dict(other.weights)
        del weights["norm.weight"]
        weights["extra"] = torch.ones(2)
        weights["head.bias"] = torch.ones(3)
        with pytest.raises(MergeError) as caught:
            merged(Simple(), [one, replace(other, weights=weights)])
        text = str(caught.value)
        assert "norm.weight: in first, not in second" in text
        assert "extra: in second, not in first" in text
        assert "head.bias: shape (6,) in first, (3,) in second" in text

    @pytest.mark.parametrize("method", METHODS, ids=describe)
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_weight_that_is_not_finite_is_told(self, method: MergeMethod, bad: float) -> None:
        members = [random_member(0), random_member(1, name="broken")]
        members[1].weights["block.0.dense.weight"][2, 1] = bad
        with pytest.raises(MergeError, match=r"block\.0\.dense\.weight: NaN or infinity in the weights of broken"):
            merged(method, members)

    def test_a_result_that_is_not_finite_is_told(self) -> None:
        huge = torch.tensor([60000.0], dtype=torch.float16)

        class Sum(Simple):
            def merge(self, parameter: Parameter) -> tuple[Tensor, None]:
                return torch.stack(list(parameter.tensors)).sum(0) * torch.inf, None

        with pytest.raises(MergeError, match="w: the merged tensor has a NaN or infinity"):
            merged(Sum(), [MergeMember(name, {"w": huge}) for name in "ab"], Layout({}))

    def test_integers_must_be_equal(self) -> None:
        same = [MergeMember(name, {"positions": torch.arange(3)}) for name in "ab"]
        assert torch.equal(merged(Simple(), same)["positions"], torch.arange(3))
        other = MergeMember("c", {"positions": torch.arange(3) + 1})
        with pytest.raises(MergeError, match=r"positions: .*int64"):
            merged(Simple(), [same[0], other])

    def test_as_many_coefficients_as_members(self) -> None:
        with pytest.raises(MergeError, match="2 numbers for 3 members"):
            merged(Simple(coefficients=[0.5, 0.5]), [random_member(seed) for seed in range(3)])


def test_members_may_differ_where_they_are_kept_apart() -> None:
    one, other = random_member(0), random_member(1)
    wide = {**other.weights, "head.weight": torch.ones(9, 5), "extra": torch.ones(1)}
    members = [one, replace(other, weights=wide)]
    assert "head.weight" not in merged(Simple(keep_layers=["head.weight", "extra"]), members)
    assert differences(Simple(keep_layers=["head.weight", "extra"]), members) == []
    assert len(differences(Simple(), members)) == 2


def test_tensors_are_read_when_their_turn_comes() -> None:
    """Memory holds one parameter of every member: nothing is read ahead, and no whole model is gathered."""
    sources = [Recorded(random_member(seed).weights) for seed in range(3)]
    members = [MergeMember(str(number), source) for number, source in enumerate(sources)]
    parameters = merge_members(Simple(), members, LAYOUT)
    assert next(parameters).name == "embedding.weight"
    for name in list(SHAPES)[1:]:
        for source in sources:
            source.read.clear()
        assert next(parameters).name == name
        assert [source.read for source in sources] == [[name]] * 3


def test_methods_are_registered_by_name() -> None:
    types = method_types()
    assert {"simple", "fisher", "regmean"} <= set(types)
    assert all(method.name == name for name, method in types.items())
