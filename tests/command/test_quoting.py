"""Names that Hydra's grammar or a shell trips over: what to write instead is read as the name, by both."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from regmean_lab.command.overrides import override_problems
from regmean_lab.command.quoting import corrected_command, joined, quoted_override

NAMES = [
    "epoch=9-step=100",
    "model[1]",
    "run#3",
    "模型",
    "it's",
    "(new)",
    "~tilde",
    "x=y;z",
    "a&b",
    "a!b",
    'say "hi"',
    "a{b",
    "back\\slash#",
    "end#\\",
    "quote\\'s",
]


def value_of(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_quoted_names_are_read_as_they_are(name: str) -> None:
    """Alone, in a list, and in one of two lists of a sweep."""
    assert not parses(f"output={name}")
    alone = quoted_override(f"output={name}", parses)
    listed = quoted_override(f"checkpoints=[plain,{name}]", parses)
    swept = quoted_override(f"checkpoints=[plain,{name}],[other]", parses)
    assert alone is not None and listed is not None and swept is not None
    assert value_of(alone) == name
    assert value_of(listed) == ["plain", name]
    override = OverridesParser.create().parse_override(swept)
    assert [value_of(f"x={value}") for value in override.sweep_string_iterator()] == [["plain", name], ["other"]]
    command = corrected_command(["-m", "wrong"], {"wrong": swept})
    assert command is not None
    assert shlex.split(command) == ["python", "-m", "regmean_lab", "-m", swept]


def test_what_quotes_do_not_mend() -> None:
    assert quoted_override("members", parses) is None
    assert quoted_override("a b=c", parses) is None
    assert corrected_command(["members"], {}) is None


def test_a_name_with_the_marks_of_an_interpolation() -> None:
    corrected = quoted_override("checkpoints=[plain,'a${b}']", parses, literal=True)
    assert corrected is not None
    assert list(OmegaConf.create({"x": value_of(corrected)}).x) == ["plain", "a${b}"]


def test_what_a_shell_divided_is_joined() -> None:
    assert joined(["seed=1", "checkpoints=[a,my", "first", "model]", "x=[b"]) == {1: "checkpoints=[a,my first model]"}
    assert joined(["checkpoints=[a,my", "output=x", "model]"]) == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["checkpoints=[a,b=1]", "method=simple"], "\"checkpoints=[a,'b=1']\" method=simple"),
        (["checkpoints=[a,my", "model]", "output=x"], "'checkpoints=[a,my model]' output=x"),
        (["checkpoints=a,b"], "'checkpoints=[a,b]'"),
        (["checkpoints=a"], "'checkpoints=[a]'"),
        (["checkpoints=[a,b]", "method.coefficients=0.5"], "'checkpoints=[a,b]' 'method.coefficients=[0.5]'"),
        (["checkpoints=[a,'b${c}']"], "'checkpoints=[a,'\"'\"'b\\${c}'\"'\"']'"),
        (["checkpoints=[a,b]"], None),
        (["checkpoints=[a", "b"], None),
    ],
)
def test_the_whole_command_is_shown_as_it_should_be(
    compose_job: Callable[..., Any], arguments: list[str], expected: str | None
) -> None:
    compose_job()  # registers resolvers
    corrections: dict[str, str] = {}
    assert override_problems(arguments, root="merge_checkpoints", corrections=corrections)
    command = corrected_command(arguments, corrections)
    assert command == (None if expected is None else f"python -m regmean_lab {expected}")
