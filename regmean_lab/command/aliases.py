"""Aliases on the command line: names that other programs use for the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

METHODS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "linear": ("simple", {}),
    "average": ("simple", {}),
    "avg": ("simple", {}),
    "mean": ("simple", {}),
    "fedavg": ("simple", {}),
    "simple_average": ("simple", {}),
    "ties_merging": ("ties", {}),
    "dare_linear": ("dare", {"then": "linear"}),
    "dare_ties": ("dare", {"then": "ties"}),
    "della_linear": ("della", {"then": "linear"}),
    "breadcrumbs_ties": ("breadcrumbs", {"elect_signs": "true"}),
}
"""Names of methods: ours, and the settings that make it that method."""

SETTINGS: Mapping[str, str] = {
    "method._target_": "method",
    "method.lambda": "method.scaling",
    "method.weight": "method.weights",
    "method.gamma": "method.large",
    "method.select_topk": "method.density",
    "method.max_iter": "method.iterations",
    "method.tol": "method.tolerance",
    "method.reduce_non_diagonal_ratio": "method.off_diagonal",
    "method.regmean_reduce_nondiag": "method.off_diagonal",
    "num_regmean_examples": "statistics.gram.examples",
}
"""Settings of methods."""

NOTES: Mapping[str, str] = {
    "num_regmean_examples": "it counts examples, as FusionBench does; the number of the paper's released code counts "
    "batches of 16: statistics.gram.batches (docs/from_the_release.md)",
}
"""What to know of a name that is understood as another."""

OF_MERGES: Mapping[str, str] = {
    "models": "checkpoints",
    "base_model": "base",
    "out_path": "output",
    "out_dtype": "dtype",
    "out_shard_size": "max_shard_size",
}
"""Settings of the verb ``merge``."""


def known_names(arguments: Sequence[str], *, merges: bool = False) -> list[str]:
    """Overrides by the names that they have here.

    Several values of a sweep are renamed where the name alone is another one.

    Args:
        arguments: overrides and flags.
        merges: whether the verb is ``merge``.
    """
    settings = {**SETTINGS, **OF_MERGES} if merges else SETTINGS
    given = {argument.partition("=")[0] for argument in arguments}
    found = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            found.append(argument)
            continue
        key = settings.get(key, key)
        added: dict[str, str] = {}
        if key == "method":
            names = value.split(",")
            if len(names) == 1:
                value, own = METHODS.get(value, (value, {}))
                added = {f"method.{name}": setting for name, setting in own.items() if f"method.{name}" not in given}
            else:
                value = ",".join(
                    METHODS[name][0] if name in METHODS and not METHODS[name][1] else name for name in names
                )
        found.append(f"{key}={value}")
        found += [f"{name}={setting}" for name, setting in added.items()]
    return found


def typed_names(arguments: Sequence[str], *, merges: bool = False) -> dict[str, str]:
    """By setting, the other name by which it was typed.

    Args:
        arguments: as they are given to `known_names`.
        merges: whether the verb is ``merge``.
    """
    settings = {**SETTINGS, **OF_MERGES} if merges else SETTINGS
    typed = [argument.partition("=")[0] for argument in arguments if "=" in argument]
    return {settings[name]: name for name in typed if name in settings}


def as_typed(problems: Sequence[str], typed: Mapping[str, str]) -> list[str]:
    """Messages that begin with a setting, with the name by which it was typed."""
    return [
        f"{typed[key]} (here {key}):{message}" if (key := problem.partition(":")[0]) in typed else problem
        for problem in problems
        for message in [problem.partition(":")[2]]
    ]
