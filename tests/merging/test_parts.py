"""Settings of parts of a model (``method.parts``), against plain loops over state dicts in float64."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from merging_members import Grams, normal
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeError, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.dare import Dare
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.parts import belongs, missing_blocks
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.sce import Sce
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties

NAMES = [
    "bert.embeddings.word_embeddings.weight",
    *(
        f"bert.encoder.layer.{block}.{part}.weight"
        for block in range(3)
        for part in ("attention.self.query", "output.dense")
    ),
    "bert.pooler.dense.weight",
    "classifier.weight",
]
SHAPE = (5, 4)
BASE = {name: normal(number, *SHAPE) for number, name in enumerate(NAMES)}
STATES = [
    {name: BASE[name] + 0.3 * normal(100 * member + number, *SHAPE) for number, name in enumerate(NAMES)}
    for member in (1, 2)
]


def merged(method: MergeMethod, layout: Layout = Layout({}), grams: Any = (None, None)) -> dict[str, Tensor]:  # noqa: B008
    assert method.problems() == []
    members = [MergeMember(f"m{i}", state, gram=grams[i]) for i, state in enumerate(STATES)]
    return {part.name: part.value for part in merge_members(method, members, layout, base=BASE)}


def test_weights_of_members_by_block_and_module() -> None:
    weights = {"block_0": [0.3, 0.7], "block_1": [1.5, -0.5], "embeddings": [0.0, 1.0], "classifier": [2.0, 2.0]}
    found = merged(Simple(parts={part: {"weights": pair} for part, pair in weights.items()}))
    for name in NAMES:
        pair = [1.0, 1.0]
        if ".layer.0." in name:
            pair = weights["block_0"]
        elif ".layer.1." in name:
            pair = weights["block_1"]
        elif "embeddings" in name:
            pair = weights["embeddings"]
        elif name.startswith("classifier"):
            pair = weights["classifier"]
        expected = (pair[0] * STATES[0][name] + pair[1] * STATES[1][name]) / sum(pair)
        torch.testing.assert_close(found[name], expected, msg=name)


def test_scaling_and_weights_over_the_depth() -> None:
    """Anchors: from the first block to the last, linear between them; what lies outside of blocks has depth 0."""
    anchors, first, second = [0.2, 1.0], [1.0, 0.0, 0.5], [0.4, 0.8]
    parts = {"every": {"scaling": anchors, "weights": [first, second]}, "classifier": {"scaling": 0.7}}
    found = merged(TaskArithmetic(scaling=0.4, parts=parts))
    by_block = {0: (0.2, 1.0, 0.4), 1: (0.6, 0.0, 0.6), 2: (1.0, 0.5, 0.8)}
    for name in NAMES:
        block = next((number for number in by_block if f".layer.{number}." in name), 0)
        scaling, one, other = by_block[block]
        if name.startswith("classifier"):
            scaling = 0.7
        changes = [state[name] - BASE[name] for state in STATES]
        expected = BASE[name] + scaling * (one * changes[0] + other * changes[1])
        torch.testing.assert_close(found[name], expected, msg=name)


def test_coefficients_and_alpha_of_regmean_by_block() -> None:
    layout = Layout({name: LinearLayer(name.removesuffix(".weight")) for name in NAMES if ".layer." in name})
    grams = []
    for member in range(2):
        inputs = [normal(1000 * member + number, 30, SHAPE[1]) for number in range(len(NAMES))]
        grams.append({name.removesuffix(".weight"): x.T @ x for name, x in zip(NAMES, inputs, strict=True)})
    parts = {
        "block_0": {"off_diagonal": 0.1, "coefficients": [0.2, 0.8]},
        "block_2": {"off_diagonal": 0.5},
    }
    found = merged(RegMean(off_diagonal=0.9, parts=parts), layout, [Grams(one) for one in grams])
    for name in NAMES:
        if ".layer." not in name:
            torch.testing.assert_close(found[name], (STATES[0][name] + STATES[1][name]) / 2)
            continue
        alpha, shares = {"0": (0.1, [0.2, 0.8]), "1": (0.9, [0.5, 0.5]), "2": (0.5, [0.5, 0.5])}[name.split(".")[3]]
        left, right = torch.zeros(4, 4).double(), torch.zeros(4, 5).double()
        for share, gram, state in zip(shares, grams, STATES, strict=True):
            own = gram[name.removesuffix(".weight")].double()
            own = share * (alpha * own + (1 - alpha) * torch.diag(own.diagonal()))
            left, right = left + own, right + own @ state[name].double().T
        expected = torch.linalg.solve(left, right).T
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-6, atol=1e-8)


def test_density_of_parts_is_that_of_a_merge_of_the_part_alone() -> None:
    plain = [merged(kind(density=0.5, **more)) for kind, more in ((Dare, {}), (Ties, {"scope": "parameter"}))]
    found = [
        merged(kind(density=0.9, parts={"block_1": {"density": 0.5}}, **more))
        for kind, more in ((Dare, {}), (Ties, {"scope": "parameter"}))
    ]
    others = [merged(kind(density=0.9, **more)) for kind, more in ((Dare, {}), (Ties, {"scope": "parameter"}))]
    for inside, both, outside in zip(plain, found, others, strict=True):
        for name in NAMES:
            assert torch.equal(both[name], (inside if ".layer.1." in name else outside)[name])
            assert not torch.equal(inside[name], outside[name])


def test_a_method_without_parts_is_what_it_was() -> None:
    assert all(torch.equal(one, STATES[0][n].lerp(STATES[1][n], 0.5)) for n, one in merged(Simple()).items())


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("bert.encoder.layer.1.output.dense.weight", "block_1", True),
        ("bert.encoder.layer.11.output.dense.weight", "block_1", False),
        ("bert.encoder.layer.1.output.dense.weight", "output", True),
        ("bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.1", True),
        ("bert.encoder.layer.1.output.dense.weight", "out*", True),
        ("bert.encoder.layer.1.output.dense.weight", "out", False),
        ("bert.embeddings.word_embeddings.weight", "embeddings", True),
        ("classifier.weight", "every", True),
    ],
)
def test_what_belongs_to_a_part(name: str, part: str, expected: bool) -> None:
    assert belongs(name, part) is expected


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (Simple(parts={"block_0": 0.3}), "parts.block_0: expected settings of the method by name, got 0.3"),
        (
            Simple(parts={"block_0": {"weight": [1, 2]}}),
            "parts.block_0.weight: no number of this method",
        ),
        (Simple(parts={"block_0": {"weights": 0.3}}), "parts.block_0.weights: expected a list with a number"),
        (Simple(parts={"block_0": {"weights": [1, -1]}}), r"parts.block_0.weights: they add up to 0"),
        (Simple(weights=[1, 1], parts={"a": {"coefficients": [0.5, 0.5]}}), "parts.a.weights: given beside coeff"),
        (RegMean(parts={"a": {"off_diagonal": [0.5, 1.5]}}), r"parts.a.off_diagonal: expected .*1\.5"),
        (RegMean(parts={"a": {"off_diagonal": "high"}}), "parts.a.off_diagonal: expected a number, or a list"),
        (RegMean(parts={"a": {"coefficients": [[0.5, 0.9], [0.5, 0.5]]}}), "parts.a.coefficients: expected a sum of 1"),
        (RegMean(parts={"a": {"weights": [1, 2]}}), "parts.a.weights: no number of this method"),
        (Ties(parts={"a": {"density": 0.5}}), "parts: with scope=model all parts have one density"),
        (Fisher(parts={"a": {"epsilon": 0.5}}), "parts.a.epsilon: it is one for the whole model"),
        (Sce(parts={"a": {"coefficients": [0.5, 0.5]}}), "parts.a.coefficients: sce finds the weights itself"),
        (RegMeanPlusPlus(parts={"a": {"off_diagonal": 0.5}}), "parts: regmean_plusplus refits layer after layer"),
    ],
)
def test_wrong_settings_of_parts(method: MergeMethod, problem: str) -> None:
    found = method.problems()
    assert len(found) == 1
    assert re.match(problem, found[0]), found


def test_parts_that_do_not_suit_the_model() -> None:
    members = [MergeMember(f"m{i}", state) for i, state in enumerate(STATES)]

    def told(parts: dict[str, Any]) -> str:
        with pytest.raises(MergeError) as caught:
            list(merge_members(Simple(parts=parts), members, Layout({})))
        return str(caught.value)

    assert told({"block_3": {"weights": [1, 2]}}) == (
        "method.parts.block_3: no module or parameter matches; there are blocks block_0 to block_2 and modules such as "
        "bert.embeddings.word_embeddings, bert.pooler.dense, classifier"
    )
    both = told({"block_0": {"weights": [1, 2]}, "attention": {"weights": [1, 2]}})
    assert "parts: block_0 and attention both have weights for bert.encoder.layer.0.attention.self.query.weight" in both
    assert told({"block_0": {"weights": [1, 2, 3]}}) == "method.parts.block_0.weights: 3 numbers for 2 members"
    assert missing_blocks({"block_3": {}, "block_2": {}, "classifier": {}}, NAMES) == [
        "parts.block_3: the model has no such block; it has block_0 to block_2"
    ]
