"""What tests compose is what Hydra composes without the changes of `quick_configurations.py`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import quick_configurations
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import Node

from regmean_lab.config.grids import CONFIG_NAME
from regmean_lab.config.locations import configuration_root


@pytest.fixture
def plain() -> Iterator[Callable[[], None]]:
    """Undoes the changes until the test ends."""
    yield quick_configurations.uninstall
    quick_configurations.install()


def nodes(node: Any, path: str = "") -> Iterator[tuple[Any, ...]]:
    """All that a configuration consists of: values, types and flags."""
    if not isinstance(node, Node):
        return
    about = node._metadata
    yield path, type(node), about.ref_type, about.object_type, about.optional, about.key, about.flags, about.flags_root
    content = node.__dict__.get("_content")
    if isinstance(content, dict | list):
        for key, child in content.items() if isinstance(content, dict) else enumerate(content):
            assert child._get_parent() is node
            yield from nodes(child, f"{path}.{key}")
    else:
        yield path, node._value()


@pytest.mark.parametrize(
    "overrides",
    [
        ["suite=emotion", "model=pico_bert", "method=fisher", "+method.coefficients=[1,2]", "paths.data_dir=/data"],
        ["+multirun_sweeps=table2-mini", "hydra/launcher=basic", "~logger"],
        ["experiment=ner_incremental", "hydra.run.dir=${now:%Y}"],
    ],
)
def test_compositions_are_those_of_hydra(
    overrides: list[str], compose_job: Callable[..., DictConfig], plain: Callable[[], None]
) -> None:
    compose_job()  # registers schemas and resolvers
    composed = []
    for change in (lambda: None, lambda: None, plain):
        change()
        with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
            config = compose(CONFIG_NAME, overrides, return_hydra_config=True)
        composed.append(config)
        composed.append(copy.deepcopy(config))
    first, *others = [list(nodes(config)) for config in composed]
    assert len(first) > 300
    assert all(other == first for other in others)


def test_copies_share_nothing_that_changes() -> None:
    config = OmegaConf.create({"a": {"b": [1, "${a.c}"], "c": 3}, "d": "${oc.env:HOME,none}"})
    copied = copy.deepcopy(config)
    assert isinstance(copied, DictConfig) and isinstance(copied.a.b, ListConfig)
    copied.a.b.append(7)
    copied.a.c = 4
    OmegaConf.set_readonly(copied, True)
    assert OmegaConf.to_container(config, resolve=True)["a"] == {"b": [1, 3], "c": 3}  # type: ignore[index,call-overload]
    assert copied.a.b == [1, 4, 7]
    assert not OmegaConf.is_readonly(config)


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    found = []
    for number in (1, 2):
        path.write_text(f"key: {number}\n")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            found.append(compose("config").key)
    assert found == [1, 2]
