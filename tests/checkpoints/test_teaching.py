"""Distillation and the choice of a merge, of folders with what their owners published, against transformers alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import merge_into, sentence_folder, tensors_of, tokenizer_of
from omegaconf import DictConfig
from safetensors.torch import load_file
from scipy.special import rel_entr, softmax
from test_checkpoint_text_methods import folders, problems, publish, sentences, two_of_a_form
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
)

from regmean_lab.checkpoints import teaching
from regmean_lab.checkpoints.heads import load_with_head
from regmean_lab.checkpoints.lora.request import AdapterRequest
from regmean_lab.checkpoints.merge_command import run
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.merging.simple import Simple
from regmean_lab.statistics import collect_gram, save_gram

__all__ = ["folders"]

QUICK = Distill(steps=40, batch_size=8, evaluate_every=10, learning_rate=1e-2, hidden=0.0, patience=None, held_out=16)
AUTO = Auto(favour=1.0, held_out=24, batch_size=8)


def publish_grams(folder: Path, seed: int) -> None:
    """Gram matrices of a classifier on sentences of its own."""
    tokenizer = tokenizer_of(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batches = [dict(tokenizer(text, return_tensors="pt")) for text in sentences(seed)]
    save_gram(folder / "statistics" / "gram.safetensors", collect_gram(model, batches), {})


def twin_of(folder: Path, twin: Path) -> Path:
    """The same checkpoint with counts of its own."""
    shutil.copytree(folder, twin, ignore=shutil.ignore_patterns("statistics"))
    publish(twin, 1)
    return twin


def divergence(merged: Any, folders: Sequence[Path]) -> float:
    """KL(member ‖ merged) on sentences of each member, by SciPy."""
    total = 0.0
    for seed, folder in enumerate(folders):
        member = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        own = tokenizer_of(folder)
        for text in sentences(seed, 20):
            tokens = own(text, return_tensors="pt")
            with torch.no_grad():
                said, other = (model(**tokens).logits[0].double().numpy() for model in (member, merged))
            total += float(rel_entr(softmax(said), softmax(other)).sum()) / 20
    return total / len(folders)


def loaded(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


class TestDistillation:
    def test_brings_the_merge_nearer_to_its_members(self, folders: list[Path], tmp_path: Path) -> None:
        output = merge_into(tmp_path / "merged", folders, QUICK)
        simple = merge_into(tmp_path / "simple", folders, Simple())
        assert divergence(loaded(output), folders) < 0.9 * divergence(loaded(simple), folders)
        record = json.loads((output / "merge.json").read_text())
        assert record["method"]["name"] == "distill"
        assert record["notes"][-1].startswith("distilled from simple: the divergence from the members on held-out text")
        assert "alone,\nwithout data" in (output / "README.md").read_text(encoding="utf-8")
        again = tensors_of(merge_into(tmp_path / "again", folders, QUICK))
        backwards = tensors_of(merge_into(tmp_path / "backwards", folders[::-1], QUICK))
        for name, value in tensors_of(output).items():
            assert torch.equal(value, again[name]) and torch.equal(value, backwards[name])

    def test_goes_on_from_another_merge(self, folders: list[Path], tmp_path: Path) -> None:
        for seed, folder in enumerate(folders):
            publish_grams(folder, seed)
        settings = {"off_diagonal": 1.0, "examples": 20}
        method = replace(QUICK, start="regmean_sequential", start_settings=settings, coefficients=[0.3, 0.7])
        output = merge_into(tmp_path / "merged", folders, method)
        record = json.loads((output / "merge.json").read_text())
        assert record["notes"][-1].startswith("distilled from regmean_sequential: ")
        assert len(record["diagnostics"]) > 5
        turned = replace(method, coefficients=[0.7, 0.3])
        backwards = tensors_of(merge_into(tmp_path / "backwards", folders[::-1], turned))
        assert all(torch.equal(value, backwards[name]) for name, value in tensors_of(output).items())

    def test_equal_checkpoints_stay_what_they_are(self, folders: list[Path], tmp_path: Path) -> None:
        twin = twin_of(folders[0], tmp_path / "twin")
        merged = tensors_of(merge_into(tmp_path / "merged", [folders[0], twin], QUICK))
        assert all(torch.equal(value, merged[name]) for name, value in tensors_of(folders[0]).items())

    def test_heads_stay_each_checkpoints_own(self, folders: list[Path], tmp_path: Path) -> None:
        output = merge_into(tmp_path / "merged", folders, QUICK, heads="keep")
        simple = merge_into(tmp_path / "simple", folders, Simple(), heads="keep")
        before, after = 0.0, 0.0
        for number, folder in enumerate(folders):
            found, reference = load_with_head(output, folder.name).eval(), load_with_head(simple, folder.name).eval()
            own: Any = loaded(folder)
            assert torch.equal(found.classifier.weight, own.classifier.weight)  # type: ignore[union-attr]
            texts = tokenizer_of(folder)(sentences(number), padding=True, return_tensors="pt")
            with torch.no_grad():
                said = own(**texts).logits.log_softmax(-1)
                for model in (reference, found):
                    other = model(**texts).logits.log_softmax(-1)
                    value = float((said.exp() * (said - other)).sum(-1).mean())
                    before, after = (before + value, after) if model is reference else (before, after + value)
        assert after < before

    @pytest.mark.parametrize("kind", ["tagger", "answers", "t5", "gpt2"])
    def test_of_other_forms(self, kind: str, tmp_path: Path, pico_cache: Path) -> None:
        model_class, members = two_of_a_form(kind, tmp_path, pico_cache)
        output = merge_into(tmp_path / "merged", members, replace(QUICK, steps=10, evaluate_every=5, held_out=8))
        note = json.loads((output / "merge.json").read_text())["notes"][-1]
        before, after = figures(note)
        assert after < before
        model_class.from_pretrained(output)

    def test_is_found_again_and_goes_on_where_it_was_killed(
        self,
        folders: list[Path],
        tmp_path: Path,
        compose_job: Callable[..., DictConfig],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        listed = ",".join(map(str, folders))
        config = compose_job(
            f"checkpoints=[{listed}]",
            "method=distill",
            "method.steps=4",
            "method.held_out=4",
            f"output={tmp_path / 'merged'}",
            f"paths.zoo_dir={tmp_path / 'zoo'}",
            "trainer.progress_bar=false",
            root="merge_checkpoints",
        )
        seen: list[Path | None] = []
        original = teaching.distil

        def watched(*arguments: Any) -> Any:
            seen.append(arguments[-1])
            return original(*arguments)

        monkeypatch.setattr(teaching, "distil", watched)
        run(config, tmp_path / "job")
        run(config, tmp_path / "job")
        (snapshots,) = seen
        assert snapshots is not None and snapshots.parent == tmp_path / "zoo" / ".training"
        assert not snapshots.exists()

    def test_what_is_wrong_is_told_before_any_work(self, folders: list[Path], tmp_path: Path) -> None:
        assert problems(folders, replace(QUICK, text=str(tmp_path / "none.txt"))) == [
            f"method.text: no such file: {tmp_path / 'none.txt'}"
        ]
        assert problems(folders, replace(QUICK, text="own"))[0].startswith("method.text: distill reads text while it ")
        assert problems(folders, QUICK, adapter=AdapterRequest(4, "full"), base=str(folders[0]))[0].startswith(
            "adapter.rank: distill writes whole models"
        )
        (folders[1] / "statistics" / "tokens.safetensors").unlink()
        assert problems(folders, QUICK) == [
            "b has no tokens statistics, which distill needs. Whoever has its data makes them: python -m regmean_lab "
            f"experiment=collect_statistics checkpoint={folders[1]} kinds=[tokens] data=FILE"
        ]


class TestChoice:
    def test_by_counts_of_tokens(self, folders: list[Path], tmp_path: Path) -> None:
        for seed, folder in enumerate(folders):
            publish_grams(folder, seed)
        output = merge_into(tmp_path / "merged", folders, AUTO)
        record = json.loads((output / "merge.json").read_text())
        choice = record["choice"]
        assert choice["by"] == "divergence"
        tried = ["simple", *["regmean"] * 4, *["regmean_sequential"] * 2]
        assert [row["method"] for row in choice["candidates"]] == tried
        card = (output / "README.md").read_text(encoding="utf-8")
        assert "## What was tried" in card and card.count("| chosen |") == 1
        simple = merge_into(tmp_path / "simple", folders, Simple())
        assert divergence(loaded(output), folders) <= 1.05 * divergence(loaded(simple), folders)

    def test_by_gram_matrices_where_there_is_nothing_else(self, folders: list[Path], tmp_path: Path) -> None:
        for seed, folder in enumerate(folders):
            publish_grams(folder, seed)
            (folder / "statistics" / "tokens.safetensors").unlink()
        output = merge_into(tmp_path / "merged", folders, AUTO)
        record = json.loads((output / "merge.json").read_text())
        assert record["choice"]["by"] == "quadratic"
        assert record["choice"]["chosen"]["method"] == "regmean"
        assert "chosen by Gram matrices, as not all checkpoints have counts of tokens" in record["notes"]

    def test_by_gram_matrices_of_whole_models_alone(
        self, folders: list[Path], tmp_path: Path, pico_cache: Path
    ) -> None:
        by_gram = replace(AUTO, criterion="quadratic", candidates=["simple"])
        adapter = {"adapter": AdapterRequest(4, "full"), "base": str(folders[0])}
        assert problems(folders, by_gram, **adapter)[0].startswith("adapter.rank: auto writes whole models")
        encoders = [sentence_folder(tmp_path / f"s{n}", pico_cache, n) for n in range(2)]
        told = "method: auto does not choose for modules of sentence-transformers; name a method"
        assert told in problems(encoders, by_gram)

    def test_among_what_is_there(self, folders: list[Path], tmp_path: Path) -> None:
        """Counts of tokens alone: the mean, weighted ones, and a fit to pseudo-text that begins with it."""
        output = merge_into(tmp_path / "merged", folders, Auto(held_out=24))
        record = json.loads((output / "merge.json").read_text())
        rows = record["choice"]["candidates"]
        assert [row["method"] for row in rows] == [*["simple"] * 3, *["regmean_sequential"] * 6]
        assert {row["settings"].get("start") for row in rows[3:]} == {"simple"}
        assert {row["settings"].get("text") for row in rows[3:]} == {"pseudo"}
        told = "not tried, as not all checkpoints have statistics for it: regmean (gram), "
        assert f"{told}regmean gram=weighted (weighted_gram)" in record["notes"]
        cost = (
            "auto tries 9 candidates, of 6 merges; 3 of them refit every layer on 3000 texts a member; each is judged"
        )
        assert any(note.startswith(cost) for note in record["notes"])
        # Each candidate is what a merge by hand is; the first one is the mean.
        fitted = RegMeanSequential(start="simple", text="pseudo", coefficients=[2 / 3, 1 / 3])
        auto = Auto(held_out=24, margin=0.0, favour=2.0, mixes=[0.0])
        best = merge_into(tmp_path / "best", folders, auto)
        chosen = json.loads((best / "merge.json").read_text())["choice"]["chosen"]
        assert chosen["method"] == "regmean_sequential"
        by_hand = merge_into(tmp_path / "by_hand", folders, replace(fitted, **chosen["settings"]))
        for name, value in tensors_of(best).items():
            torch.testing.assert_close(value, tensors_of(by_hand)[name])

    def test_of_equal_checkpoints_it_is_the_mean(self, folders: list[Path], tmp_path: Path) -> None:
        twin = twin_of(folders[0], tmp_path / "twin")
        output = merge_into(tmp_path / "merged", [folders[0], twin], Auto(held_out=8))
        merged: dict[str, Tensor] = load_file(output / "model.safetensors")
        assert all(torch.equal(value, merged[name]) for name, value in tensors_of(folders[0]).items())
        assert json.loads((output / "merge.json").read_text())["choice"]["chosen"]["settings"] == {}

    def test_without_anything_published_the_command_is_told(self, folders: list[Path]) -> None:
        for folder in folders:
            (folder / "statistics" / "tokens.safetensors").unlink()
        found = problems(folders, AUTO)
        assert [problem.partition(" statistics")[0] for problem in found] == ["a has no tokens", "b has no tokens"]
        assert all("kinds=[tokens] data=FILE; without them: Gram matrices of all " in problem for problem in found)


def figures(note: str) -> tuple[float, float]:
    """The divergences that a note tells, before and after."""
    words = note.split()
    place = words.index("from", words.index("fell"))
    return float(words[place + 1]), float(words[place + 3])
