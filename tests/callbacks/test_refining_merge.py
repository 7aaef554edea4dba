"""Methods that replace layers one after the other, through the callback, for every architecture and kind of task.

The oracle needs no order of layers: what comes after a layer does not change its inputs, so the finished model shows
the inputs that every layer had in its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regmean_lab.callbacks.merge import MemberSource, MergeCallback
from regmean_lab.callbacks.refine import TextReading
from regmean_lab.callbacks.statistics import StatisticsRequest
from regmean_lab.config.groups import GramConfig, ModelConfig, TrainerConfig
from regmean_lab.evaluation.scores import load_module
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.models.find import find_checkpoint
from regmean_lab.modules import TaskModule, module_type
from regmean_lab.suites import Suite
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.suites.emotion_text import EmotionTextSettings, EmotionTextSuite
from regmean_lab.suites.entity_suite import EntitySettings
from regmean_lab.suites.ner_open import OpenNerSuite
from regmean_lab.training.trainers import test_trainer as make_trainer
from regmean_lab.zoo import Zoo

EXAMPLES = 20
REQUESTS = [StatisticsRequest("gram", GramConfig(examples=30), batch_size=8, seed=0, precision="32-true")]
READING = TextReading(batch_size=8, seed=3, batch_tokens=60)
METHODS: list[Any] = [RegMeanSequential(examples=EXAMPLES), RegMeanPlusPlus(examples=EXAMPLES)]
KINDS = [
    *(("emotion", kind) for kind in ("bert", "roberta", "distilbert", "deberta_v2")),
    *(("emotion_text", kind) for kind in ("t5", "gpt2")),
    ("ner_open", "bert"),
]
Draw = Callable[[str, str], list[MemberSource]]


@pytest.fixture
def draw(tmp_path: Path, pico_cache: Path, write_emotions: Callable[[Path], Path]) -> Draw:
    """Makes two members of a suite and an architecture, with random weights."""

    def make(suite_name: str, kind: str) -> list[MemberSource]:
        suite, corpora = suite_of(suite_name, tmp_path, write_emotions)
        checkpoint = find_checkpoint(ModelConfig(kind, f"pico:{kind}"), pico_cache)
        tokenizer, task = checkpoint.tokenizer(), suite.task(corpora[0])
        data = CorpusDataModule(suite, tokenizer, batch_size=8, eval_batch_size=8, max_length=48, seed=0)

        def write(seed: int, folder: Path) -> dict[str, str]:
            torch.manual_seed(seed)
            module_class = module_type(task)
            model = module_class.new_model(checkpoint, task)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
            module_class(model, task).save(folder)
            tokenizer.save_pretrained(folder)
            return {}

        zoo, sources = Zoo(tmp_path / "zoo"), []
        for seed, corpus in enumerate(corpora):
            entry, _ = zoo.find_or_train({"corpus": corpus}, corpus, partial(write, seed))
            annotated = suite.annotated_labels(corpus) if task.kind == "multi_label" else None
            load = partial(load_module, entry.path, task)
            batches = partial(data.statistics_dataloader, corpus)
            sources.append(MemberSource(corpus, entry, suite.fingerprint(corpus), annotated, load, batches))
        return sources

    return make


def suite_of(name: str, folder: Path, write_emotions: Callable[[Path], Path]) -> tuple[Suite, tuple[str, str]]:
    if name == "ner_open":
        words = ("the", "river", "of", "London", "rose", "Maria", "and", "music")
        for number, corpus in enumerate(("wikigold", "btc_g")):
            for split in ("train", "dev", "test"):
                path = folder / "ner_open" / corpus / f"{split}.conll"
                path.parent.mkdir(parents=True, exist_ok=True)
                sentences = [[words[(3 * i + j + number) % len(words)] for j in range(1 + i % 6)] for i in range(24)]
                rows = ["".join(f"{word} {'B-LOC' if word == 'London' else 'O'}\n" for word in s) for s in sentences]
                path.write_text("\n".join(rows))
        return OpenNerSuite(folder, EntitySettings()), ("wikigold", "btc_g")
    write_emotions(folder)
    if name == "emotion_text":
        return EmotionTextSuite(folder, EmotionTextSettings(out_of_domain=["emoint"])), ("tec", "isear")
    return EmotionSuite(folder, EmotionSettings(out_of_domain=["emoint"])), ("tec", "isear")


def run(method: MergeMethod, sources: Sequence[MemberSource], **settings: Any) -> tuple[TaskModule, MergeCallback]:
    """A module that was tested with the merge."""
    callback = MergeCallback(sources, method, REQUESTS, reading=READING, **settings)
    module = sources[0].load()
    trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
    trainer.test(module, sources[0].batches(8, 4, 0), verbose=False)
    return module, callback


def inputs(module: TaskModule, source: MemberSource) -> dict[str, Tensor]:
    """What each linear layer is fed, by its first call for each example; alone in their batches, none are padded."""
    rows: dict[str, list[Tensor]] = {}
    fed: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Tensor]) -> None:
            fed.setdefault(name, args[0].flatten(0, -2))

        return hook

    names = [layer.name for layer in layout_of(module.model).linear.values()]
    handles = [module.model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    with torch.no_grad():
        for batch in source.batches(EXAMPLES, 1, READING.seed):
            fed.clear()
            module.gram_pass(batch)
            for name, value in fed.items():
                rows.setdefault(name, []).append(value.double())
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in rows.items()}


@dataclass
class Linear:
    """A linear layer's weight as [in, out] and its bias, float64."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, module: TaskModule, name: str) -> Linear:
        layer: Any = module.model.get_submodule(name)
        weight = layer.weight.detach().double()
        bias = None if layer.bias is None else layer.bias.detach().double()
        return cls(weight if type(layer).__name__ == "Conv1D" else weight.T, bias)

    def __call__(self, rows: Tensor) -> Tensor:
        return rows @ self.weight + (0 if self.bias is None else self.bias)


