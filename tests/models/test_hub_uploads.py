"""Uploads to the hub: what stands against one is told before the work, and one commit has everything."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi
from stand_in_hub import Account, StandInHub

from regmean_lab.models import hub_uploads
from regmean_lab.models.hub_uploads import Destination, PushError, find_destination, push, pushed_lines

ME = Account("me", {"lab": "write", "guild": "contributor", "club": "read"})
WEIGHTS = bytes(range(256)) * 300


@pytest.fixture
def hub(new_hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> StandInHub:
    """A hub without models, for whose account this process has a token."""
    new_hub.log_in(monkeypatch, ME)
    return new_hub


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    return {
        "model.safetensors": tmp_path / "model.safetensors",
        "README.md": b"---\ntags: [x]\n---\n# Mine\n",
        "a/b.json": b"{}",
    }


def there(hub: StandInHub, name: str) -> dict[str, bytes]:
    repository = hub.repositories[name]
    return repository.commits[repository.references["main"]].files


def found(name: str, private: bool = True) -> Destination:
    destination, problems = find_destination(name, private=private)
    assert problems == []
    assert destination is not None
    return destination


def refused(name: str, private: bool = True) -> str:
    hub_uploads._asked.cache_clear()
    destination, problems = find_destination(name, private=private)
    assert destination is None
    (problem,) = problems
    assert problem.startswith("push: ")
    return problem


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("owner", ["me", "lab", "guild"])
def test_a_new_repository_gets_all_files_in_one_commit(
    hub: StandInHub, files: dict[str, Path | bytes], private: bool, owner: str
) -> None:
    name = f"{owner}/merged"
    destination = found(name, private)
    assert (destination.commit, destination.private) == (None, private)
    assert hub.repositories == {}  # nothing is made before there is something to push
    pushed = push(destination, files, "Merge of a and b")
    repository = hub.repositories[name]
    assert repository.private == private
    commit = repository.commits[pushed.commit]
    assert repository.references["main"] == pushed.commit
    assert (commit.title, commit.author) == ("Merge of a and b", "me")
    assert {name: commit.files[name] for name in files} == {
        "model.safetensors": WEIGHTS,
        "README.md": files["README.md"],
        "a/b.json": b"{}",
    }
    assert list(hub.stored) == [hashlib.sha256(WEIGHTS).hexdigest()]  # the large file by git-lfs
    assert pushed.sizes == {"model.safetensors": len(WEIGHTS), "README.md": 25, "a/b.json": 2}
    lines = pushed_lines(destination, pushed)
    seen = "private" if private else "public"
    assert lines[0] == f"pushed to {hub.url}/{name} ({seen}, new), commit {pushed.commit[:10]}: 3 files, 76,827 bytes"
    assert lines[1:] == ["  README.md (25 bytes)", "  a/b.json (2 bytes)", "  model.safetensors (76,800 bytes)"]


def test_a_second_push_replaces_what_is_named_and_keeps_the_rest(
    hub: StandInHub, files: dict[str, Path | bytes]
) -> None:
    push(found("me/merged"), files, "first")
    again = push(found("me/merged"), files, "second")
    assert not again.changed
    assert pushed_lines(found("me/merged"), again)[0].startswith("pushed nothing: ")
    destination = found("me/merged")
    assert destination.files["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()
    pushed = push(destination, {"README.md": b"new"}, "third", removed=["a/b.json", "never.json", "README.md"])
    assert set(there(hub, "me/merged")) == {".gitattributes", "README.md", "model.safetensors"}
    assert there(hub, "me/merged")["README.md"] == b"new"
    assert (pushed.removed, pushed.changed) == (("a/b.json",), True)
    assert pushed_lines(destination, pushed)[-1] == "  a/b.json removed"


@pytest.mark.parametrize(
    "name", ["merged", "a/b/c", "me/", "/x", "me/a b", "me/..", "me/-x", "me/x.git", ".me/x", "me/a--b"]
)
def test_names_that_no_repository_can_have(hub: StandInHub, name: str) -> None:
    assert "not the name of a repository on the hub; expected owner/name" in refused(name)
    assert hub.asked == []


def test_without_a_token_or_a_network(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused("me/merged")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    assert "no token of the hub is here; run hf auth login, or set HF_TOKEN" in refused("me/merged")
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "does not accept the token" in refused("me/merged")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in refused("me/merged")


def test_a_hub_that_is_ill_is_told(hub: StandInHub) -> None:
    hub.failing["whoami"] = 500
    assert "refused it (" in (told := refused("me/merged")) and "500" in told
    hub.failing = {"api/models": 503}
    assert "503" in refused("me/merged")


def test_tokens_without_the_right_to_write(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/there", {"a": b""}, private=True)
    for name in ("me/there", "me/new"):
        hub.log_in(monkeypatch, Account("me", role="read"))
        assert "the token 'test' is for reading only; make one with write right" in refused(name)
    hub.log_in(monkeypatch, Account("me", role="fineGrained", scoped={"me": False}))
    assert "the token may not write to me/there" in refused("me/there")
    assert "the token 'test' may not make one: give it write access to the repositories of me" in refused("me/new")
    hub.log_in(monkeypatch, Account("me", role="fineGrained", scoped={"me/there": True}))
    hub_uploads._asked.cache_clear()
    assert found("me/there").commit is not None
    assert "may not make one" in refused("me/new")
    hub.log_in(monkeypatch, Account("me", role="fineGrained", scoped={"me": True}))
    hub_uploads._asked.cache_clear()
    assert found("me/new").commit is None


def test_repositories_of_others(hub: StandInHub) -> None:
    assert "there is no you/new, and you cannot make one: you is none of yourself (me), lab, guild, club" in refused(
        "you/new"
    )
    assert "your role in club is 'read'" in refused("club/new")
    hub.add("you/theirs", {"config.json": b"{}"})
    assert "the token may not write to you/theirs" in refused("you/theirs", private=False)
    hub.add("you/secret", {"config.json": b"{}"}, private=True)
    assert "there is no you/secret" in refused("you/secret")


def test_what_is_meant_to_be_private_is_not_pushed_where_everybody_sees_it(hub: StandInHub) -> None:
    hub.add("me/open", {"a": b""})
    assert "me/open is public, so everybody would see what is pushed; if that is meant, private=false" in refused(
        "me/open"
    )
    hub_uploads._asked.cache_clear()
    assert not found("me/open", private=False).private
    hub.add("me/closed", {"a": b""}, private=True)
    assert found("me/closed", private=False).private  # it stays so
    hub.renamed["me/before"] = "me/open"
    assert "me/before is called me/open now" in refused("me/before", private=False)


def test_what_happens_meanwhile_is_not_overwritten(hub: StandInHub, files: dict[str, Path | bytes]) -> None:
    hub.add("me/merged", {"README.md": b"one"}, private=True)
    destination = found("me/merged")
    hub.repositories["me/merged"].commit({"README.md": b"by hand"})
    with pytest.raises(PushError, match="not pushed to me/merged: me/merged has changed since"):
        push(destination, files, "mine")
    assert there(hub, "me/merged") == {"README.md": b"by hand"}
    destination = found("me/new")
    HfApi().create_repo("me/new", private=False)
    with pytest.raises(PushError, match="me/new is there already"):
        push(destination, files, "mine")


@pytest.mark.parametrize("stage", ["repos/create", "validate-yaml", "preupload", "objects/batch", "lfs/", "/commit/"])
def test_a_push_that_fails_halfway_leaves_no_file(hub: StandInHub, files: dict[str, Path | bytes], stage: str) -> None:
    destination = found("me/merged")
    hub.failing[stage] = 403
    with pytest.raises(PushError, match=r"not pushed to me/merged: .* same command tries again"):
        push(destination, files, "mine")
    assert set(there(hub, "me/merged") if hub.repositories else ()) <= {".gitattributes"}
    hub.failing.clear()
    hub_uploads._asked.cache_clear()
    pushed = push(found("me/merged"), files, "mine")
    assert set(files) <= set(hub.repositories["me/merged"].commits[pushed.commit].files)


def test_a_card_that_the_hub_cannot_read_is_not_pushed(hub: StandInHub) -> None:
    with pytest.raises(PushError, match="refused it"):
        push(found("me/merged"), {"README.md": b"---\ntags: [x\n---\n"}, "mine")
