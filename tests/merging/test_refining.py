"""Methods that replace layers one after the other, against plain loops that run the model anew for every layer."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from regmean_lab.merging import Layout, MergeError, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.parameters import LayerDiagnostics
from regmean_lab.merging.refining import MemberText, refine_
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.statistics import collect_gram, linear_layers

WIDTH = 6
Batch = dict[str, Tensor]


class Network(nn.Module):
    """Two linear layers with the same input, one that takes both, a `Conv1D`, and a head on the first token."""

    def __init__(self, seed: int, labels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(20, WIDTH)
        self.left = nn.Linear(WIDTH, WIDTH)
        self.right = nn.Linear(WIDTH, WIDTH, bias=False)
        self.middle = nn.Linear(2 * WIDTH, WIDTH + 1)
        self.conv = Conv1D(WIDTH, WIDTH + 1)
        self.unused = nn.Linear(WIDTH, 2)
        self.head = nn.Linear(WIDTH, labels)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        start = self.embedding(input_ids)
        both = torch.cat([self.left(start).tanh(), self.right(start).tanh()], -1)
        # Tokens see each other: what padding holds must not matter.
        seen = self.middle(both) * attention_mask[:, :, None]
        mixed = self.conv((seen + seen.mean(1, keepdim=True)).tanh())
        return self.head(mixed[:, 0].tanh())


ORDER = ("left", "right", "middle", "conv", "head")


def text(seed: int, sizes: Sequence[tuple[int, int]] = ((5, 7), (4, 3))) -> list[Batch]:
    """Batches of so many examples and tokens, right-padded."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for examples, tokens in sizes:
        lengths = torch.randint(1, tokens + 1, (examples, 1), generator=generator)
        mask = (torch.arange(tokens) < lengths).long()
        batches.append(
            {"input_ids": torch.randint(20, (examples, tokens), generator=generator), "attention_mask": mask}
        )
    return batches


def reader(model: nn.Module, batches: Sequence[Batch]) -> MemberText:
    return MemberText(model, batches, lambda batch: model(**batch), lambda batch: batch["attention_mask"])


def member(name: str, model: nn.Module, batches: Sequence[Batch], **settings: Any) -> MergeMember:
    return MergeMember(name, model.state_dict(), collect_gram(model, batches, dtype=torch.float64), **settings)


LAYERS = tuple(name for name in linear_layers(Network(0)) if name != "unused")


def merge(
    method: MergeMethod,
    models: Sequence[Network],
    texts: Sequence[Sequence[Batch]],
    layout: Layout | None = None,
    members: Sequence[MergeMember] | None = None,
) -> tuple[dict[str, Tensor], list[Any]]:
    """All merged parameters, and what the layers' diagnostics are."""
    members = members or plain_members(models, texts)
    layout = layout or layout_of(models[0])
    merged = {part.name: part.value for part in merge_members(method, members, layout)}
    copies = [reader(copy.deepcopy(model), batches) for model, batches in zip(models, texts, strict=True)]
    diagnostics = refine_(method, members, copies, merged, layout)
    return merged, diagnostics


def plain_members(models: Sequence[Network], texts: Sequence[Sequence[Batch]]) -> list[MergeMember]:
    found = []
    for number, (model, batches) in enumerate(zip(models, texts, strict=True)):
        grams = collect_gram(model, batches, layers=LAYERS, dtype=torch.float64)
        whole = {**grams.matrices, "unused": torch.eye(WIDTH, dtype=torch.float64)}
        shared = {**grams.shared, "unused": "unused"}
        found.append(MergeMember(f"member {number}", model.state_dict(), replace(grams, matrices=whole, shared=shared)))
    return found


def inputs_of(model: Network, layer: str, batches: Sequence[Batch]) -> Tensor:
    """Rows of real tokens that a layer is fed, one example at a time."""
    fed: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda _, args: fed.append(args[0]))
    rows = []
    with torch.no_grad():
        for batch in batches:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                model(ids[None], mask[None])
                found = fed.pop()
                rows.append(found if found.dim() == 2 else found[0, mask.bool()])
    hook.remove()
    return torch.cat(rows)


def weight_of(model: Network, layer: str) -> Tensor:
    """A layer's weight as [in, out]."""
    weight = model.get_parameter(f"{layer}.weight").detach()
    return weight if layer == "conv" else weight.T


