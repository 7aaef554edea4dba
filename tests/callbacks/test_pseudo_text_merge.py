"""Methods that read text, through the callback, on pseudo-text or a file: whatever the model, nobody's own text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_refining_merge import KINDS, REQUESTS, Draw, draw, suite_of
from torch import Tensor

from regmean_lab.callbacks.merge import MemberSource, MergeCallback
from regmean_lab.callbacks.refine import TextReading, member_texts
from regmean_lab.callbacks.requests import published_path
from regmean_lab.callbacks.statistics import StatisticsRequest
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import WrittenAnswers
from regmean_lab.statistics import IGNORED, StatisticsError, TokensConfig, TokensFile, Vocabulary
from regmean_lab.suites.pseudo_text import pseudo_loader
from regmean_lab.training.trainers import test_trainer as make_trainer

__all__ = ["draw", "suite_of"]

TOKENS = StatisticsRequest("tokens", TokensConfig(minimum_count=2), batch_size=8, seed=0, precision="32-true")
PRIVATE = replace(TOKENS, settings=TokensConfig(minimum_count=2, epsilon=50.0, tokens_per_text=4))
METHODS: list[Any] = [
    RegMeanSequential(examples=20, text="pseudo", start="simple"),
    RegMeanPlusPlus(examples=20, text="pseudo"),
]


def reading(source: MemberSource, **settings: Any) -> TextReading:
    tokenizer: Any = source.batches(8, 4, 0).collate_fn
    return TextReading(batch_tokens=200, tokenizer=lambda: tokenizer.tokenizer, max_length=48, **settings)


def run(method: MergeMethod, sources: Sequence[MemberSource]) -> tuple[TaskModule, MergeCallback]:
    callback = MergeCallback(sources, method, [*REQUESTS, TOKENS], reading=reading(sources[0]))
    module = sources[0].load()
    trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
    trainer.test(module, sources[0].batches(8, 4, 0), verbose=False)
    return module, callback


def counts_of(source: MemberSource) -> Any:
    (path,) = [path for path in source.entry.statistics_files() if path.name.startswith("tokens-")]
    return TokensFile(path).counts


@pytest.mark.parametrize(("suite", "kind"), KINDS, ids=["-".join(pair) for pair in KINDS])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_model_is_merged_and_no_training_text_read(method: Any, suite: str, kind: str, draw: Draw) -> None:
    asked: list[tuple[Any, ...]] = []

    def watched(source: MemberSource) -> MemberSource:
        def batches(*args: Any, **settings: Any) -> Any:
            asked.append(args)
            return source.batches(*args, **settings)

        return replace(source, batches=batches)

    sources = draw(suite, kind)
    module, callback = run(method, [watched(source) for source in sources])
    collected = [args for args in asked if args != (8, 4, 0)]
    assert collected == [(None, 8, 0)] * 2  # the pass that counts tokens, of each member
    assert len(callback.diagnostics) > 5
    assert len([note for note in callback.notes if "pseudo-text of so few" in note]) == 2
    state = module.model.state_dict()
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    again, _ = run(method, sources)
    other, _ = run(replace(method, text_seed=1), sources)
    changed = [not torch.equal(value, other.model.state_dict()[name]) for name, value in state.items()]
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in state.items())
    assert sum(changed) > 5


def batches_of(sources: Sequence[MemberSource], **settings: Any) -> list[list[dict[str, Tensor]]]:
    method = RegMeanPlusPlus(examples=20, text="pseudo")
    counts = [counts_of(source) for source in sources]
    return [
        list(text.batches) for text in member_texts(sources, method, reading(sources[0]), torch.device("cpu"), counts)
    ]


def test_a_member_reads_what_is_drawn_from_its_own_counts(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    run(METHODS[1], sources)
    for source, batches in zip(sources, batches_of(sources), strict=True):
        tokenizer: Any = source.batches(8, 4, 0).collate_fn
        counts = counts_of(source)
        drawn = pseudo_loader(counts, tokenizer.tokenizer, seed=0, examples=20, batch_tokens=200, max_length=48)
        for one, two in zip(batches, drawn, strict=True):
            assert torch.equal(one["input_ids"], two["input_ids"])
        real = torch.cat([batch["input_ids"][batch["attention_mask"].bool()] for batch in batches])
        known = set(tokenizer.tokenizer.convert_tokens_to_ids(list(counts.tokens)))
        assert set(real.tolist()) <= known | set(tokenizer.tokenizer.all_special_ids)
    first, second = (counts_of(source).counts for source in sources)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_answers_are_what_the_member_writes(kind: str, draw: Draw) -> None:
    sources = draw("emotion_text", kind)
    run(METHODS[1], sources)
    for source, batches in zip(sources, batches_of(sources), strict=True):
        module: Any = source.load()
        for batch in batches:
            written = module._write({**batch, "target": batch["target"].clone()}, batch["target"].shape[1])
            real = batch["target"] != IGNORED
            assert torch.equal(batch["target"][real], written[real])
            assert real[:, 0].all()
        (_, answered) = module.gram_batches(batches[0], WrittenAnswers(4))
        assert torch.equal(answered["target"], batches[0]["target"])


def test_a_file_of_texts_is_read_by_every_member_and_told_by_its_content(draw: Draw, tmp_path: Path) -> None:
    sources = draw("emotion", "bert")
    texts = tmp_path / "texts.txt"
    texts.write_text("the river rose\nmusic and the sun\n\nthe river rose and fell again\n" * 8, encoding="utf-8")
    method = RegMeanPlusPlus(examples=10, text=str(texts))
    found = list(member_texts(sources, method, reading(sources[0]), torch.device("cpu")))
    first, second = ([batch["input_ids"] for batch in text.batches] for text in found)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert sum(len(ids) for ids in first) <= 10
    run(method, sources)


def test_counts_of_another_tokenizer_name_both(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    run(METHODS[1], sources)
    others = Vocabulary(("x", "Ġa", "Ġb"), frozenset({0}), frozenset({0}), "BPE").describe()
    counts = [replace(counts_of(source), vocabulary=others, tokens=("x", "Ġa", "Ġb")) for source in sources]
    small = [replace(own, counts=own.counts[:, :3]) for own in counts]
    texts = member_texts(sources, METHODS[1], reading(sources[0]), torch.device("cpu"), small)
    with pytest.raises(
        StatisticsError, match=r"another tokenizer \(BPE, 2 tokens, digest .*than the model's \(WordPiece"
    ):
        next(texts)


def test_published_counts_without_a_guarantee_are_no_private_ones(draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
    sources = draw("emotion", "bert")
    run(METHODS[0], sources)
    published = [published_path(source.entry.path, "tokens") for source in sources]
    for source, path in zip(sources, published, strict=True):
        (own,) = [one for one in source.entry.statistics_files() if one.name.startswith("tokens-")]
        path.parent.mkdir(exist_ok=True)
        own.rename(path)
    module, callback = (
        sources[0].load(),
        MergeCallback(sources, METHODS[0], [*REQUESTS, PRIVATE], reading=reading(sources[0])),
    )
    trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
    trainer.test(module, sources[0].batches(8, 4, 0), verbose=False)
    for source, path in zip(sources, published, strict=True):
        read = PRIVATE.find(source.entry, source.data_fingerprint)
        assert read is not None and read != path
        assert TokensFile(read).privacy["epsilon"] == 50 and TokensFile(path).privacy == {}
        assert (
            f"{path} has no guarantee of differential privacy; asked for: epsilon=50, delta=0; measured" in caplog.text
        )
        assert TOKENS.find(source.entry, source.data_fingerprint) == path
