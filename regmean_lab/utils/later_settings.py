"""Settings that came after version 0.1, left out of hashes where they have the value that 0.1 took for granted.

Addresses of zoo entries, names of statistics files and fingerprints of results are hashes of settings. A new setting
must not change them for those who do not use it, or everything that was computed before would be computed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LATER_SETTINGS: dict[str, Any] = {
    "checkpoints": {},
    "adapter": {"rank": None, "space": "full"},
    "evaluate_on": "test",
    "header": "auto",
    "method.by_row": False,
    "method.density": None,
    "method.elect_signs": False,
    "method.epsilon": None,
    "method.epsilon_added": "after",
    "method.followed_by": [],
    "method.gram": "plain",
    "method.gram_from": "measured",
    "method.label_head": "merged",
    "method.normalize": None,
    "method.parts": {},
    "method.rescale": True,
    "method.reweight": None,
    "method.start": "regmean",
    "method.text": "own",
    "method.text_seed": 0,
    "method.ties": "lowest",
    "method.weighted_off_diagonal": 1.0,
    "method.weights": None,
    "model.new_head": False,
    "recipe": None,
    "selection": None,
    "statistics.gram.generated_padding": False,
    "statistics.gram.generated_tokens": 4,
    "statistics.published": True,
    "statistics.weighted_gram": {
        "examples": 1000,
        "batches": None,
        "form": "full",
        "rank": None,
        "plain_share": 0.01,
        "draws": 4,
        "sign_seed": 0,
    },
    "statistics.tokens": {
        "examples": None,
        "batches": None,
        "minimum_count": 5,
        "pairs": False,
        "by_label": False,
        "epsilon": None,
        "delta": None,
        "tokens_per_text": 20,
    },
    "suite.key_score": "entity_f1",
    "suite.out_of_domain": ["wikigold", "btc_a", "btc_b", "btc_g", "wnut17"],
    "suite.out_of_domain_labels": "all",
    "suite.threshold_inclusive": False,
    "task.threshold_inclusive": False,
    "training.accumulate": 1,
    "training.gradient_checkpointing": False,
    "training.lora": {"rank": None, "alpha": 16, "dropout": 0.0, "target_modules": None},
    "training.patience": None,
    "training.reweight": "none",
}
"""By dotted key of the configuration, the value that means what version 0.1 did; those of ``task`` are of a suite's."""

LATER_SETTINGS_OF_KINDS: dict[str, Any] = {"form": "full", "rank": None}
"""The same of settings that every kind of statistics with a matrix has, below ``statistics.KIND.``."""

_OF_A_KIND = re.compile(r"statistics\.[^.]+\.")

LATER_SETTINGS_OF: dict[tuple[str, str], Any] = {
    ("ner", "suite.include_other_members"): False,
}
"""The same of settings that version 0.1 knew, and hashed, for other options: by the option's name and the key."""


def without_later_settings(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``content`` without the settings of ``LATER_SETTINGS`` that have the value named there.

    Args:
        content: a configuration, or a part of it.
        prefix: dotted key of the part, with a dot at its end.
    """
    kept = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        of_option = (content.get("name"), key)
        if key in LATER_SETTINGS and value == LATER_SETTINGS[key]:
            continue
        of_kinds = name in LATER_SETTINGS_OF_KINDS and _OF_A_KIND.fullmatch(key.removesuffix(name)) is not None
        if of_kinds and value == LATER_SETTINGS_OF_KINDS[name]:
            continue
        if of_option in LATER_SETTINGS_OF and value == LATER_SETTINGS_OF[of_option]:
            continue
        if isinstance(value, Mapping):
            value = without_later_settings(value, f"{key}.")
        elif isinstance(value, list):  # of tasks
            value = [without_later_settings(part, f"{key}.") if isinstance(part, Mapping) else part for part in value]
        kept[name] = value
    return kept