def set_weight(model: Network, layer: str, value: Tensor) -> None:
    with torch.no_grad():
        model.get_parameter(f"{layer}.weight").copy_(value if layer == "conv" else value.T)


def start_of(method: MergeMethod, models: Sequence[Network], texts: Sequence[Sequence[Batch]]) -> Network:
    start = copy.deepcopy(models[0])
    parts = merge_members(method, plain_members(models, texts), layout_of(models[0]))
    start.load_state_dict({part.name: part.value for part in parts})
    return start


def naive_sequential(
    models: Sequence[Network],
    texts: Sequence[Sequence[Batch]],
    damping: float,
    weights: Sequence[float],
    start: MergeMethod,
) -> Network:
    """Least squares with stacked rows: those of the texts, and those that hold the weight back."""
    merged = start_of(start, models, texts)
    for layer in ORDER:
        first = weight_of(merged, layer).clone()
        biased = layer != "right"
        left, right, diagonal = [], [], torch.zeros(len(first), dtype=torch.float64)
        for model, batches, weight in zip(models, texts, weights, strict=True):
            given, own = inputs_of(merged, layer, batches), inputs_of(model, layer, batches)
            target = own @ weight_of(model, layer)
            if biased:
                target = target + model.get_parameter(f"{layer}.bias").detach()
            factor = (weight / len(given)) ** 0.5
            columns = [given, torch.ones(len(given), 1, dtype=torch.float64)] if biased else [given]
            left.append(torch.cat(columns, 1) * factor)
            right.append(target * factor)
            diagonal += (given**2).mean(0) * weight
        strength = damping * float(diagonal.mean())
        held = torch.eye(len(first), left[0].shape[1], dtype=torch.float64) * strength**0.5
        solution = torch.linalg.lstsq(
            torch.cat([*left, held]), torch.cat([*right, first * strength**0.5]), driver="gelsd"
        ).solution
        set_weight(merged, layer, solution[: len(first)])
        if biased:
            with torch.no_grad():
                merged.get_parameter(f"{layer}.bias").copy_(solution[-1])
    return merged


def naive_plusplus(
    models: Sequence[Network], texts: Sequence[Sequence[Batch]], off_diagonal: float, weights: Sequence[float]
) -> Network:
    merged = copy.deepcopy(models[0])
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            values = [weight * model.get_parameter(name) for model, weight in zip(models, weights, strict=True)]
            parameter.copy_(torch.stack(values).sum(0) / len(models))
    for layer in ORDER:
        total, right = 0.0, 0.0
        for model, batches, weight in zip(models, texts, weights, strict=True):
            given = inputs_of(merged, layer, batches)
            gram = given.T @ given / len(given) * weight
            gram = off_diagonal * gram + (1 - off_diagonal) * gram.diagonal().diag()
            total, right = total + gram, right + gram @ weight_of(model, layer)
        assert isinstance(total, Tensor)
        assert isinstance(right, Tensor)
        set_weight(merged, layer, torch.linalg.solve(total, right))
    return merged


@pytest.fixture
def models() -> list[Network]:
    return [Network(1), Network(2)]


@pytest.fixture
def texts() -> list[list[Batch]]:
    return [text(3), text(4, ((6, 5), (3, 9), (2, 2)))]


def assert_same(merged: dict[str, Tensor], expected: nn.Module) -> None:
    assert set(merged) == set(expected.state_dict())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: name + text)


