"""The choice of a merge through the callback, against all candidates merged one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_distillation import divergence, state
from test_refining_merge import Draw, run

from regmean_lab.merging.auto import Auto, candidates_of
from regmean_lab.merging.choice import Candidate
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.modules import TaskModule

AUTO = Auto(text="own", off_diagonals=[0.5, 1.0], mixes=[0.0, 0.5], held_out=10, batch_size=4, margin=0.0)
CASES = [("emotion", "bert"), ("emotion_text", "t5"), ("ner_open", "bert")]


def made(candidate: Candidate, sources: Any) -> TaskModule:
    """A candidate, merged by itself and mixed by hand."""
    module, _ = run(candidate.method, sources)
    mean, _ = run(Simple(), sources)
    with torch.no_grad():
        targets = module.model.state_dict(keep_vars=True)
        for name, value in state(module).items():
            if value.is_floating_point() and candidate.mix:
                targets[name].copy_(value + candidate.mix * (state(mean)[name] - value))
    return module


@pytest.mark.parametrize(("suite", "kind"), CASES, ids=["-".join(case) for case in CASES])
def test_it_is_the_best_of_all_candidates(suite: str, kind: str, draw: Draw) -> None:
    sources = draw(suite, kind)
    auto = replace(AUTO, batch_size=1) if suite == "ner_open" else AUTO  # where a batch is a mean over its tokens
    module, callback = run(auto, sources)
    modules = [made(candidate, sources) for candidate in candidates_of(auto, 2)]
    figures = [sum(divergence(one, source, auto) for source in sources) / 2 for one in modules]
    assert callback.choice is not None
    rows = callback.choice["candidates"]
    assert [row["figure"] for row in rows] == pytest.approx(figures, rel=2e-3)
    best = min(range(len(figures)), key=figures.__getitem__)
    assert callback.choice["chosen"] == candidates_of(auto, 2)[best].describe()
    for name, value in state(module).items():
        torch.testing.assert_close(value, state(modules[best])[name], rtol=1e-5, atol=1e-6)
    assert callback.notes[-1].startswith("chose ")


def test_of_equal_members_it_is_the_mean(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    same = [replace(source, entry=sources[0].entry, load=sources[0].load) for source in sources]
    module, callback = run(replace(AUTO, margin=1.0), same)
    before = sources[0].load().model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in state(module).items())
    assert callback.choice is not None
    assert callback.choice["chosen"] == Candidate(Simple()).describe()


def test_by_gram_matrices_alone(draw: Draw) -> None:
    """RegMean with whole matrices minimises the error itself, but for where layers have few rows."""
    sources = draw("emotion", "bert")
    auto = replace(AUTO, criterion="quadratic", favour=1.0, mixes=[0.0])
    module, callback = run(auto, sources)
    assert callback.choice is not None
    assert callback.choice["by"] == "quadratic"
    figures = [row["figure"] for row in callback.choice["candidates"]]
    assert figures[0] == pytest.approx(1.0)
    best = min(range(len(figures)), key=figures.__getitem__)
    chosen = candidates_of(auto, 2)[best]
    alone, _ = run(chosen.method, sources)
    for name, value in state(module).items():
        torch.testing.assert_close(value, state(alone)[name], rtol=1e-6, atol=1e-7)
    assert callback.diagnostics


def test_layers_that_were_left_out_are_averaged(draw: Draw) -> None:
    """By those candidates that read Gram matrices; they are not judged either."""
    sources = draw("emotion", "bert")
    auto = replace(AUTO, criterion="quadratic", favour=1.0, mixes=[0.0], exclude_layers=["*.pooler.*", "classifier"])
    module, callback = run(auto, sources)
    assert callback.choice is not None
    assert callback.choice["chosen"]["method"] == "regmean"
    alone, _ = run(RegMean(off_diagonal=callback.choice["chosen"]["settings"]["off_diagonal"]), sources)
    mean, _ = run(Simple(), sources)
    for name, value in state(module).items():
        left_out = "pooler" in name or "classifier" in name
        torch.testing.assert_close(value, state(mean if left_out else alone)[name], rtol=1e-6, atol=1e-7)
    assert not any("pooler" in row.layer or "classifier" in row.layer for row in callback.diagnostics)


def test_a_large_margin_keeps_the_mean(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    module, callback = run(replace(AUTO, margin=1e6), sources)
    simple, _ = run(Simple(), sources)
    assert all(torch.equal(value, state(simple)[name]) for name, value in state(module).items())
    assert callback.notes[-1].startswith("kept the mean: ")
    assert callback.diagnostics == []


def test_heads_of_their_own(draw: Draw) -> None:
    sources = draw("emotion", "bert")
    module, callback = run(AUTO, sources, own_heads=True)
    own = sources[0].load().model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in state(module).items() if "classifier" in name)
    assert callback.choice is not None
