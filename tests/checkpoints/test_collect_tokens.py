"""``collect kinds=[tokens]``: counts of texts in files, what the card says of them, and what is never done silently."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from regmean_lab.callbacks.requests import StatisticsRequest
from regmean_lab.checkpoints.collect_command import check, run
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.statistics import StatisticsError, TokensConfig, TokensFile
from regmean_lab.statistics.kinds.tokens import save_tokens
from regmean_lab.statistics.token_counter import TokenStatistics
from regmean_lab.statistics.token_counts import TokenCounts
from regmean_lab.statistics.vocabulary import Vocabulary
from regmean_lab.suites.pseudo_text import vocabulary_of
from regmean_lab.zoo import ZooEntry

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]


def sentences(count: int = 60, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) for _ in range(count)] + ["zebra"]


@pytest.fixture
def folder(tmp_path: Path, pico_cache: Path) -> Path:
    with quiet_transformers():
        torch.manual_seed(0)
        source = pico_folder("bert", pico_cache)
        model = AutoModelForSequenceClassification.from_pretrained(
            source, id2label={0: "neg", 1: "pos"}, label2id={"neg": 0, "pos": 1}
        )
        model.save_pretrained(tmp_path / "mine")
        AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences()), encoding="utf-8")
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough of them for noise."""
    path = tmp_path / "many.txt"
    path.write_text("\n".join(sentences(400)), encoding="utf-8")
    return path


def counted(folder: Path, minimum: int = 5, chosen: Callable[[str], bool] = lambda text: True) -> dict[str, int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer.tokenize(text) for text in sentences() if chosen(text)]
    special = set(tokenizer.all_special_tokens)
    in_texts = Counter(token for row in {*map(tuple, rows)} for token in {*row})
    times = Counter(token for row in rows for token in row)
    return {token: times[token] for token, count in in_texts.items() if count >= minimum and token not in special}


def told(file: TokensFile, row: int = 0) -> dict[str, int]:
    return {token: n for token, n in zip(file.counts.tokens, file.counts.counts[row].tolist(), strict=True) if n}


