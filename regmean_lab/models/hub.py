"""Models of the Hugging Face hub: which commit a name stands for and which files it has, without fetching weights."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from regmean_lab.utils.files import write_bytes

TIMEOUT_SECONDS = 10.0

CONVERSION_AUTHOR = "SFconvertbot"
CONVERSION_TITLE = "Adding `safetensors` variant of this model"
"""Author and title of the pull requests in which the hub's own service converts weights, as in transformers."""

SAFETENSORS_FILES = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
"""A repository that has none of these has no weights that can be read as they are."""

_CONFIGURATIONS = ("config.json", "adapter_config.json")
_MOST_REFERENCES = 50


@dataclass(frozen=True)
class HubModel:
    """A model of the hub, or of its local cache.

    Attributes:
        commit: the commit that its name and revision stand for now.
        problem: why there is none, or None.
        files: names of the files that it has at that commit, or of those that lie in the cache; None is unknown.
        folder: where its files lie in the cache, if the hub did not answer.
        reason: why the hub did not answer.
    """

    commit: str = ""
    problem: str | None = None
    files: tuple[str, ...] | None = None
    folder: Path | None = None
    reason: str = ""


def split_reference(reference: str) -> tuple[str, str | None]:
    """Name and revision of ``name@revision``; a branch, a tag or a commit. Local folders are not looked for here."""
    name, at, revision = reference.partition("@")
    return (name, revision) if at else (reference, None)


def is_hub_name(name: str) -> bool:
    """Whether a model of the hub can be called that: ``model`` or ``owner/model``."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith((".", "~", "-"))


def find_on_hub(name: str, revision: str | None) -> HubModel:
    """Ask the hub once, without retries, what a name stands for; where it does not answer, take what its cache holds.

    The answer is kept for the life of the process: all jobs of a sweep get the same commit.

    Args:
        name: the model's name on the hub.
        revision: branch, tag or commit; None is ``main``.
    """
    if revision == "":
        return HubModel(problem=f"'{name}@': expected a branch, a tag or a commit after '@'")
    return _find(name, revision or "main", str(constants.HF_HUB_CACHE), bool(constants.HF_HUB_OFFLINE))


@lru_cache(maxsize=64)
def _find(name: str, revision: str, cache: str, offline: bool) -> HubModel:
    if not is_hub_name(name):
        return HubModel(problem=f"{name!r} is neither a local folder nor a name that a model of the hub can have")
    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
        assert info.sha is not None
        listed = getattr(info, "siblings", None)
        return HubModel(info.sha, files=None if listed is None else tuple(entry.rfilename for entry in listed))
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        reason = "offline mode" if offline else (str(error).strip() or type(error).__name__).splitlines()[0]
    found = [try_to_load_from_cache(name, file, cache_dir=cache, revision=revision) for file in _CONFIGURATIONS]
    cached = next((path for path in found if isinstance(path, str)), None)
    if cached is None:
        asked = name if revision == "main" else f"{name} --revision {revision}"
        of = "" if revision == "main" else f" at revision {revision!r}"
        return HubModel(
            problem=(
                f"{name!r}{of} is not a local folder, not in the Hugging Face cache, and could not be found on the hub "
                f"({reason}). Fetch it where there is a network: hf download {asked}; or pass a local folder: "
                "model.checkpoint=/path/to/folder"
            )
        )
    folder = Path(cached).parent
    files = tuple(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    # The cache keeps the files of each commit in a separate folder.
    return HubModel(folder.name, files=files, folder=folder, reason=reason)


def cached_folder(name: str, commit: str) -> Path | None:
    """Where the files of a commit lie in the cache, if any of its weights are there."""
    for file in SAFETENSORS_FILES:
        found = try_to_load_from_cache(name, file, cache_dir=str(constants.HF_HUB_CACHE), revision=commit)
        if isinstance(found, str):
            return Path(found).parent
    return None


def digests(name: str, revision: str, files: Iterable[str]) -> dict[str, str]:
    """What the hub says of the content of files: their SHA-256, or of small ones git's hash.

    Raises:
        Exception: whatever the hub's library raises.
    """
    info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS, files_metadata=True)
    wanted = set(files)
    found = {}
    for entry in info.siblings or []:
        digest = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
        if entry.rfilename in wanted and digest:
            found[entry.rfilename] = digest
    return found


@lru_cache(maxsize=64)
def conversion_on_hub(name: str, commit: str, pickled: tuple[str, ...]) -> str | None:
    """The commit of the hub's own conversion to safetensors of the weights at a commit; None if there is none.

    It must be by the hub's service, and be of these very weights: its branch still has them, or comes from the commit.

    Args:
        name: the model's name on the hub.
        commit: whose weights are wanted.
        pickled: the files that hold them.
    """
    own = _try(digests, name, commit, pickled) or {}
    for number in _conversions(name):
        reference = f"refs/pr/{number}"
        info: Any = _try(HfApi().model_info, name, revision=reference, timeout=TIMEOUT_SECONDS)
        if info is None or info.sha is None:
            continue
        files = {entry.rfilename for entry in info.siblings or []}
        if not files & set(SAFETENSORS_FILES):
            continue
        theirs = _try(digests, name, info.sha, pickled) or {}
        # Names alone are not enough: the weights may have been replaced since.
        same = bool(own) and set(own) == set(pickled) and own == theirs
        if same or _comes_from(name, reference, commit):
            return str(info.sha)
    return None


def _conversions(name: str) -> Iterator[int]:
    """Numbers of the pull requests by the hub's service that converts weights, newest first."""
    try:
        found = [
            discussion.num
            for discussion in HfApi().get_repo_discussions(
                name, author=CONVERSION_AUTHOR, discussion_type="pull_request", discussion_status="all"
            )
            if discussion.is_pull_request
            and discussion.author == CONVERSION_AUTHOR
            and discussion.title == CONVERSION_TITLE
            and discussion.status in ("open", "draft", "merged")
        ]
    except Exception:  # a repository may be without discussions; its branches stay, and tell who made them
        found = list(_conversions_by_commits(name))
    yield from sorted(found, reverse=True)


