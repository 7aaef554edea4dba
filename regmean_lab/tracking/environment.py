"""The machine and software that produced a result, as recorded in it."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import regmean_lab
from regmean_lab.tracking.sweep_name import COMMAND_VARIABLE
from regmean_lab.utils.installed import installed_version

PACKAGES = (
    "regmean_lab",
    "torch",
    "pytorch-lightning",
    "transformers",
    "datasets",
    "hydra-core",
    "torchmetrics",
    "tokenizers",
    "safetensors",
    "numpy",
)

CGROUP_MEMORY = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where Linux tells a container's limit of memory, and how much of it is used."""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {package: installed_version(package) or "not installed" for package in PACKAGES}
    return {"python": platform.python_version(), **found}


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Commit of the checkout that the package runs from, with ``+changes`` if files differ from it; None elsewhere."""
    root = Path(regmean_lab.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def environment(device: torch.device, overrides: list[str]) -> dict[str, Any]:
    """Versions, device, threads, commit and command line.

    Args:
        device: where the job ran.
        overrides: the job's overrides (in a sweep, those of this one job).
    """
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "commit": commit(),
        "command": command_line(overrides),
        "threads": torch.get_num_threads(),
        "started_as": started_as(),
    }


def started_as() -> str:
    """The command that was started: a sweep's jobs may run in other processes than the command itself."""
    return os.environ.get(COMMAND_VARIABLE) or command_line(sys.argv[1:])


def command_line(overrides: list[str]) -> str:
    """The command that runs this one job again."""
    return shlex.join(["python", "-m", "regmean_lab", *overrides])


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def available_memory_bytes(device: torch.device) -> int | None:
    """Memory that is free: of a GPU, or of this machine within the limit of the process's group; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    for limit, used in CGROUP_MEMORY:
        try:
            left = int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        free = min(free, max(left, 0))
    return free


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
