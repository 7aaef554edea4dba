"""Several processes on this machine that share one piece of work, one device each.

The command runs in one process, which holds locks and writes results. Where a piece of work can be divided (training,
collecting statistics) and `trainer.devices` asks for it, that process starts others for just this piece. Lightning's
own launchers do not serve here: the one that runs the script again would run the whole job in every process, and wait
for ever at the first lock; those that start processes bring back the weights, but nothing else that training found out.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

from regmean_lab.config.groups import TrainerConfig
from regmean_lab.statistics import world_size
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.quiet import quiet_libraries

T = TypeVar("T")

LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"
PRELOADED = ("regmean_lab.training.train", "regmean_lab.callbacks.statistics")
"""What processes import; where the system allows, it is imported once for all of them."""


class ProcessError(UserError, RuntimeError):
    """A process was killed."""


def uses_cuda(accelerator: str) -> bool:
    """Whether a trainer with this accelerator computes on CUDA GPUs."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def first_device(accelerator: str) -> torch.device:
    """The device on which a trainer with this accelerator and one device computes."""
    if uses_cuda(accelerator):
        return torch.device("cuda", 0)
    return torch.device("mps" if accelerator == "mps" else "cpu")


def device_problems(trainer: TrainerConfig) -> list[str]:
    """What stands in the way of the configured devices here: one message each, beginning with the setting's name."""
    if trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        return ["trainer.accelerator: no CUDA GPU is available here; use trainer=cpu or trainer=auto"]
    if uses_cuda(trainer.accelerator) and trainer.devices > torch.cuda.device_count():
        return [f"trainer.devices: expected at most {torch.cuda.device_count()}, the number of GPUs here"]
    return []


def trainer_devices(
    trainer: TrainerConfig, *, together: bool = False, unused_parameters: bool = False
) -> dict[str, Any]:
    """Arguments of Lightning's ``Trainer`` that choose devices.

    Args:
        trainer: the configuration.
        together: whether all processes of a running process group train one model; otherwise, and without a process
            group, a single device is used: in a process group on GPUs, that of the process.
        unused_parameters: whether a step leaves parameters of the model out, as those of another task's head.
    """
    if together and world_size() > 1:
        from pytorch_lightning.plugins.environments import LightningEnvironment  # devices are checked without Lightning

        fitting = "ddp_find_unused_parameters_true" if unused_parameters else "ddp"
        return {
            "devices": world_size(),
            "strategy": fitting if trainer.strategy == "auto" else trainer.strategy,
            # Processes are ours, whatever scheduler started the command.
            "plugins": [LightningEnvironment()],
        }
    if world_size() > 1 and uses_cuda(trainer.accelerator):
        return {"devices": [torch.cuda.current_device()]}
    return {"devices": 1}


def run_together(trainer: TrainerConfig, work: Callable[[], T]) -> T:
    """Do ``work`` in as many processes as there are devices, joined in a process group.

    Args:
        trainer: says how many, and on what.
        work: a function of a module, or a `functools.partial` of one: it is sent to the processes.

    Returns:
        What it returned in the first process.

    Raises:
        Exception: what ``work`` raised in the process that failed first; the others are ended.
        ProcessError: when a process was killed.
    """
    methods = multiprocessing.get_all_start_methods()
    # Not fork: threads of this process, and CUDA, do not survive it.
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory(prefix="regmean-lab-") as folder:
        processes, receivers = [], []
        try:
            for number in range(trainer.devices):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (number, trainer, Path(folder) / "store", sender, work)
                process = context.Process(target=_run_one, args=arguments, name=f"device {number}")  # type: ignore[attr-defined]
                process.start()
                sender.close()
                processes.append(process)
                receivers.append(receiver)
            result: T = _wait(receivers)
            for process in processes:
                process.join()
            return result
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                process.join()


def _wait(receivers: Sequence[Connection]) -> Any:
    """The first process's result, when all have ended; or raise what one of them has raised."""
    open_ones, result = list(receivers), None
    while open_ones:
        for receiver in wait(open_ones):
            assert isinstance(receiver, Connection)
            number = receivers.index(receiver)
            try:
                error, value, trace = receiver.recv()
            except EOFError:
                raise ProcessError(f"the process of device {number} was killed; is there enough memory?") from None
            if error is not None:
                raise error from RuntimeError(f"in the process of device {number}:\n{trace}")
            result = value if number == 0 else result
            open_ones.remove(receiver)
    return result


def _run_one(number: int, trainer: TrainerConfig, store: Path, sender: Connection, work: Callable[[], Any]) -> None:
    """What one process does: join the group, work, send back what came of it."""
    # Where Lightning looks for what it did not start itself.
    os.environ.update(LOCAL_RANK=str(number), NODE_RANK="0", MASTER_ADDR="127.0.0.1")
    logging.basicConfig(level=logging.INFO if number == 0 else logging.ERROR, format=LOG_FORMAT)
    quiet_libraries()
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # every process evaluates all of the dev set
    cuda = uses_cuda(trainer.accelerator)
    if cuda:
        torch.cuda.set_device(number)
    else:
        torch.set_num_threads(max(1, (trainer.threads or torch.get_num_threads()) // trainer.devices))
    try:
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo", init_method=f"file://{store}", rank=number, world_size=trainer.devices
        )
        result = work()
        sender.send((None, result if number == 0 else None, ""))
        torch.distributed.destroy_process_group()
    except BaseException as error:
        with suppress(OSError):  # nobody listens any more: the command was interrupted
            sender.send((_portable(error), None, traceback.format_exc()))
    finally:
        sender.close()


def _portable(error: BaseException) -> BaseException:
    """The error, or one that says the same if it would not arrive as it is in another process."""
    # Pickled in memory only, and what is read was written one line above.
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    return error if vars(error) == getattr(copy, "__dict__", None) else RuntimeError(f"{type(error).__name__}: {error}")
