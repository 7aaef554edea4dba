"""Configurations of a sweep's jobs, against those that Hydra's own loader composes from nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from regmean_lab.config.grids import config_loader
from regmean_lab.config.locations import configuration_root
from regmean_lab.sweeps.steps import Step
from regmean_lab.sweeps.sweep_loader import SweepLoader

COMMON = ["suite=emotion", "model=pico_bert", "trainer=cpu", "logger=none"]
JOBS = [
    [*COMMON, "members=[tec,isear]", "method=simple", "seed=1"],
    [*COMMON, "members=[tec,crowdflower]", "method=simple", "seed=2"],
    [*COMMON, "members=[tec,isear]", "method=simple", "seed=3", "method.coefficients=[0.25,0.75]"],
    [*COMMON, "members=[tec,isear]", "method=regmean", "method.off_diagonal=0.5", "training.learning_rate=0.01"],
    [*COMMON, "members=[tec,isear]", "method=regmean", "seed=1", "training.lora={rank: 4}"],
    [*COMMON, "members=[isear,tec]", "method=regmean", "seed=1", "hydra.sweep.subdir='a/b'", "paths.zoo_dir='x y'"],
    Step("tec", "gram").overrides([*COMMON, "members=[tec,isear]", "method=regmean"], "a/b"),
    Step("isear", "gram").overrides([*COMMON, "members=[tec,isear]", "method=regmean"], "a/b"),
    ["suite=text_classification", "suite.corpora.a=one.csv", "members=[a,b]", "suite.corpora.b=two.csv", "seed=4"],
    ["suite=text_classification", "suite.corpora.a=x.csv", "members=[a,c]", "suite.corpora.c=y.csv", "seed=4"],
]


@pytest.fixture
def master(compose_job: Callable[..., DictConfig]) -> Iterator[DictConfig]:
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        yield config_loader().load_configuration("config", ["hydra.verbose=false", "seed=1,2"], RunMode.MULTIRUN)


def test_each_job_has_the_configuration_that_hydra_composes(master: DictConfig) -> None:
    loader = config_loader()
    shared = SweepLoader(loader)
    for job in [*JOBS, *JOBS]:
        config, wanted = shared.load_sweep_config(master, list(job)), loader.load_sweep_config(master, list(job))
        assert OmegaConf.to_container(config) == OmegaConf.to_container(wanted)
        assert OmegaConf.get_cache(config) == OmegaConf.get_cache(wanted)
        assert OmegaConf.is_struct(config) == OmegaConf.is_struct(wanted)
        HydraConfig.instance().set_config(wanted)
        try:
            for part in (config, wanted):
                with read_write(part.hydra.runtime):
                    part.hydra.runtime.output_dir = "x"
            resolved = [OmegaConf.to_container(part, resolve=True, throw_on_missing=False) for part in (config, wanted)]
        finally:
            HydraConfig.instance().cfg = None
        assert resolved[0] == resolved[1]


def test_choices_are_composed_once(master: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    load = ConfigLoaderImpl.load_configuration

    def noted(self: ConfigLoaderImpl, *arguments: object, **named: object) -> DictConfig:
        composed.append(named["overrides"])
        return load(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", noted)
    shared = SweepLoader(config_loader())
    for members in ("[tec,isear]", "[tec,crowdflower]", "[isear,crowdflower]"):
        for seed in (1, 2):
            for method in ("simple", "regmean"):
                shared.load_sweep_config(master, [*COMMON, f"members={members}", f"method={method}", f"seed={seed}"])
    assert len(composed) == 2


def test_what_one_job_changes_no_other_one_has(master: DictConfig) -> None:
    shared = SweepLoader(config_loader())
    first = shared.load_sweep_config(master, [*COMMON, "members=[tec,isear]", "seed=1"])
    first.training.learning_rate = 7.0
    first.hydra.overrides.task.append("x=1")
    second = shared.load_sweep_config(master, [*COMMON, "members=[tec,isear]", "seed=2"])
    assert second.training.learning_rate != 7.0
    assert list(second.hydra.overrides.task) == [*COMMON, "members=[tec,isear]", "seed=2"]
