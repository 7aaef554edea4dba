"""RegMean of folders by published loss-weighted Gram matrices, and where there are no statistics."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import save_classifier, tensors_of
from omegaconf import DictConfig
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from weighted_rows import centred, mixture, naive_weighted

from regmean_lab.checkpoints import pseudo_statistics
from regmean_lab.checkpoints.collect_command import run as collect
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import checksums, write_output
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.mats import Mats
from regmean_lab.merging.regmean import RegMean
from regmean_lab.models.headers import CheckpointError
from regmean_lab.statistics import GramFile, StatisticsError, TokensFile, WeightedGramFile
from regmean_lab.suites.pseudo_text import PseudoExamples

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]
DRAWN = random.Random(0)
TEXTS = [" ".join(DRAWN.choices(WORDS, k=DRAWN.randint(4, 9))) for _ in range(60)]
LAYER = "bert.encoder.layer.0.attention.output.dense"


@pytest.fixture
def folders(tmp_path: Path, pico_cache: Path) -> list[Path]:
    """A base and two classifiers that differ from it a little."""
    base = save_classifier(tmp_path / "base", pico_cache, 0)
    made = [tmp_path / "base"]
    for seed, name in enumerate("ab", 1):
        model = save_classifier(tmp_path / name, pico_cache, seed)
        with torch.no_grad():
            for own, first in zip(model.parameters(), base.parameters(), strict=True):
                own.copy_(first + 0.1 * own)
        model.save_pretrained(tmp_path / name)
        made.append(tmp_path / name)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return made


def measure(compose: Callable[..., DictConfig], folder: Path, kinds: str, *more: str) -> None:
    data = f"data={folder.parent / 'texts.txt'}"
    collect(compose(f"checkpoint={folder}", data, f"kinds=[{kinds}]", *more), folder.parent / f"job-{folder.name}")


def merge(folders: list[Path], method: MergeMethod, base: Path | None = None) -> tuple[dict[str, Tensor], Path]:
    prepared = prepare_merge(MergeRequest([str(path) for path in folders], method, None if base is None else str(base)))
    output = folders[0].parent / "merged"
    write_output(prepared, output, {"name": method.name}, sums=checksums(prepared))
    return tensors_of(output), output


def refused(folders: list[Path], method: MergeMethod, base: Path | None = None) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        merge(folders, method, base)
    return caught.value.problems


def assert_solved(found: Mapping[str, Tensor], folders: list[Path], matrices: list[Tensor]) -> None:
    """(Σ M/‖M‖) W = Σ M/‖M‖ Wᵢ in float64."""
    scaled = [matrix.double() / matrix.double().norm() for matrix in matrices]
    weights = [tensors_of(folder)[f"{LAYER}.weight"].double() for folder in folders]
    right = sum(matrix @ weight.T for matrix, weight in zip(scaled, weights, strict=True))
    assert isinstance(right, Tensor)
    left = (scaled[0] + scaled[1]) @ found[f"{LAYER}.weight"].double().T
    assert float((left - right).norm()) < 1e-4 * float(right.norm())
    mean = (scaled[0] + scaled[1]) @ (weights[0] + weights[1]).T / 2
    assert float((mean - right).norm()) > 1e-3 * float(right.norm())


def change(folder: Path, base: Path) -> Tensor:
    own, first = (tensors_of(path)[f"{LAYER}.weight"].double() for path in (folder, base))
    return own - first


def test_what_an_owner_publishes_is_merged_by_others(
    folders: list[Path], compose: Callable[..., DictConfig], pico_cache: Path
) -> None:
    """The file against row by row derivatives, and the merge against the closed form over both files."""
    base, *members = folders
    for folder in members:
        measure(compose, folder, "gram,weighted_gram", "allow_few_rows=true")
    files = [WeightedGramFile(folder / "statistics" / "weighted_gram.safetensors") for folder in members]
    assert files[0].form == "packed"
    model = AutoModelForSequenceClassification.from_pretrained(members[0]).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(members[0])
    examples = [dict(tokenizer(text, return_tensors="pt")) for text in TEXTS]
    weighted, _ = naive_weighted(model, examples, lambda example: centred(model(**example).logits))
    gram = GramFile(members[0] / "statistics" / "gram.safetensors").matrix(LAYER).double()
    expected = mixture(weighted[LAYER], gram, 0.01)
    torch.testing.assert_close(files[0].matrix(LAYER).double(), expected, rtol=1e-3, atol=1e-5)
    found, output = merge(members, RegMean(gram="weighted"))
    assert_solved(found, members, [file.matrix(LAYER) for file in files])
    card = (members[0] / "README.md").read_text(encoding="utf-8")
    assert "statistics/weighted_gram.safetensors" in card and "of equal weight" in card
    record = json.loads((output / "merge.json").read_text())
    assert "weighted_gram.safetensors" in json.dumps(record["checkpoints"])
    assert base.is_dir()


def test_rows_that_hardly_count_are_no_reason_to_publish(
    folders: list[Path], compose: Callable[..., DictConfig]
) -> None:
    """After the last attention only the first token of each text is read: 60 rows of some 500 count."""
    member, last = folders[1], "bert.encoder.layer.1.attention.output.dense"
    excluded = "exclude_layers=[*pooler*,classifier]"
    measure(compose, member, "gram", "minimum_rows_per_column=10", excluded, "force=true")
    with pytest.raises(StatisticsError) as caught:
        measure(compose, member, "weighted_gram", "minimum_rows_per_column=10", excluded)
    found = re.search(rf"{re.escape(last)}: (\d+) rows for 16 columns, required 160", str(caught.value))
    assert found is not None and 20 < int(found[1]) <= 60
    assert not (member / "statistics" / "weighted_gram.safetensors").exists()


def test_what_is_missing_is_told_with_the_command_and_with_what_does_without(folders: list[Path]) -> None:
    for method, kind in ((RegMean(), "gram"), (RegMean(gram="weighted"), "weighted_gram")):
        first, second = refused(folders[1:], method)
        assert first.startswith(f"a has no {kind} statistics, which regmean needs")
        assert f"kinds=[{kind}] data=FILE; without them: method.gram_from=auto and base=FOLDER_OR_NAME" in first
        assert second.startswith("b has no")
    assert all("without them" not in problem for problem in refused(folders[1:], Mats()))


def test_members_with_different_kinds_do_not_go_together(
    folders: list[Path], compose: Callable[..., DictConfig]
) -> None:
    measure(compose, folders[1], "weighted_gram", "allow_few_rows=true")
    measure(compose, folders[2], "gram", "allow_few_rows=true")
    (problem,) = refused(folders[1:], RegMean(gram="weighted"))
    assert problem.startswith("b has no weighted_gram statistics") and "kinds=[weighted_gram]" in problem
    (problem,) = refused(folders[1:], RegMean())
    assert problem.startswith("a has no gram statistics") and "kinds=[gram]" in problem


def test_estimates_stand_in_where_nothing_was_published(
    folders: list[Path], compose: Callable[..., DictConfig]
) -> None:
    base, *members = folders
    measure(compose, members[0], "gram", "allow_few_rows=true")
    found, output = merge(members, RegMean(off_diagonal=1.0, gram_from="auto"), base)
    own = change(members[1], base)
    measured = GramFile(members[0] / "statistics" / "gram.safetensors").matrix(LAYER)
    assert_solved(found, members, [measured, own.T @ own])
    note = "b: no gram statistics; estimated from what fine-tuning changed in its weights"
    record = json.loads((output / "merge.json").read_text())
    assert note in record["notes"] and not any(line.startswith("a: no gram") for line in record["notes"])
    assert note in (output / "README.md").read_text(encoding="utf-8")


def inputs_of(model: Any, examples: list[dict[str, Tensor]]) -> Tensor:
    """What a layer is fed, of one example after the other."""
    rows: list[Tensor] = []
    hook = model.get_submodule(LAYER).register_forward_pre_hook(lambda _, args: rows.append(args[0][0].detach()))
    for example in examples:
        model(**example)
    hook.remove()
    return torch.cat(rows)


def stand_ins_of(output: Path) -> list[str]:
    """By member, how its Gram matrices came about."""
    notes = json.loads((output / "merge.json").read_text())["notes"]
    return [f"{note[0]} {note.split(';')[1].split()[0]}" for note in notes if "no gram statistics" in note]


@pytest.mark.parametrize("gram", ["plain", "weighted"])
def test_counts_of_tokens_come_before_the_weights(
    gram: str, folders: list[Path], compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each member on the texts that are drawn from its counts, one by one with transformers alone."""
    monkeypatch.setattr(pseudo_statistics, "EXAMPLES", 40)
    base, *members = folders
    for folder in members:
        measure(compose, folder, "tokens")
    found, output = merge(
        members, RegMean(gram=gram, off_diagonal=1.0 if gram == "plain" else 0.9, gram_from="auto"), base
    )
    matrices = []
    for folder in members:
        model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        counts = TokensFile(folder / "statistics" / "tokens.safetensors").counts
        drawn = PseudoExamples(counts, tokenizer, 0)
        examples = [{key: torch.tensor([row]) for key, row in drawn[number].inputs.items()} for number in range(40)]
        inputs = inputs_of(model, examples)
        matrices.append(inputs.T @ inputs / len(inputs))
        if gram == "weighted":
            own, _ = naive_weighted(model, examples, lambda one, model=model: centred(model(**one).logits))
            matrices[-1] = mixture(own[LAYER], matrices[-1], 0.01)
    if gram == "weighted":
        assert_solved(found, members, matrices)
    else:
        weights = [tensors_of(folder)[f"{LAYER}.weight"].double() for folder in members]
        right = sum(matrix @ weight.T for matrix, weight in zip(matrices, weights, strict=True))
        left = (matrices[0] + matrices[1]) @ found[f"{LAYER}.weight"].double().T
        assert float((left - right).norm()) < 1e-4 * float(right.norm())
        assert not torch.allclose(matrices[0] / matrices[0].norm(), matrices[1] / matrices[1].norm(), rtol=1e-3)
    record = json.loads((output / "merge.json").read_text())
    kind = "gram" if gram == "plain" else "weighted_gram"
    for name in "ab":
        assert any(note.startswith(f"{name}: no {kind} statistics; measured on ") for note in record["notes"])
    assert "tokens.safetensors" in json.dumps(record["checkpoints"])
    assert not any("estimated" in note for note in record["notes"])


