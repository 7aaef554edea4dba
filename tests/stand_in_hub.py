"""A stand-in for the Hugging Face hub on 127.0.0.1: models with branches, pull requests and commits, in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants
import pytest

CONVERTER = "SFconvertbot"
CONVERSION = "Adding `safetensors` variant of this model"
DATE = "2024-01-01T00:00:00.000Z"
LARGE = (".bin", ".safetensors", ".model", ".h5")
"""Endings of files of which the hub tells the SHA-256."""

Files = Mapping[str, bytes]


@dataclass
class Commit:
    """One commit: its files, and what the hub tells of it."""

    files: dict[str, bytes]
    title: str
    author: str
    parent: str | None

    @property
    def sha(self) -> str:
        content = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self.files.items())]
        return hashlib.sha1(repr((content, self.title, self.author, self.parent)).encode()).hexdigest()


@dataclass
class Repository:
    """A model: commits by SHA, and what branches and pull requests point to."""

    commits: dict[str, Commit] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    discussions: list[dict[str, object]] = field(default_factory=list)

    def commit(self, files: Files, reference: str = "main", title: str = "upload", author: str = "someone") -> str:
        """Add a commit with exactly these files to a branch; returns its SHA."""
        parent = self.references.get(reference)
        if parent is None and reference != "main":
            parent = self.references.get("main")
        made = Commit(dict(files), title, author, parent)
        self.commits[made.sha] = made
        self.references[reference] = made.sha
        return made.sha

    def propose(
        self, files: Files, title: str = CONVERSION, author: str = CONVERTER, status: str = "open", both: bool = True
    ) -> str:
        """Open a pull request that adds files to what ``main`` has; returns the SHA of its commit."""
        number = 1 + sum(name.startswith("refs/pr/") for name in self.references)
        own = self.commits[self.references["main"]].files if both else {}
        self.discussions.append(
            {
                "title": title,
                "num": number,
                "author": {"name": author},
                "createdAt": DATE,
                "status": status,
                "isPullRequest": True,
            }
        )
        return self.commit({**own, **files}, f"refs/pr/{number}", title, author)

    def find(self, revision: str) -> tuple[str, Commit] | None:
        """The commit of a branch, a pull request or a SHA."""
        sha = self.references.get(revision.removeprefix("refs/heads/"), revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


class StandInHub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: models by name, with or without owner.
        renamed: old names, and where they lead.
        without_discussions: models whose discussions are turned off.
        asked: what was asked for: method and path of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.without_discussions: set[str] = set()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, files: Files | Path) -> Repository:
        """Add a model with one commit on ``main``, from its files or from a folder."""
        repository = self.repositories[name] = Repository()
        repository.commit(files_of(files) if isinstance(files, Path) else files)
        return repository

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables with which a process takes this for the hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Take this for the hub in this process, with a cache of its own."""
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """A running server, stopped at the end."""
    server = StandInHub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


class _Handler(BaseHTTPRequestHandler):
    server: StandInHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""

    def _answer(self, body: bool) -> None:
        self._body = body
        split = urlsplit(self.path)
        path, query = split.path.strip("/"), parse_qs(split.query)
        self.server.asked.append(f"{self.command} {unquote(path)}")
        api = path.startswith("api/models/")
        rest = path.removeprefix("api/models/") if api else path
        found = self._repository(rest)
        if found is None:
            return self._refuse("RepoNotFound")
        name, repository, inner = found
        if repository is None:
            where = f"{self.server.url}/{'api/models/' if api else ''}{name}/{inner}".rstrip("/")
            return self._send(307, b"", {"Location": where + (f"?{split.query}" if split.query else "")})
        parts = [unquote(part) for part in inner.split("/")] if inner else []
        if not api:
            return self._file(repository, parts)
        kind = parts[0] if parts else "revision"
        if kind in ("revision", "tree", "commits"):
            revision = repository.find(parts[1] if len(parts) > 1 else "main")
            if revision is None:
                return self._refuse("RevisionNotFound")
            if kind == "revision":
                return self._json(_information(name, *revision, "blobs" in query))
            if kind == "commits":
                return self._json(list(_history(repository, revision[0])))
            return self._tree(revision[1], "/".join(parts[2:]))
        if kind == "discussions" and name not in self.server.without_discussions:
            listed = [{**entry, "repo": {"name": name, "type": "model"}} for entry in repository.discussions]
            return self._json({"discussions": listed, "count": len(listed), "start": 0})
        if kind == "refs":
            references = [
                {"name": key, "ref": key if "/" in key else f"refs/heads/{key}", "targetCommit": sha}
                for key, sha in repository.references.items()
            ]
            requests = [entry for entry in references if entry["ref"].startswith("refs/pr/")]
            branches = [entry for entry in references if entry not in requests]
            return self._json({"branches": branches, "converts": [], "tags": [], "pullRequests": requests})
        return self._refuse("EntryNotFound")

    def _repository(self, rest: str) -> tuple[str, Repository | None, str] | None:
        """The model that a path begins with, and the rest; of one that was renamed its new name alone."""
        parts = rest.split("/")
        for length in (2, 1):
            name, inner = "/".join(parts[:length]), "/".join(parts[length:])
            if name in self.server.repositories:
                return name, self.server.repositories[name], inner
            if name in self.server.renamed:
                return self.server.renamed[name], None, inner
        return None

    def _file(self, repository: Repository, parts: list[str]) -> None:
        if len(parts) < 3 or parts[0] != "resolve":
            return self._refuse("EntryNotFound")
        for length in (2, 4):  # a pull request's name has two slashes of its own
            revision, file = repository.find("/".join(parts[1:length])), "/".join(parts[length:])
            if revision is not None:
                break
        else:
            return self._refuse("RevisionNotFound")
        sha, commit = revision
        headers = {"X-Repo-Commit": sha}
        if file not in commit.files:
            return self._refuse("EntryNotFound", headers)
        content = commit.files[file]
        headers["ETag"] = f'"{_digest(file, content)}"'
        headers["Content-Type"] = "application/octet-stream"
        return self._send(200, content, headers)

    def _tree(self, commit: Commit, folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        files = {name: content for name, content in commit.files.items() if name.startswith(prefix)}
        if folder and not files:
            return self._refuse("EntryNotFound")
        return self._json([{"type": "file", "path": name, **_blob(name, content)} for name, content in files.items()])

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self._body:
            self.wfile.write(content)


def _digest(name: str, content: bytes) -> str:
    kind = hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1
    return kind(content).hexdigest()


def _blob(name: str, content: bytes) -> dict[str, object]:
    large = {"oid": _digest(name, content), "sha256": _digest(name, content), "size": len(content), "pointerSize": 134}
    entry: dict[str, object] = {"oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
    return {**entry, "lfs": large} if name.endswith(LARGE) else entry


def _information(name: str, sha: str, commit: Commit, blobs: bool) -> dict[str, object]:
    siblings = []
    for file, content in commit.files.items():
        entry = _blob(file, content)
        more = {"blobId": entry["oid"], **{key: entry[key] for key in ("size", "lfs") if key in entry}}
        siblings.append({"rfilename": file, **(more if blobs else {})})
    return {"id": name, "modelId": name, "sha": sha, "private": False, "siblings": siblings, "tags": [], "downloads": 0}


def _history(repository: Repository, sha: str | None) -> Iterator[dict[str, object]]:
    while sha is not None:
        commit = repository.commits[sha]
        yield {
            "id": sha,
            "title": commit.title,
            "message": "",
            "authors": [{"user": commit.author}],
            "date": DATE,
        }
        sha = commit.parent
