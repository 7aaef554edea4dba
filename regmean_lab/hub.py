"""Models of the Hugging Face hub: which commit a name stands for, without fetching weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class HubModel:
    """A model of the hub, or of its local cache.

    Attributes:
        commit: the commit that its name and revision stand for now.
        problem: why there is none, or None.
    """

    commit: str = ""
    problem: str | None = None


def find_on_hub(name: str, revision: str | None) -> HubModel:
    """Ask the hub once, without retries, what a name stands for; where it does not answer, take what its cache holds.

    The answer is kept for the life of the process: all jobs of a sweep get the same commit.

    Args:
        name: the model's name on the hub.
        revision: branch, tag or commit; None is ``main``.
    """
    return _find(name, revision or "main", str(constants.HF_HUB_CACHE), bool(constants.HF_HUB_OFFLINE))


@lru_cache(maxsize=64)
def _find(name: str, revision: str, cache: str, offline: bool) -> HubModel:
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS).sha
        assert commit is not None
        return HubModel(commit)
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        reason = "offline mode" if offline else (str(error).strip() or type(error).__name__).splitlines()[0]
    try:
        cached = try_to_load_from_cache(name, "config.json", cache_dir=cache, revision=revision)
    except HFValidationError:
        return HubModel(problem=f"{name!r} is neither a local folder nor a name that a model of the hub can have")
    if not isinstance(cached, str):
        return HubModel(
            problem=(
                f"{name!r} is no local folder, not in the Hugging Face cache, and could not be found on the hub "
                f"({reason}). Fetch it where there is a network: hf download {name}; or name a local folder: "
                "model.checkpoint=/path/to/folder"
            )
        )
    folder = Path(cached).parent
    if not any(folder.glob("*.safetensors")):
        return HubModel(
            problem=(
                f"no safetensors weights of {name} are in the Hugging Face cache, and the hub could not be asked "
                f"({reason}). Fetch them where there is a network: hf download {name}"
            )
        )
    return HubModel(folder.name)  # the cache keeps the files of each commit in a folder of its own
