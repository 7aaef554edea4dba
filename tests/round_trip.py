"""The round trip: members are trained and published, their data are deleted, and a stranger merges them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compositions import compose_job
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from regmean_lab import experiment
from regmean_lab.checkpoints import collect_command as collect_statistics
from regmean_lab.checkpoints import merge_command as merge_checkpoints
from regmean_lab.config.schema import settings_of
from regmean_lab.results import Result
from regmean_lab.zoo import Zoo


def compose_root(root: str, *overrides: str) -> DictConfig:
    """The configuration of an experiment with a root configuration of its own."""
    config: DictConfig = compose_job(*overrides, "trainer=cpu", root=root)
    return config


def publish_and_merge(
    folder: Path,
    members: Sequence[str],
    compose_job: Callable[..., DictConfig],
    overrides: Sequence[str],
    kind: str,
    *,
    collecting: Sequence[str] = (),
) -> tuple[Result, dict[str, Tensor], dict[str, Tensor]]:
    """Merge in an experiment; publish its members with statistics of one kind, delete everything else, and merge those.

    Args:
        folder: an empty one; the data are in ``folder / "data"``.
        members: two corpora of a suite whose examples have one text.
        compose_job: composes the experiment's configuration.
        overrides: of that.
        kind: of the statistics that the method needs.
        collecting: overrides for the collection of statistics.

    Returns:
        The experiment's result, the weights that it merged, and those that the stranger merged.
    """
    overrides = [
        *overrides,
        *("trainer=cpu", "trainer.progress_bar=false", "logger=none", "save_merged=true"),
        *(f"members=[{','.join(members)}]", f"paths.data_dir={folder / 'data'}", f"paths.zoo_dir={folder / 'zoo'}"),
    ]
    config = compose_job(*overrides)
    result, _ = experiment.run(config, folder / "job", overrides)
    assert result is not None
    suite = settings_of(config).suite
    for member in members:
        entry = Zoo(folder / "zoo").find(result.zoo[member])
        assert entry is not None
        own = shutil.ignore_patterns("statistics", "training.json", "README.md")
        shutil.copytree(entry.path, folder / member, ignore=own)
        texts: list[Any] = list(suite.examples(member, "train"))
        (folder / f"{member}.txt").write_text("".join(f"{example.text}\n" for example in texts), encoding="utf-8")
        settings = (f"checkpoint={folder / member}", f"data={folder / member}.txt", f"kinds=[{kind}]", *collecting)
        config = compose_root("collect_statistics", *settings, f"paths.output_dir={folder / 'outputs'}")
        collect_statistics.check(config)
        collect_statistics.run(config, folder / f"published-{member}")
        (folder / f"{member}.txt").unlink()
    for gone in ("data", "zoo"):
        shutil.rmtree(folder / gone)
    checkpoints = ",".join(str(folder / member) for member in members)
    method = [override for override in overrides if override.startswith("method")]
    config = compose_root(
        "merge_checkpoints",
        *(f"checkpoints=[{checkpoints}]", *method, f"output={folder / 'merged'}"),
        f"paths.output_dir={folder / 'outputs'}",
    )
    merge_checkpoints.check(config)
    merge_checkpoints.run(config, folder / "merge")
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder / "job" / "merged", folder / "merged"))
    return result, ours, theirs
