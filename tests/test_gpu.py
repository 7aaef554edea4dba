"""Every path on a CUDA GPU: what it gives is what a processor gives, but for rounding.

Without a GPU they are skipped; ``REGMEAN_LAB_TEST_GPU=cpu`` runs them with the processor in its place, to try them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed
from compositions import compose_job
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from regmean_lab.checkpoints import collect_command, evaluate_command, merge_command
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.config.resolvers import job_folder
from regmean_lab.experiment import run
from regmean_lab.results import MERGED_FOLDER, Result
from regmean_lab.training.processes import run_together
from regmean_lab.zoo import Zoo

GPU = os.environ.get("REGMEAN_LAB_TEST_GPU", "gpu")
ROUNDING = 2e-3
"""Share of the largest element by which weights may differ: of sums in another order, through several steps."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(GPU == "gpu" and not torch.cuda.is_available(), reason="no CUDA GPU here"),
]


class Workspace:
    """Data, and a zoo for each device."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "data"

    def zoo(self, device: str) -> Path:
        return self.root / f"zoo-{device}"

    def common(self, device: str, folder: Path) -> list[str]:
        return [
            *(f"trainer={device}", "trainer.progress_bar=false", f"paths.zoo_dir={self.zoo(device)}"),
            f"paths.output_dir={folder / device}",
        ]

    def job(self, device: str, folder: Path, *overrides: str) -> tuple[Result, Path]:
        """A job on a device; its result, and its folder."""
        config: DictConfig = compose_job(
            *("suite=emotion", "suite.out_of_domain=[emoint]", "model=pico_bert", "model.dropout=0.0"),
            *("members=[tec,isear]", "logger=none", "training.epochs=1", "training.batch_size=16", "save_merged=true"),
            *("statistics.gram.examples=16", "statistics.fisher.examples=16", f"paths.data_dir={self.data}"),
            *self.common(device, folder),
            *overrides,
        )
        own = folder / device / job_folder(config)
        result, computed = run(config, own, [])
        assert computed
        return result, own


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]) -> Workspace:
    """Members that were trained on the processor, in two zoos without statistics."""
    from regmean_lab.config.resolvers import register_resolvers

    register_resolvers()
    root = tmp_path_factory.mktemp("gpu")
    write_emotions(root / "data")
    made = Workspace(root)
    made.job("cpu", root / "made", "method=simple")
    if GPU != "cpu":
        shutil.copytree(made.zoo("cpu"), made.zoo(GPU))
    return made


def close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float = ROUNDING) -> bool:
    """Whether tensors differ by little beside the largest element of each."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point() and value.numel():
            limit = share * max(float(value.abs().max()), 1e-6)
            assert float((found[name].double() - value.double()).abs().max()) <= limit, name
    return True


def members(zoo: Path) -> list[Path]:
    return [entry.path for entry in Zoo(zoo).entries()]


def test_training(workspace: Workspace, tmp_path: Path) -> None:
    alone = Workspace(tmp_path)
    alone.data = workspace.data
    alone.job(GPU, tmp_path / "out", "method=simple")
    for found, expected in zip(members(alone.zoo(GPU)), members(workspace.zoo("cpu")), strict=True):
        assert found.name == expected.name
        assert close(load_file(found / "model.safetensors"), load_file(expected / "model.safetensors"))


@pytest.mark.parametrize(
    "method",
    [
        *("simple", "task_arithmetic", "ties", "slerp", "fisher", "regmean", "regmean method.regularization=shrinkage"),
        *("regmean method.gram=weighted", "regmean_sequential", "regmean_plusplus"),
    ],
)
def test_methods_in_a_job(workspace: Workspace, tmp_path: Path, method: str) -> None:
    """Their statistics are collected, weights merged, layers refined, and the merge evaluated there."""
    settings = f"method={method}".split()
    found, own = workspace.job(GPU, tmp_path / "found", *settings)
    expected, other = workspace.job("cpu", tmp_path / "expected", *settings)
    assert found.environment["device"].startswith("cpu") == (GPU == "cpu")
    assert set(found.scores["in_domain"]) == set(expected.scores["in_domain"])
    weights = [load_file(folder / MERGED_FOLDER / "model.safetensors") for folder in (own, other)]
    assert close(*weights)


