"""What a plan tells beforehand of a model's matrices that a method averages."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig
from transformers import MixtralConfig

from regmean_lab.config.schema import settings_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.sweeps.plan import Planner
from regmean_lab.sweeps.plan_text import plan_text
from regmean_lab.sweeps.steps import requests_for


def test_a_plan_names_matrices_that_are_averaged_once(compose_job: Callable[..., DictConfig]) -> None:
    config = MixtralConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=3,
    )
    checkpoint: Any = SimpleNamespace(fingerprint="one", config=lambda: config, plain_config=config.to_dict)
    planner = Planner()
    assert planner._layout(Simple(), checkpoint) is None  # it averages everything
    layout = planner._layout(RegMean(), checkpoint)
    assert layout is not None
    for _ in range(2):
        planner._note_averaged(RegMean(), layout, "mixture")
    line = "mixture: averaged, as regmean has no inputs of them: layers.*.mlp.gate.weight (2)"
    assert planner._plan.notes == [line]
    assert f"  note: {line}" in plan_text(planner._plan, None).splitlines()

    # What is collected beforehand is what the merge then looks for: with the inputs of fused experts.
    settings = settings_of(compose_job("suite=emotion", "method=regmean"))
    assert [(request.kind, request.experts) for request in requests_for(settings, layout)] == [("gram", True)]
    assert [(request.kind, request.experts) for request in requests_for(settings, None)] == [("gram", False)]


def test_a_plan_tells_that_gram_matrices_are_none_of_data(compose_job: Callable[..., DictConfig]) -> None:
    overrides = ["suite=emotion", "model=pico_bert", "members=[tec,isear]", "method=regmean"]
    note = "regmean: Gram matrices are estimated from the weights, not measured"
    plan = Planner().plan([(overrides, compose_job(*overrides, "method.gram_from=estimated"))] * 2)
    assert plan.notes.count(note) == 1
    assert not plan.statistics
    assert note not in Planner().plan([(overrides, compose_job(*overrides))]).notes
