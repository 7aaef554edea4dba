"""A device without memory, in each stage: what users are told, what is left behind, and that the next try completes."""

from __future__ import annotations

import errno
import gc
import json
import platform
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

import regmean_lab.callbacks.merge
from regmean_lab.__main__ import main
from regmean_lab.callbacks.statistics import Collect
from regmean_lab.checkpoints.merge_work import MergeWork
from regmean_lab.config.resolvers import job_folder
from regmean_lab.experiment import run
from regmean_lab.merging.parameters import MergeError
from regmean_lab.modules import TaskModule
from regmean_lab.statistics.kinds.gram import GramKind
from regmean_lab.sweeps.task_function import JobError
from regmean_lab.utils.memory import MemoryShortage, is_memory_error, memory_for
from regmean_lab.zoo import Zoo

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 14.5 GiB memory in use."
)
TOLD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.20 GiB is free"
)


class Device:
    """A device whose memory is full from some call of a function on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def full_in(self, owner: Any, name: str, after: int = 0) -> None:
        """Have a function fail after so many calls."""
        function, calls = getattr(owner, name), [0]

        def called(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] > after:
                raise torch.OutOfMemoryError(CUDA)
            return function(*arguments, **named)

        self.monkeypatch.setattr(owner, name, called)

    def full_amid(self, owner: Any, name: str, after: int) -> None:
        """Have a generator fail after so many values."""
        function = getattr(owner, name)

        def generator(*arguments: Any, **named: Any) -> Iterator[Any]:
            for number, value in enumerate(function(*arguments, **named)):
                if number == after:
                    raise torch.OutOfMemoryError(CUDA)
                yield value

        self.monkeypatch.setattr(owner, name, generator)

    def free(self) -> None:
        self.monkeypatch.undo()


@pytest.fixture
def device() -> Iterator[Device]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Device(monkeypatch)


class Workspace:
    def __init__(self, root: Path, output_dir: Path, compose: Callable[..., DictConfig]) -> None:
        self.zoo, self.output_dir = root / "zoo", output_dir
        self.compose, self.overrides = compose, overrides(root, output_dir)

    def run(self, *more: str) -> tuple[Any, bool]:
        config = self.compose(*self.overrides, *more)
        return run(config, self.output_dir / job_folder(config), [])

    def files(self) -> set[str]:
        """What is in the zoo, but for locks, and all results."""
        zoo = {path.relative_to(self.zoo).as_posix() for path in self.zoo.rglob("*") if path.is_file()}
        return {name for name in zoo if not name.endswith(".lock")} | {
            path.name for path in self.output_dir.rglob("*") if path.name in ("result.json", "model.safetensors")
        }


def overrides(root: Path, output_dir: Path) -> list[str]:
    return [
        *("suite=emotion", "suite.out_of_domain=[emoint]", "model=pico_bert", "members=[tec,isear]", "trainer=cpu"),
        *("trainer.progress_bar=false", "logger=none", "training.epochs=1", "training.batch_size=16"),
        *("statistics.gram.examples=16", "measure_divergence=false", f"paths.data_dir={root / 'data'}"),
        *(f"paths.zoo_dir={root / 'zoo'}", f"paths.output_dir={output_dir}"),
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    write_emotions(folder / "data")
    return folder


@pytest.fixture
def workspace(root: Path, tmp_path: Path, compose_job: Callable[..., DictConfig]) -> Workspace:
    """Data and members are shared."""
    return Workspace(root, tmp_path / "outputs", compose_job)


def test_in_training_the_finished_member_stays(
    tmp_path: Path, write_emotions: Callable[[Path], Path], compose_job: Callable[..., DictConfig], device: Device
) -> None:
    write_emotions(tmp_path / "data")
    own = Workspace(tmp_path, tmp_path / "outputs", compose_job)
    device.full_in(TaskModule, "training_step", after=4)  # three batches of the first member, one of the second
    with pytest.raises(MemoryShortage) as told:
        own.run("method=simple")
    assert str(told.value).splitlines() == [
        f"out of memory: train isear, seed 1, on cpu in batches of 16 examples (32-true): {TOLD}",
        "  takes less: training.gradient_checkpointing=true (same weights, slower)",
        "  takes less: training.eval_batch_size=16 (if it was on dev; same weights)",
        "  takes less: training.batch_size=8 training.accumulate=2 (as many examples a step)",
        "  takes less: training.precision=bf16-mixed (other roundings)",
    ]
    (kept,) = Zoo(own.zoo).entries()
    assert kept.training["description"]["corpus"] == "tec"
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    written = kept.weights_path.stat().st_mtime_ns
    device.free()
    result, computed = own.run("method=simple")
    assert computed
    assert len(result.zoo) == 2
    assert kept.weights_path.stat().st_mtime_ns == written


@pytest.mark.parametrize("place", ["batches", "file"])
def test_in_statistics_no_file_is_left(workspace: Workspace, device: Device, place: str) -> None:
    workspace.run("method=simple")
    before = workspace.files()
    if place == "batches":
        device.full_in(Collect, "on_test_batch_start", after=1)
    else:
        device.full_in(GramKind, "save")
    examples = 8 if place == "file" else 16  # other statistics than those of the other case, as members are shared
    settings = ("method=regmean", f"statistics.gram.examples={examples}", "statistics.batch_tokens=64")
    match = "^out of memory: gram statistics of emotion-tec-.*, on cpu in batches of 64 tokens: CUDA"
    with pytest.raises(MemoryShortage, match=match) as told:
        workspace.run(*settings)
    assert "takes less: statistics.batch_tokens=32 (only roundings change)" in str(told.value)
    assert "blocks=auto" in str(told.value)
    assert workspace.files() == before
    device.free()
    assert workspace.run(*settings)[1]


def test_in_a_merge_no_result_is_left(workspace: Workspace, device: Device) -> None:
    workspace.run("method=simple")
    before = workspace.files()
    device.full_amid(regmean_lab.callbacks.merge, "merge_members", after=3)
    with pytest.raises(MemoryShortage, match=r"^out of memory: merge tec, isear by slerp, on cpu: CUDA") as told:
        workspace.run("method=slerp")
    assert "takes less: method=simple" in str(told.value)
    assert workspace.files() == before
    device.free()
    assert workspace.run("method=slerp")[1]


@pytest.mark.parametrize("method", ["ensemble", "slerp"])
def test_in_an_evaluation_no_result_is_left(workspace: Workspace, device: Device, method: str) -> None:
    workspace.run("method=simple")
    before = workspace.files()
    device.full_in(TaskModule, "test_step", after=1)
    match = f"^out of memory: evaluate {method} of tec, isear, on cpu in batches of 32 examples: CUDA"
    with pytest.raises(MemoryShortage, match=match) as told:
        workspace.run(f"method={method}")
    assert "takes less: training.eval_batch_size=16 (same members and scores)" in str(told.value)
    assert workspace.files() == before
    device.free()
    result, computed = workspace.run(f"method={method}", "training.eval_batch_size=16")
    assert computed and result.method == method


def test_a_sweep_goes_on_and_says_which_job_failed(
    root: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "outputs"
    command = ["regmean_lab", "-m", "method=task_arithmetic,simple", *overrides(root, output_dir)]
    function, first = regmean_lab.callbacks.merge.merge_members, []

    def merged(method: Any, *arguments: Any, **named: Any) -> Any:
        first.append(method.name)
        if method.name == "task_arithmetic":
            raise torch.OutOfMemoryError(CUDA)
        return function(method, *arguments, **named)

    device.monkeypatch.setattr(regmean_lab.callbacks.merge, "merge_members", merged)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 1
    assert first == ["task_arithmetic", "simple"]
    shown = capsys.readouterr().err
    assert "out of memory: merge tec, isear by task_arithmetic, on cpu" in shown
    assert "1 of 2 jobs failed; other results are kept" in shown
    assert "Traceback" not in shown
    results = [json.loads(path.read_text()) for path in output_dir.rglob("result.json") if path.is_file()]
    assert {result["method"] for result in results} == {"simple"}
    device.free()
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert "2 results, 1 computed now" in capsys.readouterr().out


def test_a_merge_of_folders_keeps_what_was_there(
    root: Path, workspace: Workspace, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.run("method=simple")
    folders = ",".join(str(entry.path) for entry in Zoo(root / "zoo").entries())
    output = tmp_path / "merged"

    def merge(method: str) -> None:
        arguments = ["merge", f"checkpoints=[{folders}]", f"method={method}", f"output={output}", "trainer=cpu"]
        monkeypatch.setattr(sys, "argv", ["regmean_lab", *arguments, f"paths.output_dir={tmp_path / 'out'}"])
        main()

    merge("simple")
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    device.full_amid(MergeWork, "parameters", after=3)
    with pytest.raises(SystemExit):
        merge("slerp")
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    device.free()
    merge("slerp")
    assert (output / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_what_the_failed_work_held_is_freed() -> None:
    """Otherwise the next job of a sweep would fail, too: launchers keep the error of a job."""
    held: list[weakref.ref[Tensor]] = []

    def work() -> None:
        large = torch.zeros(3)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError(CUDA)

    with pytest.raises(JobError) as kept:
        try:
            with memory_for("work", []):
                work()
        except MemoryShortage as error:
            raise JobError(str(error)) from error
    gc.collect()
    assert held[0]() is None
    assert kept.value.__cause__ is not None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("anything"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_errors_for_lack_of_memory(error: Exception) -> None:
    assert is_memory_error(error)
    with pytest.raises(MemoryShortage, match=r"^out of memory: work: "), memory_for("work", []):
        raise error


def test_the_real_error_of_main_memory() -> None:
    with pytest.raises(MemoryShortage, match="alloc"), memory_for("work", []):
        torch.empty(1 << 60)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), OSError(errno.ENOSPC, "full"), MergeError("NaN")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as passed, memory_for("work", []):
        raise error
    assert passed.value is error


PIECES = """
import sys
from regmean_lab.utils.memory import give_back_free_memory

def block(size):
    return bytearray(b"x") * size

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

block(7 << 20)  # once freed, blocks up to its size are kept
before, kept = resident(), []
for _ in range(100):
    large = block(2 << 20)
    kept += [block(64 << 10), large]
del large
kept = kept[::2]
if sys.argv[1] == "given back":
    give_back_free_memory()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is of glibc")
def test_free_memory_between_what_is_in_use_is_given_back() -> None:
    """200 MB are freed, between small blocks that stay."""
    held = {}
    for name in ("kept", "given back"):
        command = [sys.executable, "-c", PIECES, name]
        held[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert held["kept"] > 150 << 20 and held["given back"] < 50 << 20
