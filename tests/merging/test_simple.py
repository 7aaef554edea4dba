from __future__ import annotations

import pytest
import torch
from merging_members import SHAPES, merged, random_member

from regmean_lab.merging import MergeMember, method_types
from regmean_lab.merging.simple import Simple


def test_is_the_mean_of_every_parameter() -> None:
    members = [random_member(seed) for seed in range(3)]
    result = merged(Simple(), members)
    assert list(result) == list(SHAPES)
    for name, value in result.items():
        expected = (members[0].weights[name] + members[1].weights[name] + members[2].weights[name]) / 3
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)


def test_coefficients_weight_the_members() -> None:
    members = [random_member(seed) for seed in range(3)]
    for name, value in merged(Simple(coefficients=[0.2, 0.0, 0.8]), members).items():
        expected = 0.2 * members[0].weights[name] + 0.8 * members[2].weights[name]
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)


def test_half_precision_is_averaged_in_float32_and_stays_half() -> None:
    # 1 + 1/256 has no bfloat16: summing in bfloat16 would lose the small addends one by one.
    values = [1.0, 1 / 256, 1 / 256, 1 / 256, 1 / 256]
    members = [
        MergeMember(str(number), {"w": torch.tensor([value], dtype=torch.bfloat16)})
        for number, value in enumerate(values)
    ]
    result = merged(Simple(coefficients=[1.0, 0, 0, 0, 0]), members)["w"]
    assert (result.dtype, float(result)) == (torch.bfloat16, 1.0)
    result = merged(Simple(), members)["w"]
    assert result.dtype == torch.bfloat16
    assert float(result) == float(torch.tensor((1 + 4 / 256) / 5).bfloat16())


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ([0.5, -0.5, 1.0], "at least 0"),
        ([0.5, float("nan")], "at least 0"),
        ([float("inf"), 0.0], "at least 0"),
        ([0.5, 0.4], "a sum of 1, got 0.9"),
    ],
)
def test_wrong_coefficients_are_told(coefficients: list[float], message: str) -> None:
    (problem,) = Simple(coefficients=coefficients).problems()
    assert problem.startswith("coefficients: ")
    assert message in problem


def test_right_settings_have_no_problems() -> None:
    assert Simple().problems() == []
    assert Simple(coefficients=[0.25, 0.75], keep_top=2, keep_layers=["head"]).problems() == []


def test_is_known_by_name() -> None:
    assert method_types()["simple"] is Simple
    assert Simple().statistics == ()