def test_of_the_statistics_that_there_are_the_first_are_taken(
    folders: list[Path], compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published matrices, then counts of tokens, then the weights: one member of each."""
    monkeypatch.setattr(pseudo_statistics, "EXAMPLES", 20)
    base, *members = folders
    shutil.copytree(members[0], members[0].parent / "c")
    members.append(members[0].parent / "c")
    measure(compose, members[0], "gram,tokens", "allow_few_rows=true")
    measure(compose, members[1], "tokens")
    _, output = merge(members, RegMean(gram_from="auto"), base)
    assert stand_ins_of(output) == ["b measured", "c estimated"]
    (members[1] / "statistics" / "tokens.safetensors").write_bytes(b"none")
    _, output = merge(members, RegMean(gram_from="auto"), base)
    assert stand_ins_of(output) == ["b estimated", "c estimated"]


def test_all_may_be_estimated(folders: list[Path]) -> None:
    base, *members = folders
    found, output = merge(members, RegMean(gram_from="estimated", off_diagonal=1.0), base)
    same, _ = merge(members, RegMean(gram_from="auto", off_diagonal=1.0), base)
    changes = [change(folder, base) for folder in members]
    grams = [own.T @ own for own in changes]
    right = sum(own @ gram for own, gram in zip(changes, grams, strict=True))
    assert isinstance(right, Tensor)
    expected = tensors_of(base)[f"{LAYER}.weight"].double() + right @ torch.linalg.pinv(grams[0] + grams[1])
    torch.testing.assert_close(found[f"{LAYER}.weight"].double(), expected, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, same[name]) for name, value in found.items())
    assert output.is_dir()


@pytest.mark.parametrize("method", [RegMean(gram_from="auto"), RegMean(followed_by=["lines"])])
def test_without_a_base_it_is_told(folders: list[Path], method: RegMean) -> None:
    what = "method regmean" if method.needs_base else "method.followed_by"
    (problem,) = refused(folders[1:], method)[:1]
    assert problem == (
        f"base: {what} needs the model that the checkpoints were trained from, and none is given; set "
        "base=FOLDER_OR_NAME"
    )
