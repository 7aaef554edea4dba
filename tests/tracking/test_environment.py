"""What results say of where they were made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import regmean_lab
from regmean_lab.tracking.environment import commit, environment


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_checkout_around_the_package() -> None:
    root = Path(regmean_lab.__file__).parents[1]
    commit.cache_clear()
    found = environment(torch.device("cpu"), [])["commit"]
    if (root / ".git").exists():
        assert found is not None
        assert found.removesuffix("+changes") == git(root, "rev-parse", "HEAD")
    else:
        assert found is None


def test_changes_are_told_and_an_installed_package_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "checkout" / "regmean_lab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(regmean_lab, "__file__", str(package / "__init__.py"))
    commit.cache_clear()
    assert commit() is None
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "--message", "first")
    head = git(package.parent, "rev-parse", "HEAD")
    commit.cache_clear()
    assert commit() == head
    (package / "__init__.py").write_text("# changed")
    commit.cache_clear()
    assert commit() == f"{head}+changes"
    commit.cache_clear()