def ridge(given: Sequence[Tensor], wanted: Sequence[Tensor], start: Linear) -> Linear:
    """Least squares with stacked rows: those of the texts, and those that hold the weight back."""
    width = len(start.weight)
    strength = 0.1 * float(torch.stack([(rows**2).mean(0) for rows in given]).sum(0).mean())
    ones = [] if start.bias is None else [1]
    left = [torch.cat([rows, *(rows.new_ones(len(rows), 1) for _ in ones)], 1) / len(rows) ** 0.5 for rows in given]
    right = [rows / len(rows) ** 0.5 for rows in wanted]
    left.append(torch.eye(width, width + len(ones), dtype=torch.float64) * strength**0.5)
    right.append(start.weight * strength**0.5)
    solution = torch.linalg.lstsq(torch.cat(left), torch.cat(right), driver="gelsd").solution
    return Linear(solution[:width], solution[width] if ones else None)


def regression_mean(given: Sequence[Tensor], members: Sequence[Linear]) -> Tensor:
    """Of features that no text shows, the mean."""
    grams = [rows.T @ rows / len(rows) for rows in given]
    grams = [0.9 * gram + 0.1 * gram.diagonal().diag() for gram in grams]
    mean = torch.stack([member.weight for member in members]).mean(0)
    right = [gram @ (member.weight - mean) for gram, member in zip(grams, members, strict=True)]
    return mean + torch.linalg.pinv(torch.stack(grams).sum(0), hermitian=True) @ torch.stack(right).sum(0)


