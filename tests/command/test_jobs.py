from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.command import overrides
from regmean_lab.command.overrides import override_problems
from regmean_lab.config.grids import (
    CONFIG_NAME,
    Composer,
    composing,
    grids,
    grids_of,
    jobs_of,
    values_of,
    whole_composition,
)
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.schema import settings_of

CONF = configuration_root() / "conf"
SWEEPS = [f"experiment={path.stem}" for path in sorted((CONF / "experiment").glob("*.yaml"))]
SWEEPS += [f"+multirun_sweeps={path.stem}" for path in sorted((CONF / "multirun_sweeps").glob("*.yaml"))]


@pytest.fixture(autouse=True)
def initialised(compose_job: Callable[..., DictConfig]) -> Iterator[None]:
    """Hydra, with the configuration's folder; the schemas are registered by `compose_job`."""
    with composing():
        yield


def parse(*texts: str) -> list:
    return OverridesParser.create().parse_overrides(list(texts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=1", ["seed=1"]),
        ("seed=1,2", ["seed=1", "seed=2"]),
        ("seed=range(1,4)", ["seed=1", "seed=2", "seed=3"]),
        ("members=[a,b],[a,c]", ["members=[a,b]", "members=[a,c]"]),
        ("+x=choice(a,b)", ["+x=a", "+x=b"]),
        ("~method.coefficients", ["~method.coefficients"]),
    ],
)
def test_values_of_an_override(text: str, expected: list[str]) -> None:
    (override,) = parse(text)
    assert values_of(override) == expected


def test_a_sweep_is_the_product_of_its_parameters() -> None:
    found = jobs_of(grids({"method": "simple,regmean", "seed": "1,2,3"}, [], parse("model=minilm")))
    assert {frozenset(job) for job in found} == {
        frozenset({"model=minilm", f"method={method}", f"seed={seed}"})
        for method, seed in itertools.product(("simple", "regmean"), (1, 2, 3))
    }
    assert len(found) == 6


def test_grids_are_products_of_their_own_beside_what_they_share() -> None:
    found = jobs_of(
        grids({"seed": "1,2"}, [{"suite": "emotion", "model": "a,b"}, {"suite": "ner", "model": "a", "seed": "3"}], [])
    )
    emotion = {("suite=emotion", f"model={model}", f"seed={seed}") for model in "ab" for seed in (1, 2)}
    assert {tuple(sorted(job)) for job in found} == {
        tuple(sorted(job)) for job in emotion | {("suite=ner", "model=a", "seed=3")}
    }


def test_the_command_line_replaces_parameters_in_every_grid_and_each_job_comes_once() -> None:
    own = [{"suite": "emotion", "model": "a"}, {"suite": "emotion", "model": "b"}]
    assert jobs_of(grids({"seed": "1,2"}, own, parse("model=minilm", "seed=7"))) == [
        ["model=minilm", "seed=7", "suite=emotion"]
    ]


def test_the_last_of_several_overrides_of_a_key_counts() -> None:
    assert jobs_of(grids({}, [], parse("seed=1,2", "model=minilm", "seed=3"))) == [["seed=3", "model=minilm"]]


def test_the_grids_of_a_command_line_are_those_of_its_table() -> None:
    jobs = jobs_of(grids_of(["+multirun_sweeps=table2", "seed=1"]))
    assert len(jobs) == 3 * 2 * 10 * 6  # models, head initialisations, pairs, methods
    models = {(text, other) for job in jobs for text in job for other in job if text[:6] == "suite="}
    assert ("suite=emotion_text", "model=t5_v1_1_base") in models
    assert ("suite=emotion", "model=deberta_v3_large") in models
    assert ("suite=emotion", "model=t5_v1_1_base") not in models


def test_overrides_of_hydra_itself_are_no_parameters() -> None:
    assert jobs_of(grids_of(["hydra.mode=MULTIRUN", "hydra/launcher=basic", "seed=1,2"])) == [["seed=1"], ["seed=2"]]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=5", "members=[tec,isear]", "suite=emotion", "model=pico_bert"],
        ["+multirun_sweeps=off_diagonal-mini", "method.off_diagonal=0.3", "paths.data_dir=/elsewhere"],
        ["experiment=sentiment_incremental", "first=2", "members=null"],
        ["method=simple", "method.coefficients=[0.25,0.75]", "training.steps=7", "trainer.progress_bar=false"],
        ["method=fisher", "+method.coefficients=[1,2]", "++seed=3", "statistics.fisher.labels_from='true'"],
        ["paths.zoo_dir=${paths.data_dir}/zoo", "suite.train_examples=null"],
        ["statistics={gram: {examples: 3}}"],
    ],
)
def test_a_composed_job_is_what_hydra_composes(overrides: list[str]) -> None:
    composer = Composer()
    composer.compose([*overrides, "seed=9"] if overrides else [])  # a first job must not change the next one
    assert OmegaConf.to_container(composer.compose(overrides), resolve=True) == OmegaConf.to_container(
        compose(CONFIG_NAME, overrides), resolve=True
    )


@pytest.mark.parametrize("override", ["seed=first", "no_such_key=1", "method=no_such_method", "training.nothing=1"])
def test_what_hydra_refuses_is_refused(override: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)):
        Composer().compose([override])


@pytest.mark.parametrize("choice", SWEEPS)
def test_every_file_of_an_experiment_and_of_a_sweep(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What varies anything says that it is a sweep, no value makes a wrong configuration, and results have its name."""
    found = []
    # Data and models need not be here.
    monkeypatch.setattr(overrides, "_check_suite_job", lambda config: found.append(settings_of(config)))
    hydra = whole_composition(CONFIG_NAME, [choice]).hydra
    varies = bool(hydra.sweeper.params or hydra.sweeper.grids)
    assert varies == (hydra.mode == RunMode.MULTIRUN) == (choice != "experiment=glue_partition")
    with composing():
        one_seed = [choice, "seed=1"]
        assert override_problems(one_seed) == []
        for grid in grids_of(one_seed):  # the first values have been tried, and each other one with them
            found.append(settings_of(Composer().compose([values_of(parameter)[-1] for parameter in grid])))
    assert {settings.config.experiment for settings in found} == {choice.partition("=")[2]}


def test_parameters_without_a_sweep_are_refused() -> None:
    varied = ["+hydra.sweeper.params.seed='1,2'", "hydra.sweeper.grids=[{method: simple}]"]
    with pytest.raises(
        HydraException, match=r"it varies seed, method, but nothing says .* hydra\.mode: MULTIRUN .* -m"
    ):
        grids_of(varied, multirun=False)
    expected = [["seed=1", "method=simple"], ["seed=2", "method=simple"]]
    assert jobs_of(grids_of(varied)) == jobs_of(grids_of([*varied, "hydra.mode=MULTIRUN"], multirun=False)) == expected


@pytest.mark.parametrize("members", ["[tec]", "[]", "null"])
def test_an_incremental_experiment_needs_two_members(members: str) -> None:
    arguments = ["experiment=emotion_incremental", "model=pico_bert", f"members={members}"]
    with pytest.raises(HydraException, match="members: too few for this experiment, which varies first over 2, 3, …"):
        grids_of(arguments)
    assert jobs_of(grids_of([*arguments, "first=1"]))