def test_counts_beside_the_model_and_what_the_card_says(
    folder: Path, texts: Path, compose: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose(f"checkpoint={folder}", f"data={texts}", "kinds=[tokens]")
    run(config, tmp_path / "job")
    file = TokensFile(folder / "statistics" / "tokens.safetensors")
    assert told(file) == counted(folder)
    assert file.counts.vocabulary == vocabulary_of(AutoTokenizer.from_pretrained(folder)).describe()
    assert (file.examples, file.privacy) == (61, {})
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{len(file.counts.tokens)} tokens | whole numbers | 61 | – |" in card
    assert "of fewer than 5 different texts is not told; order and combinations of words are not." in card
    assert "method=regmean_sequential method.start=simple method.text=pseudo" in card
    assert "There is no guarantee in the sense of differential privacy" in card
    assert "zebra" not in card
    run(config, tmp_path / "again")
    assert "tokens: found" in capsys.readouterr().out


def test_copies_of_a_text_tell_nothing_and_files_that_told_are_replaced(
    folder: Path, texts: Path, compose: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts.write_text(texts.read_text(encoding="utf-8") + 9 * "\nzebra secret", encoding="utf-8")
    config = compose(f"checkpoint={folder}", f"data={texts}", "kinds=[tokens]")
    run(config, tmp_path / "job")
    path = folder / "statistics" / "tokens.safetensors"
    before = path.read_bytes()
    assert told(TokensFile(path)) == counted(folder)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    del metadata["thresholds"]  # as version 0.2.0 wrote it
    save_file(load_file(path), path, metadata=metadata)
    run(config, tmp_path / "again")
    assert f"{path} may tell words of a single text that is repeated, and is replaced" in caplog.text
    assert told(TokensFile(path)) == counted(folder) and len(path.read_bytes()) == len(before)


def test_counts_of_pairs_that_do_not_tell_how_they_are_related_are_replaced(
    folder: Path, compose: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"a": text, "b": " ".join(reversed(text.split()[:3]))} for text in sentences(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = compose(f"checkpoint={folder}", f"data={tmp_path / 'pairs.jsonl'}", "text=[a,b]", "kinds=[tokens]")
    run(config, tmp_path / "job")
    path = folder / "statistics" / "tokens.safetensors"
    counts = TokensFile(path).counts
    assert counts.overlaps is not None and counts.overlaps.tolist() == [0] * 9 + [100]  # "zebra" is alone in its tenth
    assert "each tenth of at least 5 different pairs" in (folder / "README.md").read_text(encoding="utf-8")
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    kept = {name: table for name, table in load_file(path).items() if name not in ("first_shares", "overlaps")}
    metadata["shared"] = json.dumps({name: name for name in kept})
    save_file(kept, path, metadata=metadata)  # as version 0.2.0 wrote it
    run(config, tmp_path / "again")
    assert f"{path} does not tell how the two texts of a pair are related, and is replaced" in caplog.text
    assert TokensFile(path).counts.pair_histograms().keys() == {"first_shares", "overlaps"}


def test_counts_by_the_label_that_the_model_gives(
    folder: Path, texts: Path, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    run(
        compose(f"checkpoint={folder}", f"data={texts}", "kinds=[tokens]", "statistics.tokens.by_label=true"),
        tmp_path / "job",
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def label(text: str) -> int:
        with torch.no_grad():
            return int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())

    file = TokensFile(folder / "statistics" / "tokens.safetensors")
    for number in (0, 1):
        assert told(file, number) == counted(folder, chosen=lambda text, wanted=number: label(text) == wanted)


def private(folder: Path, texts: Path, *more: str) -> list[str]:
    return [
        f"checkpoint={folder}",
        f"data={texts}",
        "kinds=[tokens]",
        "statistics.tokens.epsilon=10",
        "statistics.tokens.tokens_per_text=6",
        *more,
    ]


def test_a_private_file_tells_its_guarantee_and_nothing_else_of_the_data(
    folder: Path, many: Path, compose: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(compose(*private(folder, many, "statistics.tokens.delta=1e-5")), tmp_path / "job")
    file = TokensFile(folder / "statistics" / "tokens.safetensors")
    assert (file.privacy["epsilon"], file.privacy["delta"]) == (10, 1e-5)
    assert (file.metadata["data_fingerprint"], file.metadata["settings"]["data_fingerprint"]) == ("", "")
    assert (file.batches, file.examples) == (0, int(file.counts.lengths[:, 2].sum()))
    assert "has spent its epsilon" in caplog.text
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Counts of tokens are (10, 1e-05)-differentially private" in card
    assert "6 distinct tokens count, once each; discrete Gaussian noise" in card
    assert "(ε 9), discrete Laplace noise on lengths (ε 1)" in card
    assert "A second file from the same texts adds its ε to this one's." in card
    assert "Differential privacy is that of `tokens.safetensors` alone" in card


def test_a_private_file_is_found_and_never_made_again_silently(
    folder: Path, many: Path, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    path = folder / "statistics" / "tokens.safetensors"
    run(compose(*private(folder, many)), tmp_path / "job")
    before = path.read_bytes()
    many.write_text("\n".join(sentences(400, seed=1)), encoding="utf-8")  # the file does not tell of which texts it is
    run(compose(*private(folder, many)), tmp_path / "again")
    assert path.read_bytes() == before
    for other in ("statistics.tokens.epsilon=11", "statistics.tokens.epsilon=null"):
        with pytest.raises(StatisticsError, match=r"is differentially private \(epsilon 10\)(.|\n)*force=true"):
            run(compose(*private(folder, many, other)), tmp_path / "other")
    assert path.read_bytes() == before
    run(compose(*private(folder, many, "force=true")), tmp_path / "forced")
    assert path.read_bytes() != before


def test_two_files_from_the_same_texts_have_other_noise(
    folder: Path, many: Path, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    found = []
    for name in "ab":
        run(compose(*private(folder, many, f"output={tmp_path / name}")), tmp_path / "job")
        found.append(told(TokensFile(tmp_path / name / "statistics" / "tokens.safetensors")))
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["statistics.tokens.epsilon=0"], "statistics.tokens.epsilon: expected a number of at least 0.001, got 0.0"),
        (
            ["statistics.tokens.epsilon=1", "statistics.tokens.delta=2"],
            "statistics.tokens.delta: expected a number between 0 and 1, or null, got 2.0",
        ),
        (
            ["statistics.tokens.minimum_count=1"],
            "statistics.tokens.minimum_count: at 1 every word of every text is told; expected at least 2, or, where "
            "the data may be public, allow_few_rows=true",
        ),
        (
            ["statistics.tokens.by_label=true", "task=token_classification"],
            "statistics.tokens.by_label: is for models that give each text one label; expected false",
        ),
        (
            ["statistics.tokens.by_label=true", "task=encoder"],
            "statistics.tokens.by_label: is for models that give each text one label; expected false",
        ),
    ],
)
def test_settings_are_refused_before_any_work(
    overrides: list[str], problem: str, folder: Path, texts: Path, compose: Callable[..., DictConfig]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(compose(f"checkpoint={folder}", f"data={texts}", "kinds=[tokens]", *overrides))
    assert caught.value.problems == [problem]


def test_too_few_texts_share_anything(folder: Path, tmp_path: Path, compose: Callable[..., DictConfig]) -> None:
    (tmp_path / "few.txt").write_text("the river was happy\nthe sun was angry\n")
    with pytest.raises(StatisticsError, match="no token occurs in at least 5 different texts: count more texts"):
        run(compose(f"checkpoint={folder}", f"data={tmp_path / 'few.txt'}", "kinds=[tokens]"), tmp_path / "job")
    assert not (folder / "statistics").exists()


@pytest.mark.parametrize("settings", [{}, {"minimum_count": 9}, {"by_label": True}, {"pairs": True}])
def test_published_counts_serve_a_job_whatever_its_settings(
    settings: dict[str, Any], folder: Path, texts: Path, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    run(compose(f"checkpoint={folder}", f"data={texts}", "kinds=[tokens]"), tmp_path / "job")
    request = StatisticsRequest("tokens", TokensConfig(**settings), 8, 0, "32-true")
    path = folder / "statistics" / "tokens.safetensors"
    assert request.find(ZooEntry(folder), "d") == path
    path.write_bytes(b"no statistics")
    assert request.find(ZooEntry(folder), "d") is None
    assert request.refusal(ZooEntry(folder)) is None


@pytest.mark.parametrize(
    ("has", "asked", "serves"),
    [
        (None, (3.0, None), False),
        (None, (None, None), True),
        ((3.0, 0.0), (None, None), True),
        ((3.0, 0.0), (3.0, None), True),
        ((3.0, 0.0), (8.0, 1e-6), True),
        ((3.0, 0.0), (2.9, None), False),
        ((3.0, 1e-6), (3.0, 1e-6), True),
        ((3.0, 1e-5), (3.0, 1e-6), False),
        ((3.0, 1e-6), (8.0, None), False),
        (("3", 0.0), (8.0, None), False),
        ((True, 0.0), (8.0, None), False),
    ],
    ids=str,
)
def test_a_guarantee_that_is_asked_for_is_that_of_the_file(
    has: Any, asked: tuple[Any, Any], serves: bool, folder: Path
) -> None:
    """Less ε and less δ promise more. A file of an earlier version, or made by hand, may state none."""
    counts = TokenCounts(
        ("river",),
        torch.tensor([[9]]),
        torch.tensor([[1, 2, 9]]),
        Vocabulary(("river",), frozenset(), frozenset()).describe(),
    )
    privacy = {} if has is None else {"epsilon": has[0], "delta": has[1], "neighbours": "one text"}
    path = folder / "statistics" / "tokens.safetensors"
    path.parent.mkdir()
    save_tokens(path, TokenStatistics(counts, 9, 1, privacy), {"settings": {}, "data_fingerprint": ""})
    request = StatisticsRequest("tokens", TokensConfig(epsilon=asked[0], delta=asked[1]), 8, 0, "32-true")
    assert (request.find(ZooEntry(folder), "d") == path) == request.is_served_by(path) == serves
    told = request.refusal(ZooEntry(folder))
    if serves:
        assert told is None
    else:
        assert told is not None and told.startswith(f"{path} has ")
        assert told.endswith(f"; asked for: epsilon={asked[0]:g}, delta={asked[1] or 0:g}")
        known = has is not None and isinstance(has[0], float)
        assert (f"epsilon={has[0]:g}, delta={has[1]:g};" if known else "no guarantee of differential privacy") in told
    assert replace(request, published=False).refusal(ZooEntry(folder)) is None


def test_taggers_and_bare_encoders_have_counts_too(
    texts: Path, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    run(compose("checkpoint=pico:bert", "task=encoder", f"data={texts}", "kinds=[tokens]"), tmp_path / "encoder")
    run(compose("checkpoint=pico:gpt2", f"data={texts}", "kinds=[tokens]"), tmp_path / "decoder")
    for name in ("encoder", "decoder"):
        assert TokensFile(tmp_path / name / "statistics" / "tokens.safetensors").counts.tokens


@pytest.mark.parametrize("guarantee", [(), ("statistics.tokens.epsilon=8",)], ids=["exact", "private"])
def test_no_single_text_says_how_many_texts_an_example_has(
    folder: Path, compose: Callable[..., DictConfig], tmp_path: Path, guarantee: tuple[str, ...]
) -> None:
    """The columns do: not the longest text with a separator in it, nor the longest pair without a second text."""
    long = " ".join(sentences()[:4])
    (tmp_path / "one.txt").write_text("\n".join([*sentences(400), f"{long} [SEP] {long}"]), encoding="utf-8")
    rows = [{"a": text, "b": "the river"} for text in sentences(400)] + [{"a": f"{long} {long}", "b": ""}]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name, chosen, expected in (("one.txt", (), 1), ("two.jsonl", ("text=[a,b]",), 2)):
        output = f"output={tmp_path / name.partition('.')[0]}"
        run(
            compose(
                *(f"checkpoint={folder}", f"data={tmp_path / name}", *chosen),
                *("kinds=[tokens]", output, "card=false", *guarantee),
            ),
            tmp_path / "job",
        )
        file = TokensFile(tmp_path / name.partition(".")[0] / "statistics" / "tokens.safetensors")
        assert file.counts.parts == expected
        overlaps = file.counts.overlaps
        assert overlaps is None if expected == 1 else int(overlaps.sum()) > 0


def test_another_tokenizer_or_configuration_is_counted_anew(
    folder: Path, texts: Path, compose: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose(f"checkpoint={folder}", f"data={texts}", "kinds=[tokens]")
    run(config, tmp_path / "job")
    model, tokenizer = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer.json"))
    renamed = {**model, "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    lower = {"type": "Lowercase"} if tokenizer["normalizer"] is None else None
    for name, content, found in (
        ("config.json", renamed, True),
        ("config.json", {**renamed, "hidden_act": "relu"}, False),
        ("tokenizer.json", {**tokenizer, "normalizer": lower}, False),
    ):
        (folder / name).write_text(json.dumps(content))
        capsys.readouterr()
        run(config, tmp_path / "job")
        assert ("tokens: found" in capsys.readouterr().out) is found, (name, found)
