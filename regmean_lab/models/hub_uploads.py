"""Uploads to the Hugging Face hub: everything that stands against one, asked before the work; and the upload itself.

The hub, its token and its cache are those of the hub's own library, as for downloads: ``HF_ENDPOINT``, ``HF_TOKEN`` or
what ``hf auth login`` has stored, ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from regmean_lab.models.hub import TIMEOUT_SECONDS, is_hub_name
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.quantities import counted

TOKENS = "https://huggingface.co/settings/tokens"
WRITERS = ("admin", "write", "contributor")
"""Roles in an organisation that may make repositories."""


class PushError(UserError):
    """What was to be pushed was not; the message says why, and what to do."""


@dataclass(frozen=True)
class Destination:
    """A repository of the hub that the token here may write to.

    Attributes:
        name: ``owner/name``.
        private: whether only its owner sees what is pushed.
        commit: its newest commit; None: it is not there yet.
        files: by name of the files that it has, what the hub says of their content: their SHA-256, or of small ones
            git's hash.
    """

    name: str
    private: bool
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its page."""
        return f"{constants.ENDPOINT}/{self.name}"

    @property
    def told(self) -> str:
        """Where it is and who sees it, for messages."""
        seen = "private" if self.private else "public"
        return f"{self.url} ({seen}{', new' if self.commit is None else ''})"


@dataclass(frozen=True)
class Pushed:
    """What was pushed.

    Attributes:
        commit: the commit that has it.
        sizes: bytes of each file by its name, of those that are there now.
        removed: files of an earlier push that are no longer there.
        changed: whether anything was different from what was there.
    """

    commit: str
    sizes: Mapping[str, int]
    removed: tuple[str, ...] = ()
    changed: bool = True


def repository_problem(name: str) -> str | None:
    """Why no repository can have a name; the hub is not asked."""
    if name.count("/") == 1 and is_hub_name(name):
        return None
    return f"push: {name!r} is not the name of a repository on the hub; expected owner/name"


def find_destination(name: str, *, private: bool) -> tuple[Destination | None, list[str]]:
    """Ask the hub whether something can be pushed to a repository; the answer is kept for the life of the process.

    Args:
        name: ``owner/name``.
        private: whether only its owner is to see it.

    Returns:
        The repository, or None, and everything that stands against the push.
    """
    if (problem := repository_problem(name)) is not None:
        return None, [problem]
    if constants.HF_HUB_OFFLINE:
        return None, ["push: offline mode is on (HF_HUB_OFFLINE), in which nothing can be pushed; unset it"]
    token = get_token()
    if token is None:
        return None, [f"push: no token of the hub is here; run hf auth login, or set HF_TOKEN ({TOKENS})"]
    destination, found = _asked(name, token, str(constants.ENDPOINT))
    if destination is not None and private and not destination.private:
        return None, [
            f"push: {name} is public, so everybody would see what is pushed; if that is meant, private=false, or make "
            f"it private first ({destination.url}/settings)"
        ]
    if destination is not None and destination.commit is None:
        destination = Destination(name, private)
    return destination, list(found)


