"""The schemas that Hydra is served: what is there, and that nobody changes what the next one gets."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ValidationError

from hydra_plugins.regmean_lab_schemas.schema_source import SchemaSource
from regmean_lab.config import checkpoint_commands
from regmean_lab.config.baselines import comparator_types
from regmean_lab.config.harness import HARNESS
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.schema import Config
from regmean_lab.config.schema_nodes import GROUPS, has_schema, names_in, schema_of
from regmean_lab.merging import method_types
from regmean_lab.suites import suite_types


@pytest.fixture
def source() -> SchemaSource:
    return SchemaSource("schemas", "schema://")


def test_every_method_suite_and_root_has_one() -> None:
    assert names_in("schema/method") == sorted({**method_types(), **comparator_types()})
    assert names_in("schema/suite") == sorted({*suite_types(), HARNESS})
    assert names_in("") == sorted(["schema", *(f"{name}_schema" for name in checkpoint_commands.SCHEMAS)])
    for group in GROUPS:
        for name in names_in(group):
            path = f"{group}/{name}".strip("/")
            node = schema_of(path)
            assert has_schema(path) and node is not None
            assert group == "" or node.name == name
    job = schema_of("schema")
    assert job is not None
    assert OmegaConf.get_type(job) is Config
    assert list(job) == [entry.name for entry in fields(Config)]


@pytest.mark.parametrize("path", ["schema/method/regmeen", "schema/model/minilm", "method/regmean", "other", ""])
def test_of_other_paths_there_is_none(path: str, source: SchemaSource) -> None:
    assert schema_of(path) is None
    assert not source.is_config(f"{path}.yaml")
    with pytest.raises(ConfigCompositionException, match="there is no such schema"):
        source.load_config(path)


def test_a_copy_may_be_changed() -> None:
    first, second = schema_of("schema/method/regmean"), schema_of("schema/method/regmean")
    assert first is not None and second is not None
    before = OmegaConf.to_container(second)
    first.off_diagonal = 0.5
    assert OmegaConf.to_container(second) == before == OmegaConf.to_container(schema_of("schema/method/regmean"))


def test_types_and_keys_are_checked() -> None:
    node = schema_of("schema/method/regmean")
    assert node is not None
    with pytest.raises(ValidationError):
        node.off_diagonal = "much"
    with pytest.raises(ConfigAttributeError):
        OmegaConf.update(node, "off_diagonl", 0.5)


def test_names_are_listed_for_messages(source: SchemaSource) -> None:
    assert source.list("", None) == sorted(["schema", *names_in("")])
    assert source.list("", ObjectType.GROUP) == ["schema"]
    assert source.list("schema", None) == source.list("schema", ObjectType.GROUP) == ["method", "suite"]
    assert source.list("schema", ObjectType.CONFIG) == []
    assert source.list("schema/suite", ObjectType.CONFIG) == names_in("schema/suite")
    assert source.list("schema/suite", ObjectType.GROUP) == []
    assert [path for path in ("", "schema", "schema/", "schema/method", "method") if not source.is_group(path)] == [
        "method"
    ]


def test_a_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("defaults: [/schema/method/regmeen@_here_]\n")
    with (
        initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"),
        pytest.raises(ConfigCompositionException, match="In 'method/mine': Could not load 'schema/method/regmeen'"),
    ):
        compose("config", [f"hydra.searchpath=[{tmp_path.as_uri()}]", "suite=emotion", "method=mine"])


def test_a_composition_needs_no_store_of_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store has is copied for each composition; ours has none of the schemas, in whatever process composes."""
    monkeypatch.setattr(ConfigStore.instance(), "repo", {"hydra": ConfigStore.instance().repo["hydra"]})
    assert "hydra_plugins.regmean_lab_schemas.schema_source" in sys.modules
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        config = compose("config", ["experiment=emotion_pairwise", "method=fisher", "members=[tec,isear]"])
    assert (config.method.name, config.suite.name) == ("fisher", "emotion")
