"""Which scores can be a task's key score: those that are always measured, and others that are only measured then.

Of labels and of numbers, any metric of torchmetrics that fits is one.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regmean_lab.suites.base import TaskKind
from regmean_lab.utils.names import nearest

if TYPE_CHECKING:
    from torchmetrics import Metric

KEY_SCORES: Mapping[TaskKind, tuple[str, ...]] = {
    "single_label": ("accuracy", "macro_f1", "matthews", "binary_f1"),
    "multi_label": ("macro_f1", "accuracy"),
    "regression": ("pearson", "spearman"),
    "token_labels": ("entity_f1", "entity_f1_strict", "entity_f1_published", "token_accuracy"),
    "text": ("exact_match", "token_accuracy"),
}
"""For each kind of task of user-supplied data, the scores that are always measured; the first is the default."""

ROUGE_SCORES = ("rouge1", "rouge2", "rougeL")
"""Key scores that compare what is written with the target."""

AVERAGED_ENTITY_SCORES = tuple(
    f"entity_{name}_{average}" for name in ("f1", "precision", "recall") for average in ("macro", "weighted")
)
"""Key scores of entities as means over their types."""

MORE_KEY_SCORES: Mapping[TaskKind, tuple[str, ...]] = {"token_labels": AVERAGED_ENTITY_SCORES, "text": ROUGE_SCORES}
"""Scores that are measured where they are the key score."""

NAMED_KINDS: tuple[TaskKind, ...] = ("single_label", "regression")
"""Kinds of task whose key score may be any metric of torchmetrics that fits."""

_WRITTEN = re.compile(r"(\w+)\s*(?:\((.*)\))?", re.DOTALL)


def named_metric(written: str, kind: TaskKind, labels: int) -> Metric:
    """A metric of ``torchmetrics.classification`` or ``torchmetrics.regression``.

    Args:
        written: its name, ``CohenKappa`` (or ``MulticlassCohenKappa``; of two labels also ``BinaryRecall``, of the
            second), with arguments where it has any: ``FBetaScore(beta=0.5, average=weighted)``.
        kind: ``single_label`` or ``regression``.
        labels: number of labels.

    Returns:
        A metric that takes labels' ids (or values) as predictions, int64 (float32), and as targets, shape [examples].

    Raises:
        ValueError: for a name that there is not, arguments that it does not take, and metrics that are no key score:
            those that need probabilities, are no single number, or fall when predictions get better.
    """
    import torch  # here: names that are always measured are checked without it

    if (parts := _WRITTEN.fullmatch(written.strip())) is None:
        raise ValueError(f"expected the name of a metric, such as CohenKappa or FBetaScore(beta=0.5), got {written!r}")
    name, arguments = _class_name(parts[1], kind, labels), _arguments(written, parts[2] or "")
    library = _library(kind)
    own = {"num_classes": labels} if name.startswith("Multiclass") else {}
    values = torch.arange(max(labels, 2)).repeat(2) if kind == "single_label" else torch.tensor([0.0, 1.0, 3.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            metric: Metric = getattr(library, name)(**own, **arguments)
            metric.update(values, values)
            single = torch.as_tensor(metric.compute()).numel() == 1
        except Exception as error:  # of any type, for arguments of any kind
            reason = " ".join(str(error).split())
            raise ValueError(f"{name} does not take predicted {_predicted(kind)}: {reason}") from error
    if not single:
        raise ValueError(f"{name} gives more than one number; expected an average or another metric")
    if not metric.higher_is_better:
        raise ValueError(f"{name} does not rise when predictions get better; expected a metric that does")
    metric.reset()
    return metric


def key_score_problem(written: str, kind: TaskKind, labels: int | None = None) -> str | None:
    """What is wrong with a key score.

    Args:
        written: the setting.
        kind: the kind of task.
        labels: number of labels; None as long as it is not known.
    """
    known = (*KEY_SCORES[kind], *MORE_KEY_SCORES.get(kind, ()))
    if written in known:
        if written == "binary_f1" and labels not in (None, 2):
            return f"binary_f1 is of two labels; there are {labels}"
        return None
    close = nearest(written, known)
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    if kind not in NAMED_KINDS:
        return f"expected one of {', '.join(known)}, got {written!r}{meant}"
    binary = written.strip().startswith("Binary")
    try:
        named_metric(written, kind, labels or (2 if binary else 3))
    except ValueError as error:
        return f"expected one of {', '.join(known)}, or a metric of torchmetrics{meant}: {error}"
    return None


def _library(kind: TaskKind) -> Any:
    from torchmetrics import classification, regression

    return classification if kind == "single_label" else regression


def _class_name(name: str, kind: TaskKind, labels: int) -> str:
    """The class in the library.

    Raises:
        ValueError: with the nearest ones, if there is none.
    """
    library = _library(kind)
    if kind != "single_label":
        candidates, found = list(library.__all__), name
    else:
        beginnings = ("Multiclass", "Binary") if labels == 2 else ("Multiclass",)
        candidates = [one for one in library.__all__ if one.startswith(beginnings)]
        found = name if name.startswith(("Multiclass", "Binary")) else f"Multiclass{name}"
        if found.startswith("Binary") and labels != 2:
            raise ValueError(f"{found} is of two labels; there are {labels}")
    if found not in candidates:
        close = nearest(found, candidates)
        raise ValueError(
            f"there is no {found} in {library.__name__}" + (f"; near: {', '.join(close)}" if close else "")
        )
    return found


def _arguments(written: str, inside: str) -> Mapping[str, Any]:
    """Arguments by name; words are texts."""
    try:
        call = ast.parse(f"_({inside})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError
        return {
            str(keyword.arg): keyword.value.id
            if isinstance(keyword.value, ast.Name)
            else ast.literal_eval(keyword.value)
            for keyword in call.keywords
        }
    except (SyntaxError, ValueError, AssertionError):
        raise ValueError(
            f"expected arguments by name, such as FBetaScore(beta=0.5, average=weighted), got {written!r}"
        ) from None


def _predicted(kind: TaskKind) -> str:
    return "labels (the most probable ones)" if kind == "single_label" else "values"