def _conversions_by_commits(name: str) -> Iterator[int]:
    references = _try(HfApi().list_repo_refs, name, include_pull_requests=True)
    listed = [reference.ref for reference in (references.pull_requests or [])] if references is not None else []
    numbers = [int(match[1]) for reference in listed if (match := re.fullmatch(r"refs/pr/(\d+)", reference))]
    for number in sorted(numbers, reverse=True)[:_MOST_REFERENCES]:
        commits = _try(HfApi().list_repo_commits, name, revision=f"refs/pr/{number}") or []
        if commits and CONVERSION_AUTHOR in commits[0].authors and commits[0].title == CONVERSION_TITLE:
            yield number


def _comes_from(name: str, reference: str, commit: str) -> bool:
    commits = _try(HfApi().list_repo_commits, name, revision=reference) or []
    # The commit before the conversion is the one that was converted: between them nothing can have changed.
    return len(commits) > 1 and commits[1].commit_id == commit


def _try(ask: Any, *arguments: Any, **settings: Any) -> Any:
    try:
        return ask(*arguments, **settings)
    except Exception:  # the hub's library raises those of whatever HTTP library it uses
        return None


def fetch(
    name: str, commit: str, files: Iterable[str] | None, patterns: Iterable[str] = (), revision: str | None = None
) -> Path:
    """Have files of a commit in the cache.

    Args:
        name: the model's name on the hub.
        commit: the commit.
        files: their names, or None: what fits ``patterns``.
        patterns: as the hub's library takes them; used where no files are named.
        revision: what was asked for, for which the cache stands in where there is no network.

    Returns:
        The folder of the commit in the cache.

    Raises:
        Exception: whatever the hub's library raises.
    """
    allowed = list(patterns) if files is None else [glob.escape(file) for file in files]
    folder = Path(snapshot_download(name, revision=commit, allow_patterns=allowed))
    if revision is not None and revision != commit:
        noted = folder.parent.parent / "refs" / revision  # as the hub's library notes it when it is asked for a branch
        noted.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(noted, commit.encode())
    return folder