def push(
    destination: Destination,
    files: Mapping[str, Path | bytes],
    message: str,
    *,
    removed: Collection[str] = (),
) -> Pushed:
    """Push files as one commit, whole or not at all; makes the repository if it is not there.

    Args:
        destination: the repository, as it was found before the work.
        files: by name in the repository, a file here or its content.
        message: of the commit.
        removed: files of the repository that the commit deletes.

    Raises:
        PushError: when the hub refuses, cannot be reached, or has another commit than before the work.
    """
    api, name, token = HfApi(), destination.name, get_token()
    gone = tuple(sorted(set(removed) & set(destination.files) - set(files)))
    added = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in files.items()
    ]
    sizes = {operation.path_in_repo: operation.upload_info.size for operation in added}
    parent = destination.commit
    try:
        if parent is None:
            api.create_repo(name, token=token, private=destination.private, exist_ok=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an empty front matter, and the like: nothing that stops it
            done = api.create_commit(
                name,
                [*added, *(CommitOperationDelete(path) for path in gone)],
                commit_message=message,
                token=token,
                parent_commit=parent,
            )
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        again = "The same command tries again; what is finished is found"
        raise PushError(f"not pushed to {name}: {_reason(error, name)}. {again}") from None
    _asked.cache_clear()  # the repository is another one now
    return Pushed(str(done.oid), sizes, gone, done.oid != parent)


def pushed_lines(destination: Destination, pushed: Pushed) -> list[str]:
    """What was pushed, in words: each file with its bytes."""
    where = f"{destination.told}, commit {pushed.commit[:10]}"
    if not pushed.changed:
        return [f"pushed nothing: {where} has these files already"]
    lines = [f"pushed to {where}: {counted(len(pushed.sizes), 'file')}, {sum(pushed.sizes.values()):,} bytes"]
    lines += [f"  {name} ({size:,} bytes)" for name, size in sorted(pushed.sizes.items())]
    return lines + [f"  {name} removed" for name in pushed.removed]


@lru_cache(maxsize=64)
def _asked(name: str, token: str, endpoint: str) -> tuple[Destination | None, tuple[str, ...]]:
    """The repository and what stands against writing to it, as the hub tells; with what visibility it has."""
    api = HfApi()
    destination: Destination | None = None
    try:
        # First the request that has a time limit.
        info = api.model_info(name, token=token, timeout=TIMEOUT_SECONDS, files_metadata=True)
        if info.id != name:
            return None, (f"push: {name} is called {info.id} now; push there",)
        files = {entry.rfilename: _digest(entry) for entry in info.siblings or []}
        destination = Destination(name, bool(info.private), str(info.sha), files)
    except RepositoryNotFoundError:
        pass  # to be made, if its owner is one whose token this is
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        return None, (f"push: {_reason(error, name)}",)
    try:
        account = api.whoami(token=token)
    except Exception as error:
        return None, (f"push: {_reason(error, name)}",)
    if problem := _token_problem(account) or (None if destination else _owner_problem(name, account)):
        return None, (f"push: {problem}",)
    if destination is None:
        return Destination(name, True), ()
    try:
        api.auth_check(name, token=token, write=True)
    except Exception as error:
        return None, (f"push: {_reason(error, name)}",)
    return destination, ()


def _digest(entry: Any) -> str:
    return str(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)


def _token_problem(account: Mapping[str, Any]) -> str | None:
    """Why a token cannot push anything at all."""
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        return f"the token {token.get('displayName', '')!r} is for reading only; make one with write right ({TOKENS})"
    return None


def _owner_problem(name: str, account: Mapping[str, Any]) -> str | None:
    """Why a repository that is not there cannot be made."""
    owner = name.partition("/")[0]
    token = (account.get("auth") or {}).get("accessToken") or {}
    organisations = {str(one.get("name")): str(one.get("roleInOrg")) for one in account.get("orgs") or []}
    if owner != account.get("name"):
        if owner not in organisations:
            others = ", ".join([f"yourself ({account.get('name')})", *organisations])
            return f"there is no {name}, and you cannot make one: {owner} is none of {others}"
        if organisations[owner] not in WRITERS:
            return f"there is no {name}, and you cannot make one: your role in {owner} is {organisations[owner]!r}"
    if token.get("role") == "fineGrained" and not _may_make(owner, token.get("fineGrained") or {}):
        return (
            f"there is no {name}, and the token {token.get('displayName', '')!r} may not make one: give it write "
            f"access to the repositories of {owner} ({TOKENS})"
        )
    return None


def _may_make(owner: str, rights: Mapping[str, Any]) -> bool:
    """Whether a fine-grained token has the right to write to all repositories of an owner."""
    scoped = [
        one.get("permissions") or []
        for one in rights.get("scoped") or []
        if (one.get("entity") or {}).get("name") == owner and one["entity"].get("type") in ("user", "org")
    ]
    return any("repo.write" in permissions for permissions in (*scoped, rights.get("global") or []))


def _reason(error: Exception, name: str) -> str:
    """Why the hub did not do what was asked, in a sentence without a full stop."""
    said = (str(error).strip() or type(error).__name__).splitlines()
    first = next((line.strip() for line in said if line.strip()), type(error).__name__)[:300].rstrip(".")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return f"{constants.ENDPOINT} does not accept the token; make another one ({TOKENS}) and log in again"
    if status == 403:
        return f"the token may not write to {name}; make one with write right for it ({TOKENS})"
    if status == 409:
        return f"{name} is there already, or somebody makes it at the same time"
    if status == 412:
        return f"{name} has changed since it was looked at before the work; look at what is new there"
    if status is None and not isinstance(error, ValueError):
        return f"{constants.ENDPOINT} cannot be reached ({first})"
    return f"{constants.ENDPOINT} refused it ({first})"
