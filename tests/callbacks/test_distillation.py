"""Distillation through the merge callback, for every architecture and form of task.

What it reports is compared with divergences that loops over single examples and SciPy give.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax
from test_refining_merge import KINDS, READING, REQUESTS, Draw, make_trainer, run
from torch import Tensor

from regmean_lab.callbacks import distill as shell
from regmean_lab.callbacks.merge import MemberSource, MergeCallback
from regmean_lab.callbacks.statistics import StatisticsRequest, open_statistics
from regmean_lab.callbacks.text_streams import ExampleText, PseudoStream, own_text, text_streams, unlabelled
from regmean_lab.config.groups import ModelConfig, TokensConfig, TrainerConfig
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.weights import SafetensorsWeights
from regmean_lab.models.find import find_checkpoint
from regmean_lab.modules import TaskModule
from regmean_lab.modules.reading_together import SharedParameters, Teachers
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.pseudo_text import PseudoExample, pad
from regmean_lab.training import snapshots
from regmean_lab.zoo import Zoo

QUICK = Distill(text="own", steps=8, batch_size=4, evaluate_every=2, learning_rate=2e-3, patience=None, held_out=6)


def state(module: TaskModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.model.state_dict().items()}


def outputs(module: TaskModule, batch: dict[str, Tensor]) -> Tensor:
    """Logits of one example: of texts that are written, of each token of its target."""
    with torch.no_grad():
        if module.task.kind == "answers":
            return module._target_logits(batch)[0]  # type: ignore[operator]
        return module(batch)[0]


def divergence(module: TaskModule, source: MemberSource, settings: Distill) -> float:
    """KL(member ‖ module) on the examples that are held out, one by one."""
    member, text = source.load(), own_text(source.batches, settings)
    sums, counts = [], []
    for batch in text.held_out():
        rows = []
        for number in range(len(batch["input_ids"])):
            one = {name: value[number : number + 1] for name, value in batch.items()}
            length = int(one["attention_mask"].sum())
            one |= {name: value[:, :length] for name, value in one.items() if value.shape == one["input_ids"].shape}
            told, other = outputs(member, one).double().numpy(), outputs(module, one).double().numpy()
            if member.task.kind == "multi_label":
                assert source.annotated is not None
                p, q = expit(told)[list(source.annotated)], expit(other)[list(source.annotated)]
                rows.append([float((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum())])
                continue
            counted = one["target" if member.task.kind == "answers" else "labels"][0].numpy() != IGNORED
            each = rel_entr(softmax(told, -1), softmax(other, -1)).sum(-1)
            rows.append([float(value) for value in each[counted]])
        # A batch of tokens is a mean over tokens, and batches count by their examples.
        sums.append(np.mean([value for row in rows for value in row]) * len(rows))
        counts.append(len(rows))
    return float(sum(sums) / sum(counts))


def mean_divergence(module: TaskModule, sources: Sequence[MemberSource], settings: Distill = QUICK) -> float:
    return sum(divergence(module, source, settings) for source in sources) / len(sources)


@pytest.mark.parametrize(("suite", "kind"), KINDS, ids=["-".join(pair) for pair in KINDS])
def test_divergence_from_the_members_falls(suite: str, kind: str, draw: Draw) -> None:
    sources = draw(suite, kind)
    module, callback = run(QUICK, sources)
    simple, _ = run(Simple(), sources)
    before, after = mean_divergence(simple, sources), mean_divergence(module, sources)
    assert after < 0.97 * before
    (entry,) = [entry for entry in Zoo(sources[0].entry.path.parent).entries() if entry.name.startswith("distill-")]
    scores = entry.training["scores"]
    assert (scores["kl_of_start"], scores["kl"]) == pytest.approx((before, after), rel=1e-3)
    assert callback.notes[-1].startswith("distilled from simple: the divergence from the members on held-out text")
    assert entry.verify() == []


def test_equal_members_stay_what_they_are(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    same = [replace(source, entry=sources[0].entry, load=sources[0].load) for source in sources]
    module, _ = run(QUICK, same)
    before = sources[0].load().model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in state(module).items())


class TestFoundAgain:
    def test_whatever_the_order_of_members(self, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
        sources = draw("emotion", "bert")
        method = replace(QUICK, start="regmean", start_settings={"off_diagonal": 0.5}, coefficients=[0.25, 0.75])
        first, callback = run(method, sources)
        monkeypatch.setattr(shell, "distil", _never)
        monkeypatch.setattr("regmean_lab.callbacks.merge.merge_members", _never)
        again, found = run(replace(method, coefficients=[0.75, 0.25]), sources[::-1])
        assert all(torch.equal(value, state(first)[name]) for name, value in state(again).items())
        assert found.notes == callback.notes
        assert found.diagnostics == callback.diagnostics != []

    @pytest.mark.parametrize(
        "other",
        [
            {"text_seed": 1},
            {"steps": 9},
            {"temperature": 2.0},
            {"start": "regmean"},
            {"coefficients": [0.3, 0.7]},
            {"examples": 20},
            {"keep_layers": ["classifier"]},
        ],
        ids=str,
    )
    def test_what_makes_another_one(self, other: dict[str, Any], draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
        sources = draw("emotion", "bert")
        run(replace(QUICK, steps=1), sources)
        monkeypatch.setattr(shell, "distil", _never)
        run(replace(QUICK, steps=1), sources)
        with pytest.raises(AssertionError, match="called"):
            run(replace(QUICK, **{"steps": 1, **other}), sources)

    def test_the_start_is_mixed_in_without_training_again(self, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
        sources = draw("emotion", "bert")
        whole, _ = run(QUICK, sources)
        simple, _ = run(Simple(), sources)
        monkeypatch.setattr(shell, "distil", _never)
        module, callback = run(replace(QUICK, mix=0.25), sources)
        for name, value in state(module).items():
            if value.is_floating_point():
                expected = 0.75 * state(whole)[name].double() + 0.25 * state(simple)[name].double()
                torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        assert callback.notes[-1].endswith("; 0.25 of the start was mixed in after that was measured")


def test_it_depends_on_nothing_but_its_seed(draw: Draw, tmp_path: Path) -> None:
    sources = draw("emotion", "bert")
    first, _ = run(QUICK, sources)
    _forget(sources)
    torch.manual_seed(99)
    again, _ = run(QUICK, sources[::-1])
    assert all(torch.equal(value, state(first)[name]) for name, value in state(again).items())
    other, _ = run(replace(QUICK, text_seed=1), sources)
    assert any(not torch.equal(value, state(first)[name]) for name, value in state(other).items())


def test_a_killed_one_goes_on(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = draw("emotion", "bert")
    whole, _ = run(QUICK, sources)
    _forget(sources)
    monkeypatch.setattr(snapshots, "SECONDS", 0.0)
    read: list[int] = []

    def until(last: int) -> None:
        batch = ExampleText.batch

        def counted(self: Any, step: int) -> Any:
            if step == last:
                raise KeyboardInterrupt
            read.append(step)
            return batch(self, step)

        monkeypatch.setattr(ExampleText, "batch", counted)

    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "SECONDS", 0.0)
        original = ExampleText.batch
        until(5)
        with pytest.raises(BaseException):  # noqa: B017 - Lightning makes an exit of it
            run(QUICK, sources)
        monkeypatch.setattr(ExampleText, "batch", original)
    assert max(read) == 4
    read.clear()
    until(10**9)
    again, _ = run(QUICK, sources)
    assert min(read) >= 2
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(again).items())


@pytest.mark.parametrize("suite", ["emotion"])
def test_heads_of_their_own_stay_and_teach_the_body(suite: str, draw: Draw) -> None:
    sources = draw(suite, "bert")
    callback = MergeCallback(sources, QUICK, REQUESTS, reading=READING, own_heads=True)
    trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
    simple = MergeCallback(sources, Simple(), REQUESTS, reading=READING, own_heads=True)
    plain = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [simple])
    bodies, before, after = [], [], []
    for source in sources:
        module, reference = source.load(), source.load()
        trainer.test(module, source.batches(8, 4, 0), verbose=False)
        plain.test(reference, source.batches(8, 4, 0), verbose=False)
        own = source.load().model.state_dict()
        heads = [name for name in own if name.startswith("classifier")]
        assert heads and all(torch.equal(value, own[name]) for name, value in state(module).items() if name in heads)
        bodies.append({name: value for name, value in state(module).items() if name not in heads})
        before.append(divergence(reference, source, QUICK))
        after.append(divergence(module, source, QUICK))
    assert all(torch.equal(value, bodies[1][name]) for name, value in bodies[0].items())
    assert sum(after) < 0.95 * sum(before)


def test_a_strong_anchor_holds_the_weights_back(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    start = state(run(Simple(), sources)[0])

    def distance(method: Distill) -> float:
        moved = state(run(method, sources)[0])
        return sum(float((moved[name] - value).double().square().sum()) for name, value in start.items())

    assert distance(replace(QUICK, anchor=100.0)) < 0.5 * distance(QUICK)


@pytest.mark.parametrize("settings", [{"logits": 0.0}, {"hidden": 0.0}, {"hidden_layers": "all"}], ids=str)
def test_parts_of_the_loss(settings: dict[str, Any], draw: Draw) -> None:
    sources = draw("emotion", "bert")
    module, _ = run(replace(QUICK, **settings), sources)
    simple, _ = run(Simple(), sources)
    assert mean_divergence(module, sources) < mean_divergence(simple, sources)


def test_it_stops_early(draw: Draw) -> None:
    """A learning rate that destroys the model leaves the start, and does not go on for long."""
    sources = draw("emotion", "bert")
    wild = replace(QUICK, steps=100, learning_rate=50.0, patience=2, evaluate_every=1, warmup=0.0)
    module, callback = run(wild, sources)
    simple, _ = run(Simple(), sources)
    assert all(torch.equal(value, state(simple)[name]) for name, value in state(module).items())
    assert callback.notes[-1].endswith("in 2 steps")


def test_reduced_precision(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    callback = MergeCallback(sources, QUICK, REQUESTS, reading=READING)
    config = TrainerConfig(accelerator="cpu", progress_bar=False, precision="bf16-true")
    module = sources[0].load()
    make_trainer(config, [callback]).test(module, sources[0].batches(8, 4, 0), verbose=False)
    wide, _ = run(QUICK, sources)
    for name, value in state(wide).items():
        torch.testing.assert_close(state(module)[name].float(), value.float(), rtol=0.05, atol=0.02)


def _never(*arguments: Any, **settings: Any) -> Any:
    raise AssertionError("called, though it should have been found")


def _forget(sources: Sequence[MemberSource]) -> None:
    for entry in Zoo(sources[0].entry.path.parent).entries():
        if entry.name.startswith("distill-"):
            shutil.rmtree(entry.path)


class TestMemory:
    """However many members there are, the weights of one and the merged ones are there, beside heads that are kept."""

    def test_of_teachers(self, draw: Draw) -> None:
        sources = 2 * draw("emotion", "bert")
        loaded: list[TaskModule] = []

        def modules() -> Iterator[TaskModule]:
            for source in sources:
                assert all(held([module]) == 0 for module in loaded)
                loaded.append(source.load())
                yield loaded[-1]

        teachers = Teachers(modules(), [SafetensorsWeights(source.entry.path) for source in sources])
        whole = held([sources[0].load()])
        assert held(loaded) == 0
        for number in (2, 0, 3, 3, 1):
            teacher, own = teachers(number), sources[number].load()
            assert held(loaded) == whole
            assert all(torch.equal(value, state(own)[name]) for name, value in state(teacher).items())

    def test_of_students(self, draw: Draw) -> None:
        sources = 2 * draw("emotion", "bert")
        own = sources[0].load()
        merged = {name: value for name, value in own.model.state_dict().items() if not name.startswith("classifier")}
        heads = sum(value.numel() for name, value in state(own).items() if name.startswith("classifier"))
        shared = SharedParameters(merged)
        students = shared.put_into(source.load() for source in sources)
        body = sum(value.numel() for value in shared.values)
        assert held(students) == body + len(sources) * heads
        trained = [parameter for student in students for parameter in student.parameters() if parameter.requires_grad]
        assert {id(parameter) for parameter in trained} == {id(value) for value in shared.values}


def held(modules: Sequence[TaskModule]) -> int:
    """Numbers in the parameters of modules, those that they share counted once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


