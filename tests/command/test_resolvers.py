from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from regmean_lab.config.resolvers import coefficient_grid, coefficient_samples, counts, job_folder, pairs
from regmean_lab.merging.simple import Simple
from regmean_lab.results import fingerprint

Compose = Callable[..., DictConfig]


def swept(text: str) -> list[object]:
    """The values that Hydra makes of a sweep."""
    (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    assert override.is_discrete_sweep()
    return [OverridesParser.create().parse_overrides([f"key={v}"])[0].value() for v in override.sweep_string_iterator()]


def test_pairs_are_all_unordered_pairs() -> None:
    members = ["dailydialog", "crowdflower", "tec", "tales-emotion", "isear"]
    assert swept(pairs("emotion")) == [list(pair) for pair in itertools.combinations(members, 2)]


def test_counts_go_from_two_to_all() -> None:
    assert swept(counts(OmegaConf.create(["a", "b", "c", "d"]))) == [2, 3, 4]


@pytest.mark.parametrize("points", [2, 11, 51])
def test_grid_of_coefficients(points: int) -> None:
    grid = swept(coefficient_grid(points))
    assert len(grid) == points
    assert (grid[0], grid[-1]) == ([0.0, 1.0], [1.0, 0.0])
    for number, (first, second) in enumerate(grid):  # type: ignore[misc]
        assert first == pytest.approx(number / (points - 1), abs=1e-6)
        assert Simple(coefficients=[first, second]).problems() == []


def test_a_grid_in_the_place_of_one_list_is_told() -> None:
    """On a command line, where no sweep reads it: a text, with as many characters as it has."""
    wrong = Simple(coefficients=coefficient_grid(3))  # type: ignore[arg-type]
    assert wrong.problems() == ["coefficients: expected a list of numbers, got the text [0.0,1.0],[0.5,0.5],[1.0,0.0]"]
    assert wrong.number_problems(2) == []


@settings(max_examples=60, deadline=None)
@given(members=st.integers(2, 8), count=st.integers(2, 20), seed=st.integers(0, 10_000))
def test_samples_of_coefficients_are_valid(members: int, count: int, seed: int) -> None:
    samples = swept(coefficient_samples(members, count, seed))
    assert len(samples) == count
    for sample in samples:
        assert Simple(coefficients=sample).problems() == []  # type: ignore[arg-type]
        assert len(sample) == members  # type: ignore[arg-type]
    assert coefficient_samples(members, count, seed) == coefficient_samples(members, count, seed)


def test_samples_are_spread_evenly_over_the_simplex() -> None:
    """Each coefficient of a flat Dirichlet distribution over three has mean 1/3 and variance 1/18."""
    samples = json.loads(f"[{coefficient_samples(3, 4000, 0)}]")
    for position in range(3):
        values = [sample[position] for sample in samples]
        mean = sum(values) / len(values)
        assert mean == pytest.approx(1 / 3, abs=0.02)
        assert sum((value - mean) ** 2 for value in values) / len(values) == pytest.approx(1 / 18, abs=0.005)


class TestJobFolder:
    BASE = ("suite=emotion", "model=pico_bert", "members=[tec,isear]")

    def folder(self, compose_job: Compose, *overrides: str) -> str:
        config = compose_job(*self.BASE, *overrides, return_hydra_config=True)
        return str(OmegaConf.select(config, "hydra.sweep.subdir"))

    def test_tells_what_the_job_is(self, compose_job: Compose) -> None:
        folder = self.folder(compose_job, "seed=3", "experiment=emotion_pairwise", "model=pico_bert")
        experiment, members, name = folder.split("/")
        assert (experiment, members) == ("emotion_pairwise", "tec+isear")
        assert name.startswith("pico_bert-regmean-seed3-")

    def test_is_the_output_folder_of_single_jobs_and_of_sweeps(self, compose_job: Compose) -> None:
        config = compose_job(*self.BASE, "paths.output_dir=/out", return_hydra_config=True)
        assert config.hydra.sweep.dir == "/out"
        assert config.hydra.run.dir == f"/out/{config.hydra.sweep.subdir}"

    def test_is_the_same_for_the_same_configuration(self, compose_job: Compose) -> None:
        folder = self.folder(compose_job)
        for unimportant in ("paths.data_dir=/d", "logger=none", "force=true", "trainer.progress_bar=false"):
            assert self.folder(compose_job, unimportant) == folder
        for important in ("training.epochs=7", "method.off_diagonal=0.5", "statistics.gram.examples=5", "first=2"):
            assert self.folder(compose_job, important) != folder

    def test_has_the_fingerprint_of_the_result(self, compose_job: Compose) -> None:
        config = compose_job(*self.BASE)
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        assert job_folder(config).endswith(fingerprint({str(k): v for k, v in resolved.items()})[:10])

    def test_of_all_members_of_the_first_few_and_of_an_order(self, compose_job: Compose) -> None:
        assert self.folder(compose_job, "members=null").split("/")[1] == "all"
        assert self.folder(compose_job, "members=[tec,isear,crowdflower]", "first=2").split("/")[1] == "tec+isear"
        assert self.folder(compose_job, "order=greedy", "first=2").split("/")[1] == "greedy2"