def assert_moved(row: LayerDiagnostics, merged: dict[str, Tensor], models: list[Network], shares: list[float]) -> None:
    """How far a layer's weight moved, from the members' own weights."""
    own = [model.state_dict()[f"{row.layer}.weight"].double() for model in models]
    value = merged[f"{row.layer}.weight"].double()
    mean = sum(share * weight for share, weight in zip(shares, own, strict=True))
    spread = sum(share * float((weight - mean).square().sum()) for share, weight in zip(shares, own, strict=True))
    assert row.moved == pytest.approx(float((value - mean).norm()) / spread**0.5, rel=1e-6)
    expected = [float((value - weight).norm() / (mean - weight).norm()) for weight in own]
    assert list(row.distances.values()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("damping", [0.1, 3.0])
@pytest.mark.parametrize("coefficients", [None, [0.3, 0.7]])
def test_every_layer_is_fitted_to_the_members_outputs(
    models: list[Network], texts: list[list[Batch]], damping: float, coefficients: list[float] | None
) -> None:
    method = RegMeanSequential(off_diagonal=0.8, damping=damping, coefficients=coefficients)
    merged, diagnostics = merge(method, models, texts)
    weights = [1.0, 1.0] if coefficients is None else [2 * value for value in coefficients]
    start = RegMean(off_diagonal=0.8, coefficients=coefficients)
    assert_same(merged, naive_sequential(models, texts, damping, weights, start))
    assert [row.layer for row in diagnostics] == list(ORDER)
    assert all(row.condition >= 1 for row in diagnostics)
    for row in diagnostics:
        assert_moved(row, merged, models, [weight / 2 for weight in weights])


@pytest.mark.parametrize("coefficients", [None, [0.3, 0.7]])
def test_gram_matrices_are_those_of_the_merged_model(
    models: list[Network], texts: list[list[Batch]], coefficients: list[float] | None
) -> None:
    merged, diagnostics = merge(RegMeanPlusPlus(off_diagonal=0.7, coefficients=coefficients), models, texts)
    weights = [1.0, 1.0] if coefficients is None else [2 * value for value in coefficients]
    assert_same(merged, naive_plusplus(models, texts, 0.7, weights))
    assert [row.layer for row in diagnostics] == list(ORDER)
    for row in diagnostics:
        assert_moved(row, merged, models, [weight / 2 for weight in weights])
    plain = start_of(RegMean(off_diagonal=0.7, coefficients=coefficients), models, texts)
    assert torch.equal(merged["embedding.weight"], plain.embedding.weight)


def test_a_layer_that_nothing_precedes_is_that_of_regmean(models: list[Network], texts: list[list[Batch]]) -> None:
    models[1].embedding.load_state_dict(models[0].embedding.state_dict())
    merged, _ = merge(RegMeanPlusPlus(), models, texts)
    plain = start_of(RegMean(), models, texts)
    torch.testing.assert_close(merged["left.weight"], plain.left.weight.detach())
    assert (merged["middle.weight"] - plain.middle.weight).abs().max() > 1e-3


METHODS = [RegMeanSequential(), RegMeanPlusPlus()]
named = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@named
def test_equal_members_are_left_as_they_are(method: MergeMethod, texts: list[list[Batch]]) -> None:
    model = Network(5)
    merged, _ = merge(method, [model, copy.deepcopy(model)], texts)
    assert_same(merged, model)


@named
def test_the_members_order_does_not_matter(
    method: MergeMethod, models: list[Network], texts: list[list[Batch]]
) -> None:
    one, _ = merge(method, models, texts)
    other, _ = merge(method, models[::-1], texts[::-1])
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-10)


