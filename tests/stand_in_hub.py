"""A stand-in for the Hugging Face hub on 127.0.0.1, in memory: models with branches, pull requests and commits.

What it takes: commits by the hub's own library (``create_repo``, ``create_commit``), with small files in the commit and
large ones by git-lfs, from accounts with tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants
import pytest
import yaml

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
class Account:
    """Somebody whose token is known.

    Attributes:
        name: the user.
        organisations: by organisation, the user's role in it.
        role: of the token: ``write``, ``read`` or ``fineGrained``.
        scoped: of a fine-grained token, by user, organisation or repository, whether it may write there.
    """

    name: str
    organisations: dict[str, str] = field(default_factory=dict)
    role: str = "write"
    scoped: dict[str, bool] = field(default_factory=dict)

    def may_write(self, repository: str) -> bool:
        """Whether the token may write to a repository, or make one of that name."""
        owner = repository.partition("/")[0]
        if self.role == "fineGrained":
            return self.scoped.get(owner, False) or self.scoped.get(repository, False)
        writers = {self.name, *(name for name, role in self.organisations.items() if role != "read")}
        return self.role == "write" and owner in writers

    def may_read(self, repository: str) -> bool:
        """Whether the token may read a private repository."""
        return repository.partition("/")[0] in {self.name, *self.organisations}

    @property
    def told(self) -> dict[str, object]:
        """What the hub says of it."""
        token: dict[str, object] = {"displayName": "test", "role": self.role}
        if self.role == "fineGrained":
            scoped = [
                {
                    "entity": {
                        "type": "model" if "/" in name else "user" if name == self.name else "org",
                        "name": name,
                    },
                    "permissions": ["repo.content.read", *(["repo.write"] if writes else [])],
                }
                for name, writes in self.scoped.items()
            ]
            token["fineGrained"] = {"global": [], "scoped": scoped}
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.organisations.items()]
        return {"type": "user", "name": self.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}


@dataclass
class Repository:
    """A model: commits by SHA, and what branches and pull requests point to."""

    private: bool = False
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
        accounts: by token, whose it is.
        stored: files that were sent by git-lfs, by their SHA-256.
        failing: by a part of a path, the status with which requests for such paths are answered.
        before_commit: called when a commit comes in, before it is looked at.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.without_discussions: set[str] = set()
        self.asked: list[str] = []
        self.accounts: dict[str, Account] = {}
        self.stored: dict[str, bytes] = {}
        self.failing: dict[str, int] = {}
        self.before_commit: Callable[[], object] = lambda: None

    def forget(self) -> None:
        """Be as new."""
        for known in (self.repositories, self.renamed, self.without_discussions, self.asked, self.accounts):
            known.clear()  # type: ignore[attr-defined]
        self.stored.clear()
        self.failing.clear()
        self.before_commit = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, files: Files | Path, private: bool = False) -> Repository:
        """Add a model with one commit on ``main``, from its files or from a folder."""
        repository = self.repositories[name] = Repository(private)
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
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by git-lfs
        # transformers keeps a client with the address that was the hub's when it was first asked. That of a server that
        # an earlier test has stopped is tried again for five minutes.
        if (asking := sys.modules.get("transformers.utils.hub")) is not None:
            monkeypatch.setattr(asking, "_hf_api", None, raising=False)
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)

    def log_in(self, monkeypatch: pytest.MonkeyPatch, account: Account, token: str = "hf_token") -> None:
        """Have the token of an account in this process."""
        self.accounts[token] = account
        monkeypatch.setenv("HF_TOKEN", token)


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

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""

    def _answer(self, body: bool) -> None:
        self._body = body
        split = urlsplit(self.path)
        path, query = split.path.strip("/"), parse_qs(split.query)
        self.server.asked.append(f"{self.command} {unquote(path)}")
        if (status := self._failing(path)) is not None:
            return self._error(status, "told to fail")
        if path == "api/whoami-v2":
            account = self._account
            return self._no_account() if account is None else self._json(account.told)
        api = path.startswith("api/models/")
        rest = path.removeprefix("api/models/") if api else path
        found = self._repository(rest)
        if found is None:
            return self._refuse("RepoNotFound")
        name, repository, inner = found
        if repository is not None and repository.private and not (self._account and self._account.may_read(name)):
            return self._refuse("RepoNotFound", status=401)
        if repository is None:
            where = f"{self.server.url}/{'api/models/' if api else ''}{name}/{inner}".rstrip("/")
            return self._send(307, b"", {"Location": where + (f"?{split.query}" if split.query else "")})
        parts = [unquote(part) for part in inner.split("/")] if inner else []
        if not api:
            return self._file(repository, parts)
        kind = parts[0] if parts else "revision"
        if kind == "auth-check":
            allowed = self._account is not None and (parts[1:] != ["write"] or self._account.may_write(name))
            return self._json({}) if allowed else self._error(403, "you have no rights here")
        if kind in ("revision", "tree", "commits"):
            revision = repository.find(parts[1] if len(parts) > 1 else "main")
            if revision is None:
                return self._refuse("RevisionNotFound")
            if kind == "revision":
                return self._json(_information(name, repository, *revision, "blobs" in query))
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

    def _refuse(self, code: str, headers: Mapping[str, str] | None = None, status: int = 404) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _error(self, status: int, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Message": message, "Content-Type": "application/json"})

    def _no_account(self) -> None:
        self._error(401, "Invalid credentials in Authorization header")

    @property
    def _account(self) -> Account | None:
        """Whose token came with the request."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.server.accounts.get(token)

    def _failing(self, path: str) -> int | None:
        return next((status for part, status in self.server.failing.items() if part in path), None)

    def _take(self) -> None:
        """Requests that bring something."""
        self._body = True
        content = self._content()
        path = urlsplit(self.path).path.strip("/")
        self.server.asked.append(f"{self.command} {unquote(path)}")
        if (status := self._failing(path)) is not None:
            return self._error(status, "told to fail")
        if path.startswith("lfs/"):  # its address is a secret of its own, without a token
            self.server.stored[path.removeprefix("lfs/")] = content
            return self._json({})
        if path == "api/validate-yaml":
            return self._check_card(json.loads(content)["content"])
        account = self._account
        if account is None:
            return self._no_account()
        if path == "api/repos/create":
            return self._create(account, json.loads(content))
        if path.endswith(".git/info/lfs/objects/batch"):
            name, work = path.removesuffix(".git/info/lfs/objects/batch"), "batch"
        else:
            owner, model, work, *_ = path.removeprefix("api/models/").split("/")
            name = f"{owner}/{model}"
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not account.may_read(name)):
            return self._refuse("RepoNotFound")
        if not account.may_write(name):
            return self._error(403, "you have no rights to write here")
        if work == "preupload":
            return self._modes(repository, json.loads(content)["files"])
        if work == "batch":
            return self._batch(json.loads(content)["objects"])
        return self._commit(name, repository, account, content)

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _check_card(self, card: str) -> None:
        """The hub reads a card's front matter before it takes it."""
        _, _, rest = card.partition("---\n")
        try:
            data = yaml.safe_load(rest.partition("\n---")[0]) if card.startswith("---\n") else {}
        except yaml.YAMLError:
            data = None
        if not isinstance(data, dict):
            return self._send(400, json.dumps({"errors": [{"message": "no YAML"}]}).encode(), {})
        self._json({"errors": [], "warnings": [] if data else [{"message": "empty or missing yaml metadata"}]})

    def _create(self, account: Account, wanted: Mapping[str, Any]) -> None:
        name = f"{wanted.get('organization') or account.name}/{wanted['name']}"
        if name in self.server.repositories:
            return self._error(409, "You already created this model repo")
        if not account.may_write(name):
            return self._error(403, "you have no rights to make this")
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.server.add(name, {".gitattributes": b"*.safetensors filter=lfs"}, private)
        self._json({"url": f"{self.server.url}/{name}", "name": name})

    def _modes(self, repository: Repository, files: list[dict[str, Any]]) -> None:
        there = repository.commits[repository.references["main"]].files
        told = []
        for file in files:
            large = file["path"].endswith(LARGE)
            entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if file["path"] in there:
                content = there[file["path"]]
                entry["oid"] = _digest(file["path"], content) if large else _git_hash(content)
            told.append(entry)
        self._json({"files": told})

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        told = []
        for wanted in objects:
            actions = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
            there = {} if wanted["oid"] in self.server.stored else {"actions": actions}
            told.append({"oid": wanted["oid"], "size": wanted["size"], **there})
        self._json({"transfer": "basic", "objects": told})

    def _commit(self, name: str, repository: Repository, account: Account, content: bytes) -> None:
        self.server.before_commit()
        entries = [json.loads(line) for line in content.splitlines()]
        header = entries[0]["value"]
        parent = repository.references["main"]
        if header.get("parentCommit", parent) != parent:
            return self._error(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[parent].files)
        for entry in entries[1:]:
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                stored = self.server.stored.get(value["oid"])
                if stored is None or hashlib.sha256(stored).hexdigest() != value["oid"]:
                    return self._error(400, f"{value['path']}: its content did not arrive")
                files[value["path"]] = stored
            elif entry["key"] == "deletedFile":
                if value["path"] not in files:
                    return self._error(400, f"{value['path']}: there is no such file")
                del files[value["path"]]
        sha = repository.commit(files, title=header["summary"], author=account.name)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self._body:
            self.wfile.write(content)


def _git_hash(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _digest(name: str, content: bytes) -> str:
    kind = hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1
    return kind(content).hexdigest()


def _blob(name: str, content: bytes) -> dict[str, object]:
    large = {"oid": _digest(name, content), "sha256": _digest(name, content), "size": len(content), "pointerSize": 134}
    entry: dict[str, object] = {"oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
    return {**entry, "lfs": large} if name.endswith(LARGE) else entry


def _information(name: str, repository: Repository, sha: str, commit: Commit, blobs: bool) -> dict[str, object]:
    siblings = []
    for file, content in commit.files.items():
        entry = _blob(file, content)
        more = {"blobId": entry["oid"], **{key: entry[key] for key in ("size", "lfs") if key in entry}}
        siblings.append({"rfilename": file, **(more if blobs else {})})
    told = {"id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings}
    return {**told, "tags": [], "downloads": 0}


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
