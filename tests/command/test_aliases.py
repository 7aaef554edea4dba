"""Names of methods and settings that people know from other programs."""

from __future__ import annotations

import pytest

from regmean_lab.command.aliases import METHODS, NOTES, SETTINGS, as_typed, known_names, typed_names
from regmean_lab.config.schema import all_methods


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["method=linear"], ["method=simple"]),
        (["method=dare_ties", "seed=1"], ["method=dare", "method.then=ties", "seed=1"]),
        (["method=dare_ties", "method.then=linear"], ["method=dare", "method.then=linear"]),
        (["-m", "method=linear,ties_merging,slerp"], ["-m", "method=simple,ties,slerp"]),
        (["method=simple,dare_ties"], ["method=simple,dare_ties"]),
        (["method=ties", "method.lambda=0.5", "method.weight=[1,-1]"], None),
        (["method=avg"], ["method=simple"]),
        (["-m", "method=mean,average,fedavg"], ["-m", "method=simple,simple,simple"]),
        (["models=[a,b]"], ["models=[a,b]"]),
    ],
)
def test_names_are_those_of_here(given: list[str], expected: list[str] | None) -> None:
    assert known_names(given) == (expected or ["method=ties", "method.scaling=0.5", "method.weights=[1,-1]"])


def test_settings_of_merges() -> None:
    given = ["models=[a,b]", "base_model=c", "out_path=o", "out_shard_size=1GB", "method=linear"]
    expected = ["checkpoints=[a,b]", "base=c", "output=o", "max_shard_size=1GB", "method=simple"]
    assert known_names(given, merges=True) == expected


def test_no_alias_hides_a_method_or_a_setting() -> None:
    assert not set(METHODS) & set(all_methods())
    for name, settings in METHODS.values():
        assert set(settings) <= set(vars(all_methods()[name]()))
    every = {key for kind in all_methods().values() for key in vars(kind())}
    assert not {name.removeprefix("method.") for name in SETTINGS} & every
    assert {name.removeprefix("method.") for name in SETTINGS.values() if name.startswith("method.")} <= every


def test_messages_have_the_name_that_was_typed() -> None:
    typed = typed_names(["method=fisher", "method.regmean_reduce_nondiag=0.1", "method.scaling=1", "models"])
    assert typed == {"method.off_diagonal": "method.regmean_reduce_nondiag"}
    assert typed_names(["models=[a]"], merges=True) == {"checkpoints": "models"} and not typed_names(["models=[a]"])
    problems = ["method.off_diagonal: unknown: really", "seed: wrong", "no colon"]
    expected = ["method.regmean_reduce_nondiag (here method.off_diagonal): unknown: really", "seed: wrong", "no colon"]
    assert as_typed(problems, typed) == expected


def test_notes_are_of_settings_that_are_understood() -> None:
    assert set(NOTES) <= set(SETTINGS)