@named
def test_padding_and_the_split_into_batches_do_not_matter(
    method: MergeMethod, models: list[Network], texts: list[list[Batch]]
) -> None:
    def padded(batch: Batch) -> Batch:
        """Other tokens where there is padding."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return {"input_ids": torch.where(mask.bool(), ids, 13), "attention_mask": mask}

    one, _ = merge(method, models, texts)
    changed = [[padded(batch) for batch in batches] for batches in texts]
    assert any(not torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(texts[0], changed[0], strict=True))
    single = [
        [
            {name: value[row : row + 1] for name, value in batch.items()}
            for batch in batches
            for row in range(len(batch["input_ids"]))
        ]
        for batches in changed
    ]
    other, _ = merge(method, models, single, members=plain_members(models, texts))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-10)


@named
def test_one_model_may_read_all_texts(method: MergeMethod, models: list[Network], texts: list[list[Batch]]) -> None:
    expected, _ = merge(method, models, texts)
    layout, members, shared = layout_of(models[0]), plain_members(models, texts), Network(0)
    merged = {part.name: part.value for part in merge_members(method, members, layout)}
    refine_(method, members, [reader(shared, batches) for batches in texts], merged, layout)
    for name, value in expected.items():
        assert torch.equal(merged[name], value)
    assert not any(module._forward_pre_hooks for module in shared.modules())


def test_directions_that_the_text_does_not_show_stay_those_of_regmean(models: list[Network]) -> None:
    """One example of three tokens, with all features but one silent: W is pinned in no more than that direction."""
    texts = [text(6, ((1, 3),)), text(7, ((1, 3),))]
    for model in models:
        with torch.no_grad():
            model.embedding.weight[:, 1:] = 0
    members = plain_members(models, [text(8), text(9)])
    layout = layout_of(models[0])
    start = {part.name: part.value for part in merge_members(RegMean(), members, layout)}
    merged, diagnostics = merge(RegMeanSequential(), models, texts, members=members)
    change = merged["left.weight"] - start["left.weight"]
    assert change[:, 0].abs().max() > 1e-6
    torch.testing.assert_close(change[:, 1:], torch.zeros_like(change[:, 1:]))
    assert all(torch.isfinite(value).all() for value in merged.values())
    assert len(diagnostics) == len(ORDER)


def test_a_layer_that_sees_nothing_stays_as_it_is(models: list[Network], texts: list[list[Batch]]) -> None:
    for model in models:
        with torch.no_grad():
            model.embedding.weight.zero_()
    members = plain_members(models, texts)
    start = {part.name: part.value for part in merge_members(RegMean(), members, layout_of(models[0]))}
    merged, diagnostics = merge(RegMeanSequential(), models, texts)
    torch.testing.assert_close(merged["left.weight"], start["left.weight"])
    assert diagnostics[0].unseen_features == WIDTH
    assert torch.equal(merged["unused.weight"], start["unused.weight"])


@named
def test_what_is_kept_apart_is_each_members_own(method: Any, models: list[Network], texts: list[list[Batch]]) -> None:
    """Inputs behind a layer that is kept are those that come through each member's own."""
    kept = replace(method, keep_layers=["middle", "head"])
    heads = [Network(1, labels=2), Network(2, labels=5)]
    members = [
        replace(member, weights=model.state_dict())
        for member, model in zip(plain_members(models, texts), heads, strict=True)
    ]
    for model, other in zip(heads, models, strict=True):
        state = {name: value for name, value in other.state_dict().items() if not name.startswith("head")}
        model.load_state_dict(state, strict=False)
    merged, diagnostics = merge(kept, heads, texts, members=members)
    assert [row.layer for row in diagnostics] == ["left", "right", "conv"]
    views = [copy.deepcopy(model) for model in models]
    for view in views:
        view.load_state_dict({name: value for name, value in merged.items() if "conv" not in name}, strict=False)
    total, right = 0.0, 0.0
    for view, model, batches in zip(views, models, texts, strict=True):
        given, own = inputs_of(view, "conv", batches), inputs_of(model, "conv", batches)
        if isinstance(method, RegMeanPlusPlus):
            gram = given.T @ given / len(given)
            gram = 0.9 * gram + 0.1 * gram.diagonal().diag()
            total, right = total + gram, right + gram @ weight_of(model, "conv")
        else:
            ones = torch.ones(len(given), 1, dtype=torch.float64)
            rows = torch.cat([given, ones], 1)
            target = own @ weight_of(model, "conv") + model.conv.bias.detach()
            total, right = total + rows.T @ rows / len(rows), right + rows.T @ target / len(rows)
    if isinstance(method, RegMeanSequential):
        assert isinstance(total, Tensor)
        strength = 0.1 * float(total.diagonal()[:-1].mean())
        total = total + strength * torch.diag(torch.tensor([1.0] * (len(total) - 1) + [0.0], dtype=torch.float64))
        before = {part.name: part.value for part in merge_members(replace(kept), members, layout_of(heads[0]))}
        right = right + torch.cat([strength * before["conv.weight"], torch.zeros(1, WIDTH, dtype=torch.float64)])
    assert isinstance(total, Tensor)
    assert isinstance(right, Tensor)
    solution = torch.linalg.solve(total, right)
    torch.testing.assert_close(merged["conv.weight"], solution[: WIDTH + 1], rtol=1e-8, atol=1e-9)