@pytest.mark.parametrize("method", ["distill method.text=own method.steps=4", "ensemble save_merged=false"])
def test_methods_that_read_outputs(workspace: Workspace, tmp_path: Path, method: str) -> None:
    """Steps of training part further than rounding; scores are there for all corpora."""
    found, _ = workspace.job(GPU, tmp_path / "found", *f"method={method}".split())
    expected, _ = workspace.job("cpu", tmp_path / "expected", *f"method={method}".split())
    assert {domain: set(scores) for domain, scores in found.scores.items()} == {
        domain: set(scores) for domain, scores in expected.scores.items()
    }
    assert all(0 <= score <= 100 for scores in found.scores.values() for score in scores.values())


@pytest.mark.parametrize("kind", ["gram", "fisher", "weighted_gram", "gradient_gram", "tokens"])
def test_collected_statistics(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    texts = tmp_path / "texts.jsonl"
    words = ("river", "people", "film", "village", "music", "sun")
    rows = [{"text": f"the {word} was happy and wonderful", "label": "joy"} for word in words]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = []
    for device in (GPU, "cpu"):
        out = tmp_path / f"out-{device}-{len(files)}"
        config = compose_job(
            *(f"checkpoint={members(workspace.zoo(device))[0]}", f"data={texts}", f"kinds=[{kind}]", f"output={out}"),
            *("allow_few_rows=true", "form=full", *workspace.common(device, tmp_path)),
            root="collect_statistics",
        )
        collect_command.run(config, out / "job")
        files.append(load_file(out / "statistics" / f"{kind}.safetensors"))
    assert close(*files)


@pytest.mark.parametrize("method", ["simple", "ties", "regmean", "fisher", "model_stock"])
def test_merges_of_checkpoints(workspace: Workspace, tmp_path: Path, method: str) -> None:
    workspace.job("cpu", tmp_path / "collected", f"method={method if method in ('regmean', 'fisher') else 'simple'}")
    folders, base = [], next((workspace.zoo("cpu") / ".models").glob("pico-bert-*"))
    for member in members(workspace.zoo("cpu")):
        folders.append(tmp_path / member.name)
        shutil.copytree(member, folders[-1])
        for file in (folders[-1] / "statistics").glob("*-*.safetensors"):
            shutil.copyfile(file, file.with_name(f"{file.name.partition('-')[0]}.safetensors"))
    outputs = []
    for device in (GPU, "cpu"):
        output = tmp_path / f"merged-{device}-{len(outputs)}"
        config = compose_job(
            *(f"checkpoints=[{','.join(map(str, folders))}]", f"method={method}", f"output={output}", "heads=keep"),
            *([f"base={base}"] if method in ("ties", "model_stock") else []),
            *workspace.common(device, tmp_path),
            root="merge_checkpoints",
        )
        merge_command.run(config, output / "job")
        outputs.append(load_file(output / "model.safetensors"))
    assert close(*outputs)


def test_evaluation_of_a_checkpoint(workspace: Workspace, tmp_path: Path) -> None:
    predictions = []
    for device in (GPU, "cpu"):
        output = tmp_path / f"scores-{device}-{len(predictions)}"
        config = compose_job(
            *(f"checkpoint={members(workspace.zoo(device))[0]}", "suite=emotion", "corpora=[tec]"),
            *(f"paths.data_dir={workspace.data}", f"output={output}", *workspace.common(device, tmp_path)),
            root="evaluate",
        )
        evaluate_command.run(config, output / "job")
        predictions.append(load_file(next(output.rglob("predictions.safetensors"))))
    assert close(*predictions)


def shared_gradients() -> tuple[str, list[list[float]]]:
    """In a process group: its backend, and gradients of a module that it shares, and of the same module alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    module, rows = torch.nn.Linear(5, 3).to(device), torch.randn(7, 5).to(device)
    shared = DistributedDataParallel(module)
    shared(rows).square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    module.zero_grad()
    module(rows).square().sum().backward()
    alone = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.distributed.get_backend(), [value.flatten().tolist() for value in (*gradients, *alone)]


def test_a_process_group_of_one_device() -> None:
    backend, gradients = run_together(TrainerConfig(accelerator=GPU, devices=1), shared_gradients)
    assert backend == ("gloo" if GPU == "cpu" else "nccl")
    assert len(gradients) == 4
    for one, other in zip(gradients[:2], gradients[2:], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
