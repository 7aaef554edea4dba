"""Names that configurations give cannot lead out of the folders in which they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.config.resolvers import job_folder
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.utils.files import name_problem

HOSTILE = ("../up", "/etc", "a/b", "..", ".hidden", "a\\b", "C:x", "", "new\nline")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_name_of_a_folder(name: str) -> None:
    assert (name_problem("model.name", name) or "").startswith("model.name: ")


@pytest.mark.parametrize("name", ["pico_bert", "table2-mini", "roberta-base v1.1", "tweets+nyt"])
def test_what_is_one(name: str) -> None:
    assert name_problem("model.name", name) is None


def test_all_hostile_names_of_a_configuration_are_told(compose_job: Callable[..., Any]) -> None:
    config = compose_job("suite=emotion", "model.name=a/b", "members=['../x']")
    config.experiment = "../../out"
    with pytest.raises(ConfigurationError) as caught:
        settings_of(config)
    keys = {problem.split(":")[0] for problem in caught.value.problems}
    assert {"experiment", "model.name", "members"} <= keys
    with pytest.raises((ValueError, OmegaConfBaseException), match=r"experiment: '\.\./\.\./out'.*model\.name: 'a/b'"):
        job_folder(config)