def test_label_rows_are_fitted_to_the_members_that_annotate_them(
    models: list[Network], texts: list[list[Batch]]
) -> None:
    layout = replace(layout_of(models[0]), label_outputs=frozenset({"head.weight", "head.bias"}))
    annotated = [(True, True, False), (False, True, False)]
    members = [
        replace(member, annotated=known) for member, known in zip(plain_members(models, texts), annotated, strict=True)
    ]
    method = RegMeanSequential()
    merged, diagnostics = merge(method, models, texts, layout, members)
    everyone, _ = merge(method, models, texts)
    for row in (1, 2):  # that of both members, and that of none, which is fitted to all
        torch.testing.assert_close(merged["head.weight"][row], everyone["head.weight"][row])
        torch.testing.assert_close(merged["head.bias"][row], everyone["head.bias"][row])
    view = copy.deepcopy(models[0])
    view.load_state_dict(merged)
    given, own = inputs_of(view, "head", texts[0]), inputs_of(models[0], "head", texts[0])
    target = own @ models[0].head.weight[0].detach() + models[0].head.bias[0].detach()
    strength = 0.1 * float((given**2).mean(0).mean())
    rows, mean = given - given.mean(0), given.mean(0)  # an intercept that is not held back centres the rest
    first = models[0].head.weight[0].detach()  # RegMean of one member
    left = rows.T @ rows / len(rows) + strength * torch.eye(WIDTH, dtype=torch.float64)
    solution = torch.linalg.solve(left, rows.T @ (target - target.mean()) / len(rows) + strength * first)
    torch.testing.assert_close(merged["head.weight"][0], solution)
    torch.testing.assert_close(merged["head.bias"][0], target.mean() - mean @ solution)
    assert [row.layer for row in diagnostics] == list(ORDER)


@named
def test_averaged_label_rows_are_not_replaced(method: Any, models: list[Network], texts: list[list[Batch]]) -> None:
    layout = replace(layout_of(models[0]), label_outputs=frozenset({"head.weight", "head.bias"}))
    annotated = [(True, True, False), (False, True, False)]
    members = [
        replace(member, annotated=known) for member, known in zip(plain_members(models, texts), annotated, strict=True)
    ]
    merged, diagnostics = merge(replace(method, label_head="row_mean"), models, texts, layout, members)
    first, second = (model.head.weight.detach() for model in models)
    expected = torch.stack([first[0], (first[1] + second[1]) / 2, torch.zeros_like(first[2])])
    torch.testing.assert_close(merged["head.weight"], expected)
    torch.testing.assert_close(merged["head.bias"], (models[0].head.bias + models[1].head.bias).detach() / 2)
    assert [row.layer for row in diagnostics] == [name for name in ORDER if name != "head"]


@named
def test_excluded_layers_are_averaged(method: Any, models: list[Network], texts: list[list[Batch]]) -> None:
    merged, diagnostics = merge(replace(method, exclude_layers=["mid*"]), models, texts)
    assert [row.layer for row in diagnostics] == [name for name in ORDER if name != "middle"]
    for name in ("middle.weight", "middle.bias"):
        torch.testing.assert_close(merged[name], (models[0].state_dict()[name] + models[1].state_dict()[name]) / 2)


@named
def test_narrow_weights_stay_narrow(method: MergeMethod, models: list[Network], texts: list[list[Batch]]) -> None:
    wide, _ = merge(method, models, texts)
    narrow = [copy.deepcopy(model).to(torch.bfloat16) for model in models]
    merged, _ = merge(
        method,
        narrow,
        texts,
        members=[
            replace(member, weights=model.state_dict())
            for member, model in zip(plain_members(models, texts), narrow, strict=True)
        ],
    )
    for name, value in merged.items():
        assert value.dtype == torch.bfloat16
        assert (value.double() - wide[name]).abs().max() < 0.15


@named
def test_nan_names_the_layer(method: MergeMethod, models: list[Network], texts: list[list[Batch]]) -> None:
    members = plain_members(models, texts)

    def spoilt(model: nn.Module, batch: Batch) -> Tensor:
        hook = model.get_submodule("conv").register_forward_pre_hook(
            lambda _, args: (args[0] * float("nan"),), prepend=True
        )
        try:
            return model(**batch)
        finally:
            hook.remove()

    layout = layout_of(models[0])
    merged = {part.name: part.value for part in merge_members(method, members, layout)}
    readers = [
        reader(models[0], texts[0]),
        replace(reader(models[1], texts[1]), forward=lambda batch: spoilt(models[1], batch)),
    ]
    with pytest.raises(MergeError, match=r"layer conv: NaN or infinity in what .* on the text of member 1"):
        refine_(method, members, readers, merged, layout)
    assert not any(module._forward_pre_hooks for module in models[1].modules())


