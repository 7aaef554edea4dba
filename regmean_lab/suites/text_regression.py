"""The suite of one's own texts with numbers: a value for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from typing_extensions import override

from regmean_lab.suites.base import register_suite
from regmean_lab.suites.key_scores import KEY_SCORES
from regmean_lab.suites.own_data import OwnDataSettings, OwnDataSuite


@dataclass
class TextRegressionSettings(OwnDataSettings):
    """Settings of the suite, besides those of every suite of one's own data.

    Attributes:
        key_score: the metric that selects epochs and is reported: ``pearson`` or ``spearman``, which are both measured,
            as is the mean squared error; or another one of torchmetrics, such as ``R2Score``.
    """

    key_score: str = KEY_SCORES["regression"][0]


@register_suite("text_regression")
class TextRegressionSuite(OwnDataSuite):
    """Texts, or pairs of texts, with a number each (``docs/own_data.md``). All corpora share one scale."""

    settings_type = TextRegressionSettings
    settings: TextRegressionSettings
    kind = "regression"

    @override
    def labels_of(self, seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        return ("score",)
