"""Two processes with half of the batches each, against one process with all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes

from regmean_lab.statistics import (
    FisherAccumulator,
    FisherFile,
    GradientGramAccumulator,
    GradientGramFile,
    GramAccumulator,
    GramFile,
    StatisticsError,
    TokensFile,
    WeightedGramFile,
    collect_gram,
    gather,
    rank,
    world_size,
)

FILES: dict[str, Any] = {
    "gram": GramFile,
    "fisher": FisherFile,
    "gradient_gram": GradientGramFile,
    "weighted_gram": WeightedGramFile,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have written."""
    made = tmp_path_factory.mktemp("processes")
    commands = [[sys.executable, two_processes.__file__, str(number), "2", str(made)] for number in range(2)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return made


@pytest.mark.parametrize("kind", two_processes.KINDS)
def test_shares_give_the_statistics_of_all_examples_in_every_process(kind: str, folder: Path) -> None:
    whole = two_processes.collect(kind, two_processes.batches())
    for number in range(2):
        with FILES[kind](folder / f"{kind}-{number}.safetensors") as file:
            assert (file.examples, file.batches) == (whole.examples, whole.batches) == (14, 5)
            if kind != "fisher":
                assert file.rows == whole.rows
            assert set(file.shared) == set(whole.matrices if kind.endswith("_gram") else whole.shared)
            for name in file.shared:
                exact = whole.diagonal(name) if kind == "fisher" else whole.matrix(name)
                assert float((file.read(name) - exact).norm()) <= 1e-6 * float(exact.norm())


@pytest.mark.parametrize("name", ["tokens", "alone", "twice"])
def test_shares_give_the_counts_of_all_texts_in_every_process(name: str, folder: Path) -> None:
    whole = two_processes.count((2 if name == "twice" else 1) * two_processes.batches())
    for number in range(2):
        with TokensFile(folder / f"{name}-{number}.safetensors") as file:
            assert (file.examples, file.batches) == (whole.examples, whole.batches)
            assert file.counts.tokens == whole.counts.tokens
            assert torch.equal(file.counts.counts, whole.counts.counts)
            assert torch.equal(file.counts.lengths, whole.counts.lengths)
            assert file.counts.pairs is not None
            assert whole.counts.pairs is not None
            assert torch.equal(file.counts.pairs, whole.counts.pairs)


def test_shares_give_how_pairs_of_texts_are_related_in_every_process(folder: Path) -> None:
    whole = two_processes.count(two_processes.pairs(), texts_per_example=2).counts.pair_histograms()
    assert all(int(table.sum()) > 0 for table in whole.values())
    for number in range(2):
        found = TokensFile(folder / f"related-{number}.safetensors").counts.pair_histograms()
        assert {name: table.tolist() for name, table in found.items()} == {
            name: table.tolist() for name, table in whole.items()
        }


def test_layers_share_where_they_do_in_every_process(folder: Path) -> None:
    """The rare layer has the others' input in the one process that calls it, but only some of their rows."""
    with GramFile(folder / "gram-0.safetensors") as file:
        leaders = [file.shared[layer] for layer in ("query", "key", "value", "rare", "output")]
    assert leaders == ["query", "query", "query", "rare", "output"]


def test_a_process_without_a_batch_adds_nothing(folder: Path) -> None:
    expected = collect_gram(two_processes.model(), two_processes.batches(2)[:1], layers=["query", "value"])
    for number in range(2):
        with GramFile(folder / f"few-{number}.safetensors") as file:
            assert file.rows == expected.rows
            assert file.shared == expected.shared == {"query": "query", "value": "query"}
            torch.testing.assert_close(file.matrix("value"), expected.matrix("value"))


def test_what_is_not_finite_in_one_process_is_an_error_in_every_one(folder: Path) -> None:
    messages = [(folder / f"error-{number}.txt").read_text() for number in range(2)]
    assert messages[0] == messages[1]
    assert "'output'" in messages[0]
    assert "'key'" not in messages[0]  # its inputs are finite


def test_without_a_process_group_there_is_one_process() -> None:
    assert (rank(), world_size(), gather("x")) == (0, 1, ["x"])
    batches = two_processes.batches()
    alone, together = (two_processes.collect("gram", batches, across_processes=across) for across in (False, True))
    assert alone.rows == together.rows
    for layer in alone.layers:
        assert torch.equal(alone.matrix(layer), together.matrix(layer))


def test_nothing_is_counted_after_the_sums_were_added_up() -> None:
    model, (batch, *_) = two_processes.model(), two_processes.batches()
    gram = GramAccumulator(model, ["query"])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with gram, torch.no_grad():
        with gram.batch(mask=batch["attention_mask"]):
            model(**inputs)
        gram.add_up()
        with pytest.raises(StatisticsError, match="added up"), gram.batch():
            model(**inputs)
    for accumulator in (FisherAccumulator(model), GradientGramAccumulator(model, ["query"])):
        accumulator.add(batch)
        accumulator.add_up()
        with pytest.raises(StatisticsError, match="added up"):
            accumulator.add(batch)


def test_a_stop_rule_is_not_divided() -> None:
    with pytest.raises(StatisticsError, match="stop rule"):
        two_processes.collect("gram", two_processes.batches(), tolerance=0.1, across_processes=True)


def test_a_batch_that_failed_is_not_added_up() -> None:
    model = two_processes.model()
    gram = GramAccumulator(model, ["query"])
    with gram, pytest.raises(ZeroDivisionError), gram.batch():
        raise ZeroDivisionError
    with pytest.raises(StatisticsError, match="process 0: a batch failed"):
        gram.add_up()