@named
def test_another_order_of_layers_is_refused(
    method: MergeMethod, models: list[Network], texts: list[list[Batch]]
) -> None:
    class Turned(Network):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            self.right(self.embedding(input_ids))
            return super().forward(input_ids, attention_mask)

    layout, members = layout_of(models[0]), plain_members(models, texts)
    merged = {part.name: part.value for part in merge_members(method, members, layout)}
    running = threading.active_count()
    with pytest.raises(MergeError, match=f"{method.name} needs forward passes that call .* some came to left, right"):
        refine_(method, members, [reader(models[0], texts[0]), reader(Turned(2), texts[1])], merged, layout)
    assert threading.active_count() == running


def test_what_a_model_raises_is_raised(models: list[Network], texts: list[list[Batch]]) -> None:
    def fails(batch: Batch) -> None:
        models[1](**batch)
        raise LookupError("no such token")

    layout, members, method = layout_of(models[0]), plain_members(models, texts), RegMeanSequential()
    merged = {part.name: part.value for part in merge_members(method, members, layout)}
    running = threading.active_count()
    with pytest.raises(LookupError, match="no such token"):
        refine_(
            method,
            members,
            [reader(models[0], texts[0]), replace(reader(models[1], texts[1]), forward=fails)],
            merged,
            layout,
        )
    assert threading.active_count() == running


def test_gradients_autocast_and_training_flags_are_left_alone(models: list[Network], texts: list[list[Batch]]) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def watched(model: nn.Module) -> Callable[[Batch], Tensor]:
        def forward(batch: Batch) -> Tensor:
            seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), model.training))
            return model(**batch)

        return forward

    layout, members, method = layout_of(models[0]), plain_members(models, texts), RegMeanSequential()
    merged = {part.name: part.value for part in merge_members(method, members, layout)}
    readers = [
        replace(reader(model, batches), forward=watched(model)) for model, batches in zip(models, texts, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        refine_(method, members, readers, merged, layout)
    assert set(seen) == {(False, True, False)}
    assert torch.is_grad_enabled()
    assert all(model.training for model in models)


def test_settings_are_checked() -> None:
    assert RegMeanSequential(examples=0, damping=0.0).problems() == [
        "examples: expected at least 1 or null, got 0",
        "damping: expected a positive number, got 0.0",
    ]
    assert RegMeanPlusPlus(examples=0, off_diagonal=2.0).problems() == [
        "off_diagonal: expected a number from 0 to 1, got 2.0",
        "examples: expected at least 1 or null, got 0",
    ]
    assert RegMeanSequential().statistics == ("gram",)
    assert RegMeanPlusPlus().statistics == ()
    assert all(method.needs_text for method in METHODS)
    assert not RegMean().needs_text


def test_steps_that_follow_come_after_the_last_layer() -> None:
    """Not between the merge that refitting begins with and the refitting itself."""
    models, texts = [Network(1), Network(2)], [text(1), text(2)]
    base = {name: value for name, value in Network(3).state_dict().items() if not name.startswith("head")}
    members, layout = plain_members(models, texts), layout_of(models[0])
    plain, _ = merge(RegMeanSequential(), models, texts)

    def followed(*steps: Any) -> dict[str, Tensor]:
        method = RegMeanSequential(followed_by=list(steps))
        found = {part.name: part.value for part in merge_members(method, members, layout, base=base)}
        copies = [reader(copy.deepcopy(model), batches) for model, batches in zip(models, texts, strict=True)]
        refine_(method, members, copies, found, layout, base=base)
        return found

    scaled = followed({"lines": {"alpha": 0.25, "beta": 0.0}})
    drawn = followed({"towards_mean": {"share": 0.25}})
    for name, value in plain.items():
        expected = base[name] + (value - base[name]) / 4 if name in base else value
        torch.testing.assert_close(scaled[name], expected)
        mean = (models[0].state_dict()[name] + models[1].state_dict()[name]) / 2
        torch.testing.assert_close(drawn[name], 0.75 * value + 0.25 * mean)