class TestOtherText:
    TOKENS = StatisticsRequest("tokens", TokensConfig(minimum_count=1), batch_size=8, seed=0, precision="32-true")

    def run(self, method: Distill, sources: Sequence[MemberSource], kind: str, cache: Path) -> Any:
        checkpoint = find_checkpoint(ModelConfig(kind, f"pico:{kind}"), cache)
        reading = replace(READING, tokenizer=checkpoint.tokenizer, max_length=24)
        callback = MergeCallback(sources, method, [*REQUESTS, self.TOKENS], reading=reading)
        module = sources[0].load()
        trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
        trainer.test(module, sources[0].batches(8, 4, 0), verbose=False)
        return module, callback

    @pytest.mark.parametrize(("suite", "kind"), KINDS, ids=["-".join(pair) for pair in KINDS])
    def test_pseudo_text_serves_as_well(self, suite: str, kind: str, draw: Draw, pico_cache: Path) -> None:
        """It lowers the divergence on the members' own text, which nobody reads."""
        sources = draw(suite, kind)
        method = replace(QUICK, text="pseudo", steps=20, evaluate_every=5)
        module, _ = self.run(method, sources, kind, pico_cache)
        simple, _ = run(Simple(), sources)
        before, after = (mean_divergence(one, sources) for one in (simple, module))
        assert after < before

    @pytest.mark.parametrize("text", ["pseudo", "file"])
    def test_taggers_are_taught_nothing_at_special_tokens_and_inside_words(
        self, text: str, draw: Draw, pico_cache: Path, tmp_path: Path
    ) -> None:
        """The mean over the beginnings of words between [CLS] and [SEP], one sentence after the other."""
        sources = draw("ner_open", "bert")
        path = tmp_path / "texts.txt"
        path.write_text("".join(f"the river of {word} rose\n" for word in ("London", "music", "Maria") * 8))
        method = replace(QUICK, text="pseudo" if text == "pseudo" else str(path), steps=1, batch_size=1, hidden=0.0)
        self.run(method, sources, "bert", pico_cache)
        simple, _ = run(Simple(), sources)
        tokenizer = find_checkpoint(ModelConfig("bert", "pico:bert"), pico_cache).tokenizer()
        if text == "pseudo":
            counts = [open_statistics(source.entry, self.TOKENS, source.data_fingerprint).counts for source in sources]
        values = []
        for number, source in enumerate(sources):
            if text == "pseudo":
                stream: Any = PseudoStream(counts[number], tokenizer, method, 24)
            else:
                reading = replace(READING, tokenizer=lambda: tokenizer, max_length=24)
                (stream,) = text_streams([None], method, reading)
            member = source.load()
            for batch in stream.held_out():
                assert batch["input_ids"][0, 0] == tokenizer.cls_token_id
                assert batch["input_ids"][0, -1] == tokenizer.sep_token_id
                tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[1:-1]
                begins = [not token.startswith("##") for token in tokens]
                counted = begins if any(begins) else [True] * len(tokens)
                told, other = (outputs(one, batch).double().numpy()[1:-1][counted] for one in (member, simple))
                values.append(float(rel_entr(softmax(told, -1), softmax(other, -1)).sum(-1).mean()))
        (entry,) = [one for one in Zoo(sources[0].entry.path.parent).entries() if one.name.startswith("distill-")]
        assert entry.training["scores"]["kl_of_start"] == pytest.approx(np.mean(values), rel=1e-4)

    def test_which_tokens_of_drawn_text_count(self, draw: Draw, pico_cache: Path) -> None:
        """The first of each word, unknown ones among them, as in text with labels; of whole texts nothing is said."""
        sources = draw("ner_open", "bert")
        self.run(replace(QUICK, text="pseudo", steps=1), sources, "bert", pico_cache)
        tokenizer = find_checkpoint(ModelConfig("bert", "pico:bert"), pico_cache).tokenizer()
        texts = (["river"], ["river", tokenizer.unk_token, "musics", "unbelievable", "of"])
        encoded = [tokenizer(words, is_split_into_words=True) for words in texts]
        rows = [PseudoExample(dict(one)) for one in encoded]
        task = sources[0].load().task
        labels = unlabelled(pad(tokenizer.pad_token_id), tokenizer, task)(rows)["labels"]
        assert tokenizer.unk_token_id in rows[1].inputs["input_ids"]
        assert rows[1].length > len(texts[1]) + 2
        for one, row, counted in zip(encoded, rows, labels.tolist(), strict=True):
            words = [None, *one.word_ids()]
            first = [word is not None and word != before for before, word in itertools.pairwise(words)]
            assert counted == [0 if is_first else IGNORED for is_first in first] + [IGNORED] * (
                len(counted) - row.length
            )
        alone = [PseudoExample(dict(tokenizer("river")))]
        alone[0].inputs["input_ids"][1:-1] = [tokenizer.convert_tokens_to_ids("##s")] * (alone[0].length - 2)
        (counted,) = unlabelled(pad(tokenizer.pad_token_id), tokenizer, task)(alone)["labels"].tolist()
        assert counted == [IGNORED, *[0] * (alone[0].length - 2), IGNORED]  # else nothing of the text would count
        other = Task("single_label", ("a", "b"), "accuracy")
        assert "labels" not in unlabelled(pad(tokenizer.pad_token_id), tokenizer, other)(rows)
        counts = open_statistics(sources[0].entry, self.TOKENS, sources[0].data_fingerprint).counts
        told = {PseudoStream(counts, tokenizer, QUICK, 24, one).fingerprint for one in (task, other, None)}
        assert len(told) == 2

    def test_each_step_has_other_sentences(self, draw: Draw, pico_cache: Path) -> None:
        sources = draw("emotion", "bert")
        self.run(replace(QUICK, text="pseudo", steps=1), sources, "bert", pico_cache)
        counts = [open_statistics(source.entry, self.TOKENS, source.data_fingerprint).counts for source in sources]
        tokenizer = find_checkpoint(ModelConfig("bert", "pico:bert"), pico_cache).tokenizer()
        stream, same, other = (
            PseudoStream(counts[0], tokenizer, replace(QUICK, text_seed=seed), 24) for seed in (0, 0, 1)
        )
        seen = [row for step in range(5) for row in rows_of([stream.batch(step)])]
        assert len(seen) == 20 and len(set(seen)) > 15
        assert rows_of([stream.batch(3)]) == rows_of([same.batch(3)]) != rows_of([other.batch(3)])
        assert len(rows_of(stream.held_out())) == QUICK.held_out
        assert not set(rows_of(stream.held_out())) & set(rows_of(other.held_out()))
        assert stream.fingerprint == same.fingerprint != PseudoStream(counts[1], tokenizer, QUICK, 24).fingerprint
        shares = {"first_shares": torch.arange(10), "overlaps": torch.arange(10)}
        changes: list[dict[str, Any]] = [{}, *({name: table.flip(0)} for name, table in shares.items())]
        related = [replace(counts[0], parts=2, **{**shares, **change}) for change in changes]
        told = {PseudoStream(pairs, tokenizer, QUICK, 24).fingerprint for pairs in related}
        assert len({*told, stream.fingerprint}) == 4

    def test_a_file_that_all_read(self, draw: Draw, tmp_path: Path, pico_cache: Path) -> None:
        sources = draw("emotion", "bert")
        path = tmp_path / "texts.txt"
        path.write_text(
            "".join(f"the river of {word} was happy and dark\n" for word in ("film", "music", "people") * 9)
        )
        method = replace(QUICK, text=str(path), hidden=0.0)
        _, callback = self.run(method, sources, "bert", pico_cache)
        assert " fell from " in callback.notes[-1]
        path.write_text(path.read_text() + "another one\n")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(shell, "distil", _never)
            with pytest.raises(AssertionError, match="called"):
                self.run(method, sources, "bert", pico_cache)


def rows_of(batches: Sequence[Any]) -> list[tuple[int, ...]]:
    """The real tokens of each text."""
    return [
        tuple(ids[mask.bool()].tolist())
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
