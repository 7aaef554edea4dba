"""The saved view of a W&B project, with a client that keeps what would be sent."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from regmean_lab import dashboard
from regmean_lab.dashboard import EXIT_FAILED, EXIT_WRONG, main

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason='pip install "regmean-lab[dashboard]" to test views'
)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The views that were saved, as W&B would get them."""
    import wandb
    from wandb_workspaces.workspaces import interface, internal

    views: list[dict[str, Any]] = []

    def keep(view: Any) -> dict[str, Any]:
        views.append(json.loads(view.model_dump_json(by_alias=True)))
        return {"upsertView": {"view": {"name": "nw-abc-v", "id": "view 1"}}}

    monkeypatch.setattr(internal, "upsert_view2", keep)
    monkeypatch.setattr(wandb, "Api", object)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.test")
    return views


def text_of(view: dict[str, Any]) -> str:
    return json.dumps(view["spec"])


def test_a_view_is_saved_for_the_project(sent: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--entity", "someone", "--project", "merging", "--name", "My view"]) == 0
    (view,) = sent
    assert (view["entity"], view["project"], view["displayName"]) == ("someone", "merging", "My view")
    assert view["name"]  # W&B takes no view without one
    assert capsys.readouterr().out == "View: https://wandb.test/someone/merging?nw=abc\n"


def test_it_shows_what_is_logged(sent: list[dict[str, Any]]) -> None:
    main(["--entity", "someone"])
    (view,) = sent
    assert view["project"] == "regmean_lab"
    text = text_of(view)
    for key in ("mean_in_domain", "mean_out_of_domain", "table/scores", "table/merge_diagnostics"):
        assert key in text
    assert '"mediaKeys": ["report"]' in text
    for key in ("train/loss", "dev/score"):
        assert f'"metrics": ["{key}"]' in text


def test_runs_are_grouped_by_sweep_and_by_job_type(sent: list[dict[str, Any]]) -> None:
    main(["--entity", "someone"])
    (view,) = sent
    (runset,) = view["spec"]["section"]["runSets"]
    assert [(key["section"], key["name"]) for key in runset["grouping"]] == [("run", "group"), ("run", "jobType")]


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from wandb_workspaces.workspaces import internal

    def refuse(view: Any) -> dict[str, Any]:
        raise ConnectionError("no such entity")

    monkeypatch.setattr(internal, "upsert_view2", refuse)
    assert main(["--entity", "nobody"]) == EXIT_FAILED
    assert "could not be saved: ConnectionError: no such entity" in capsys.readouterr().err


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    assert main(["--entity", "someone"]) == EXIT_WRONG
    assert 'pip install "regmean-lab[dashboard]"' in capsys.readouterr().err
