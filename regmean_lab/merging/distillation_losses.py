"""What distillation minimises: how far a student's outputs and hidden states are from a teacher's on the same text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from regmean_lab.statistics import Likelihood


def output_divergence(
    student: Tensor, teacher: Tensor, likelihood: Likelihood, temperature: float = 1.0, counted: Tensor | None = None
) -> Tensor:
    """KL(teacher ‖ student) in nats between the distributions that outputs stand for, a mean over rows: a scalar.

    Outputs of both are divided by the temperature T first, and the divergence is multiplied by T², so that its gradient
    keeps its size (Hinton, Vinyals and Dean, 2015, arXiv 1503.02531, section 2).

    Args:
        student: outputs, shape [..., outputs].
        teacher: the same of the teacher; without gradient.
        likelihood: ``categorical``: one of the outputs is right; ``bernoulli``: each is a yes or a no, and their
            divergences are added up; otherwise they are real numbers, and the result is their squared difference, which
            no temperature changes.
        temperature: T.
        counted: which count: bool, for ``categorical`` of rows, shape [...]; otherwise of outputs, of a shape that
            broadcasts to theirs. None: all.

    Returns:
        float32 or wider; 0 where nothing counts.
    """
    student, teacher = (_wide(outputs) for outputs in (student, teacher))
    if likelihood == "categorical":
        log_teacher, log_student = ((outputs / temperature).log_softmax(-1) for outputs in (teacher, student))
        rows = temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
        return _mean(rows, counted)
    if likelihood == "bernoulli":
        teacher, student = teacher / temperature, student / temperature
        yes, no = functional.logsigmoid(teacher), functional.logsigmoid(-teacher)
        each = yes.exp() * (yes - functional.logsigmoid(student)) + no.exp() * (no - functional.logsigmoid(-student))
        each = temperature**2 * each
    else:
        each = (student - teacher).square()
    if counted is not None:
        each = each * counted
    return each.sum(-1).mean()


def position_divergence(student: Tensor, teacher: Tensor, counted: Tensor, temperature: float = 1.0) -> Tensor:
    """The same of distributions over the positions of a text, as where an answer begins: a scalar.

    Args:
        student: outputs, shape [batch, positions].
        teacher: the same of the teacher.
        counted: which positions are there, bool, of the same shape.
        temperature: as in :func:`output_divergence`.
    """
    # Finite, so that what is left out has probability 0 and adds 0, not NaN.
    student, teacher = (_wide(outputs).masked_fill(~counted, -1e9) for outputs in (student, teacher))
    return output_divergence(student, teacher, "categorical", temperature)


def hidden_difference(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """Mean squared difference of hidden states, relative to the teacher's mean square: a scalar.

    Relative, so that one weight suits models of every width and scale.

    Args:
        student: shape [batch, tokens, features].
        teacher: the same of the teacher; without gradient.
        counted: which tokens count, bool, shape [batch, tokens].
    """
    student, teacher = _wide(student), _wide(teacher)
    difference, size = (rows.square().mean(-1) for rows in (student - teacher, teacher))
    return _mean(difference, counted) / _mean(size, counted).clamp(min=torch.finfo(size.dtype).tiny)


def anchor_penalty(values: list[Tensor], start: list[Tensor]) -> Tensor:
    """Half the squared distance from where training began: a scalar (Li, Grandvalet and Davoine, ICML 2018, L²-SP)."""
    return torch.stack([(value - before).square().sum() for value, before in zip(values, start, strict=True)]).sum() / 2


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(rows: Tensor, counted: Tensor | None) -> Tensor:
    if counted is None:
        return rows.mean()
    return (rows * counted).sum() / counted.sum().clamp(min=1)
