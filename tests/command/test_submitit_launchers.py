"""How the launchers by submitit tell of jobs that do not end; SLURM's commands are stand-ins here."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.regmean_lab_launchers import submitit_launchers
from hydra_plugins.regmean_lab_launchers.submitit_launchers import SubmititLocalLauncher, SubmititSlurmLauncher
from regmean_lab.config.grids import composing, config_loader
from regmean_lab.sweeps import slurm_queue
from regmean_lab.sweeps.launchers import register_launchers
from regmean_lab.sweeps.lost_jobs import reason_of_loss

submitit = pytest.importorskip("submitit")

JOBS = [["seed=1"], ["seed=2"]]


@pytest.fixture
def slurm(compose_job: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A launcher whose jobs have the number 7, and of which `squeue` says what is in a file."""
    register_launchers()
    for name, script in (("sbatch", "echo Submitted batch job 7"), ("srun", ""), ("squeue", f"cat {tmp_path}/queue")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("GRACE_SECONDS", "FIRST_DELAY"):
        monkeypatch.setattr(slurm_queue, name, 0.0)
    monkeypatch.setattr(submitit_launchers, "time", SimpleNamespace(sleep=lambda seconds: None))
    config = compose_job("hydra/launcher=submitit_slurm", f"paths.output_dir={tmp_path}", return_hydra_config=True)
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.job.name = "regmean_lab"
    settings = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(settings, dict)
    launcher = SubmititSlurmLauncher(**{str(key): value for key, value in settings.items() if key != "_target_"})
    with composing():
        context = HydraContext(config_loader=config_loader(), callbacks=Callbacks())
    launcher.setup(hydra_context=context, task_function=len, config=config)
    return launcher


@pytest.mark.parametrize(
    ("state", "begun", "reason"),
    [
        ("CANCELLED", True, "SLURM job 7_1 ended as CANCELLED; what it wrote: LOG"),
        ("OUT_OF_MEMORY", True, "SLURM job 7_1 ended as OUT_OF_MEMORY (more memory: hydra.launcher.mem_gb); what it "),
        ("TIMEOUT", True, "SLURM job 7_1 ended as TIMEOUT (more time: hydra.launcher.timeout_min); what it wrote: LOG"),
        ("BOOT_FAIL", False, "SLURM job 7_1 ended as BOOT_FAIL before it began"),
        ("CANCELLED", False, "SLURM job 7_1 was cancelled before it began"),
        (None, False, "SLURM job 7_1 was cancelled before it began"),
        (None, True, "SLURM job 7_1 has no result, and SLURM does not know it any more; what it wrote: LOG"),
    ],
)
def test_the_reason_of_a_loss(
    state: str | None, begun: bool, reason: str, slurm: SubmititSlurmLauncher, tmp_path: Path
) -> None:
    rows = ["7_0|FAILED|None", *([f"7_1|{state}|None"] if state is not None else [])]
    (tmp_path / "queue").write_text("\n".join(rows) + "\n")
    log = tmp_path / ".submitit" / "7_1" / "7_1_0_log.err"
    if begun:
        log.parent.mkdir(parents=True)
        log.touch()
    first, second = slurm.launch(JOBS, 0)
    assert {first.status, second.status} == {JobStatus.FAILED}
    assert reason_of_loss(first) == "SLURM job 7_0 ended as FAILED before it began"
    assert (reason_of_loss(second) or "").startswith(reason.replace("LOG", str(log)))


def test_a_command_that_is_interrupted_says_how_to_end_its_jobs(
    slurm: SubmititSlurmLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    (tmp_path / "queue").write_text("7_0|RUNNING|None\n7_1|PENDING|Resources\n")
    monkeypatch.setattr(submitit_launchers, "time", SimpleNamespace(sleep=interrupt))
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        slurm.launch(JOBS, 0)
    assert "the jobs go on without the command; to end them: scancel 7" in caplog.text


def test_processes_of_this_machine_that_end_without_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is killed, and one that cannot run what it was sent."""
    monkeypatch.setattr(submitit.local.local.LocalJob, "_results_timeout_s", 0)
    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(timeout_min=5)
    killed, broken = executor.submit(os._exit, 9), executor.submit(functools.partial(int, "four"))
    launcher = SubmititLocalLauncher()
    reason = reason_of_loss(launcher.returned(killed, ["seed=1"]))
    assert reason == f"its process was killed; what it wrote: {killed.paths.stderr}"
    reason = reason_of_loss(launcher.returned(broken, ["seed=2"]))
    assert reason is not None
    assert reason.startswith("ValueError: invalid literal for int() with base 10: 'four'; what it wrote: ")