@pytest.mark.parametrize(("suite", "kind"), KINDS, ids=["-".join(pair) for pair in KINDS])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_layer_is_what_its_own_inputs_say(method: Any, suite: str, kind: str, draw: Draw) -> None:
    sources = draw(suite, kind)
    module, callback = run(method, sources)
    start, _ = run(RegMean(), sources)
    members = [source.load() for source in sources]
    given = [inputs(module, source) for source in sources]
    own = [inputs(member, source) for member, source in zip(members, sources, strict=True)]
    outputs = layout_of(module.model, len(module.task.labels) if suite == "emotion" else None).label_outputs
    layers = [layer.name for layer in layout_of(module.model).linear.values()]
    assert sorted(row.layer for row in callback.diagnostics) == sorted(layers)
    assert set(given[0]) == set(layers)
    changed = 0
    for name in layers:
        found, first = Linear.of(module, name), Linear.of(start, name)
        theirs = [Linear.of(member, name) for member in members]
        # Rows of a label output are those of the members that annotate the label; these annotate all four or none.
        for number in range(found.weight.shape[1]) if f"{name}.weight" in outputs else [slice(None)]:
            chosen = [0, 1]
            if isinstance(number, int):
                chosen = [i for i, source in enumerate(sources) if source.annotated[number]] or chosen  # type: ignore[index]
            rows = [given[i][name] for i in chosen]
            if isinstance(method, RegMeanPlusPlus):
                expected = Linear(regression_mean(rows, [theirs[i] for i in chosen])[:, number], None)
            else:
                wanted = [theirs[i](own[i][name]) for i in chosen]
                if isinstance(number, int):
                    wanted, before = [part[:, [number]] for part in wanted], first.weight[:, [number]]
                    expected = ridge(rows, wanted, Linear(before, first.bias))
                    expected = Linear(expected.weight[:, 0], None if expected.bias is None else expected.bias[0])
                else:
                    expected = ridge(rows, wanted, first)
            torch.testing.assert_close(found.weight[:, number], expected.weight, rtol=2e-3, atol=2e-3)
            if expected.bias is not None:
                assert found.bias is not None
                torch.testing.assert_close(found.bias[number], expected.bias, rtol=2e-3, atol=2e-3)
        changed += float((found.weight - first.weight).abs().max()) > 0.02
    assert changed > len(layers) // 2  # RegMean does not pass


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_heads_of_their_own_stay(method: Any, draw: Draw) -> None:
    sources = draw("emotion", "bert")
    module, callback = run(method, sources, own_heads=True)
    assert "classifier" not in [row.layer for row in callback.diagnostics]
    other = sources[1].load()
    trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
    trainer.test(other, sources[1].batches(8, 4, 0), verbose=False)
    for tested, source in ((module, sources[0]), (other, sources[1])):
        for name, value in tested.model.state_dict().items():
            if name.startswith("classifier"):
                assert torch.equal(value, source.load().model.state_dict()[name])
            else:
                assert torch.equal(value, module.model.state_dict()[name])


def test_the_examples_read_are_those_of_the_seed(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    asked: list[tuple[Any, ...]] = []

    def watched(source: MemberSource) -> MemberSource:
        def batches(*args: Any, **settings: Any) -> Any:
            asked.append((*args, settings))
            return source.batches(*args, **settings)

        return replace(source, batches=batches)

    run(RegMeanPlusPlus(examples=5), [watched(source) for source in sources])
    tested_on = (8, 4, 0, {})
    assert asked == [tested_on, *[(5, 8, 3, {"batch_tokens": 60})] * 2]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_reduced_precision(method: Any, draw: Draw) -> None:
    """The forward pass is narrow, all else as wide as it was.

    Logits are compared: weights are free in directions in which the few examples hardly vary, and differ there by more
    than rounding does.
    """
    sources = draw("emotion", "bert")
    results, logits = {}, {}
    for precision in ("32-true", "bf16-mixed"):
        callback = MergeCallback(sources, method, REQUESTS, reading=READING)
        trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False, precision=precision), [callback])
        module = sources[0].load()
        trainer.test(module, sources[0].batches(8, 4, 0), verbose=False)
        results[precision] = module.model.state_dict()
        with torch.no_grad():
            logits[precision] = torch.cat([module(batch) for batch in sources[0].batches(8, 4, 0)])
    assert float((logits["bf16-mixed"] - logits["32-true"]).abs().max()) < 0.2 * float(logits["32-true"].std())
    different = 0
    for name, value in results["32-true"].items():
        narrow = results["bf16-mixed"][name]
        assert narrow.dtype == value.dtype
        different += not torch.equal(narrow, value)
    assert different > 5
