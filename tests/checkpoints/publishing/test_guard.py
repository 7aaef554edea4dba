from __future__ import annotations

import pytest
import torch

from regmean_lab.checkpoints.publishing.guard import Shortage, distinct_share, most_rows, refuse, shortages
from regmean_lab.statistics import KINDS, GramStatistics, StatisticsError
from regmean_lab.suites.base import Example
from regmean_lab.suites.conll import TokenExample


def test_layers_with_too_few_rows_are_found() -> None:
    rows, widths = {"a": 199, "b": 200, "c": 500, "d": 20}, {"a": 100, "b": 100, "c": 251, "d": 5}
    assert shortages(rows, widths, 2.0) == [Shortage("a", 199, 100), Shortage("c", 500, 251)]
    assert shortages(rows, widths, 0) == []


def test_texts_that_repeat_others_count_once() -> None:
    """A matrix of 20 texts that are there 20 times has the rank of 20 texts."""
    examples = [Example(f"text {number % 20}", number % 2) for number in range(400)]
    assert distinct_share(examples) == 20 / 400
    assert distinct_share([TokenExample(("a", "b"), ("O", "O")), TokenExample(("a", "b"), ("O", "B-X"))]) == 0.5
    assert distinct_share([Example("one", 0, "a"), Example("one", 0, "b")]) == distinct_share([]) == 1
    rows, widths = {"a": 4000, "b": 20000}, {"a": 200, "b": 200}
    found = shortages(rows, widths, 2.0, 20 / 400)
    assert found == [Shortage("a", 200, 200, 0.05)]
    with pytest.raises(StatisticsError, match=r"\(5\.0% of the texts are different, and only their rows count\)"):
        refuse(found, 2.0, before=True, kind=KINDS["gram"])


def test_the_reason_holds_for_gram_matrices() -> None:
    """Of fewer rows than columns the range tells an input from another vector; of more rows it tells nothing."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    stranger = torch.randn(20, generator=generator, dtype=torch.float64)
    for count, tells in ((15, True), (40, False)):
        seen = rows[:count]
        gram = seen.T @ seen / count
        outside = torch.eye(20, dtype=torch.float64) - gram @ torch.linalg.pinv(gram, hermitian=True)
        assert float((outside @ seen[3]).norm()) < 1e-8
        assert (float((outside @ stranger).norm()) > 0.5) == tells


def test_the_reason_holds_for_fisher_information() -> None:
    """The Fisher information of a weight [out, in] is the mean of outer products of squared gradients and inputs."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    gradients = torch.randn(60, 30, generator=generator, dtype=torch.float64)
    stranger = torch.randn(20, generator=generator, dtype=torch.float64)
    for count, tells in ((15, True), (40, False)):
        examples = zip(rows[:count], gradients[:count], strict=True)
        fisher = torch.stack([torch.outer(gradient, row).square() for row, gradient in examples]).mean(0)
        outside = torch.eye(20, dtype=torch.float64) - torch.linalg.pinv(fisher) @ fisher
        assert float((outside @ rows[3].square()).norm()) < 1e-6
        assert (float((outside @ stranger.square()).norm()) > 0.3) == tells


def test_the_message_names_layers_rows_widths_and_remedies() -> None:
    found = [Shortage(f"layer{number}", 10 + number, 100) for number in range(12)]
    with pytest.raises(StatisticsError) as raised:
        refuse(found, 1.5, before=False, kind=KINDS["gram"])
    text = str(raised.value)
    assert "nothing was written" in text
    assert "layer0: 10 rows for 100 columns, required 150" in text
    assert "layer7" in text and "layer8" not in text and "and 4 more layers" in text
    for remedy in ("statistics.gram.examples", "exclude_layers=", "method.exclude_layers", "allow_few_rows=true"):
        assert remedy in text
    with pytest.raises(StatisticsError, match=r"nothing was measured(.|\n)*layer0: at most 10 rows"):
        refuse(found, 1.5, before=True, kind=KINDS["gram"])
    refuse([], 2.0, before=True, kind=KINDS["gram"])
    with pytest.raises(StatisticsError) as raised:
        refuse(found, 1.5, before=True, kind=KINDS["fisher"])
    text = str(raised.value)
    assert text.startswith("fisher: too few rows")
    assert "statistics.fisher.examples" in text and "do without them (kinds)" in text and "exclude_layers" not in text


def test_rows_are_foreseen_from_two_examples() -> None:
    """Layers of tokens get as many rows as there are tokens, layers of summaries one an example."""
    probe = GramStatistics(
        {name: torch.eye(3) for name in ("tokens", "pooler", "answers")},
        {name: name for name in ("tokens", "pooler", "answers")},
        {"tokens": 17, "pooler": 2, "answers": 5},
        examples=2,
        batches=1,
    )
    assert most_rows(probe, 17, [9, 8, 3, 1]) == {"tokens": 21, "pooler": 4, "answers": 21}


def test_examples_of_one_token_are_no_summaries() -> None:
    probe = GramStatistics({"tokens": torch.eye(3)}, {"tokens": "tokens"}, {"tokens": 2}, examples=2, batches=1)
    assert most_rows(probe, 2, [1, 1, 1]) == {"tokens": 3}
