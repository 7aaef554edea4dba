"""What a plan tells beforehand of a model's matrices that a method averages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from transformers import MixtralConfig

from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.sweeps.plan import _Planner
from regmean_lab.sweeps.plan_text import plan_text


def test_a_plan_names_matrices_that_are_averaged_once() -> None:
    config = MixtralConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=3,
    )
    checkpoint: Any = SimpleNamespace(fingerprint="one", config=lambda: config)
    planner = _Planner()
    assert not planner._note_averaged(Simple(), checkpoint, "mixture")
    assert planner.plan.notes == []
    for _ in range(2):
        assert planner._note_averaged(RegMean(), checkpoint, "mixture")
    line = "mixture: averaged, as regmean has no inputs of them: layers.*.mlp.gate.weight (2)"
    assert planner.plan.notes == [line]
    assert f"  note: {line}" in plan_text(planner.plan, None).splitlines()
