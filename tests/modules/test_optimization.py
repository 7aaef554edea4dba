from __future__ import annotations

import pytest
import torch
from torch import nn

from regmean_lab.modules.optimization import Optimization

PEAK = 2e-3


def rates(optimization: Optimization, steps: int) -> list[float]:
    """Learning rate of each step, and what it would be after the last."""
    optimizer = optimization.optimizer([nn.Parameter(torch.ones(1))])
    scheduler = optimization.scheduler(optimizer, steps)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def closed_form(schedule: str, step: int, steps: int, warmup: int, end: float) -> float:
    if step < warmup:
        return PEAK * step / warmup
    left = (steps - step) / (steps - warmup)
    return {"polynomial": end + (PEAK - end) * left, "linear": PEAK * left, "constant": PEAK}[schedule]


@pytest.mark.parametrize("schedule", ["polynomial", "linear", "constant"])
@pytest.mark.parametrize(("steps", "share", "warmup"), [(100, 0.06, 6), (37, 0.06, 2), (50, 0.5, 25), (20, 0.0, 0)])
def test_schedules_are_their_closed_forms(schedule: str, steps: int, share: float, warmup: int) -> None:
    found = rates(Optimization(PEAK, schedule=schedule, warmup=share), steps)
    expected = [closed_form(schedule, step, steps, warmup, 1e-7) for step in range(steps + 1)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_polynomial_schedule_never_rises() -> None:
    """Its end is half the peak where that is below the usual end, which it would otherwise rise to."""
    found = rates(Optimization(1e-8, schedule="polynomial", warmup=0.0), 10)
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(5e-9)


def test_an_unknown_schedule_is_refused() -> None:
    optimization = Optimization(PEAK, schedule="cosine")
    with pytest.raises(ValueError, match="'cosine'"):
        optimization.scheduler(optimization.optimizer([nn.Parameter(torch.ones(1))]), 10)


def test_the_first_step_is_adamws() -> None:
    """θ − η λ θ − η g / (|g| + ε): with bias correction, the first step's moments are the gradient and its square."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = Optimization(PEAK, weight_decay=0.1).optimizer([parameter])
    parameter.grad = torch.tensor([0.5, -4.0, 1e-3])
    expected = parameter.detach().double() * (1 - PEAK * 0.1) - PEAK * parameter.grad / (parameter.grad.abs() + 1e-8)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), expected.float(), rtol=1e-6, atol=1e-7)
