"""Which of the large libraries each command imports, in a process of its own: to wait for one takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import Forks
from transformers import LlamaConfig, LlamaForCausalLM

import regmean_lab
from regmean_lab.utils.cache import CACHE_VARIABLE

LARGE = ("datasets", "lightning_fabric", "matplotlib", "pytorch_lightning", "torchmetrics", "transformers", "wandb")
MODELS = ("sympy", "torch._dynamo", "torch.distributed.tensor", "transformers.modeling_utils")
"""What to make a model imports, even one without weights."""
LLAMA = "transformers.models.llama.configuration_llama"
"""A configuration that imports nearly as much as a model."""

PROBE = """
import contextlib, io, json, sys
from regmean_lab.__main__ import main
names, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for command in commands:
    sys.argv = ["regmean-lab", *command]
    status, printed = 0, io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
    print(json.dumps([status, printed.getvalue(), [name for name in names if name in sys.modules]]))
"""


@dataclass
class Finished:
    """A folder in which a job with two members is finished.

    Attributes:
        folder: the folder.
        overrides: of the job, without the method.
    """

    folder: Path
    overrides: list[str]

    def large(
        self, *commands: list[str], names: Sequence[str] = LARGE, cache: str = ""
    ) -> list[tuple[int, str, set[str]]]:
        """Exit status, what was printed, and which modules were imported so far, after each command of one process.

        Args:
            commands: arguments of the command.
            names: the modules that are told.
            cache: folder in which structures of models are kept; empty: nowhere.
        """
        root = str(Path(regmean_lab.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": root, CACHE_VARIABLE: cache}
        command = [sys.executable, "-c", PROBE, json.dumps(names), json.dumps(commands)]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, check=True, capture_output=True, text=True, timeout=300
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return [(status, printed, set(names)) for status, printed, names in lines]


@pytest.fixture(scope="module")
def finished(
    forks: Forks, tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]
) -> Finished:
    folder = tmp_path_factory.mktemp("starts")
    write_emotions(folder / "data")
    overrides = [
        *("suite=emotion", "suite.out_of_domain=[emoint]", "members=[tec,isear]", "model=pico_bert"),
        *(
            "trainer=cpu",
            "trainer.progress_bar=false",
            "logger=none",
            "training.epochs=1",
            "statistics.gram.examples=8",
        ),
    ]
    status, printed = forks.run([*overrides, "method=regmean"], folder / "log.txt", folder)
    assert status == 0, printed
    return Finished(folder, overrides)


def test_what_is_refused_planned_and_found_waits_for_no_large_library(finished: Finished) -> None:
    job = [*finished.overrides, "method=regmean"]
    refused, missing, plan, one, sweep, unfinished = finished.large(
        [*finished.overrides, "method=regmean", "method.off_diagonal=2"],
        [*job, "model.checkpoint=nowhere", "model.name=nothing"],
        ["plan", *job],
        job,
        ["-m", *job],
        ["plan", *job, "training.epochs=2"],
    )
    assert (refused[0], refused[2]) == (2, set())
    assert "method.off_diagonal" in refused[1]
    assert (missing[0], missing[2]) == (2, set())
    assert "nowhere" in missing[1]
    assert (plan[0], plan[2]) == (0, set())
    assert "1 finished" in plan[1]
    for status, printed, names in (one, sweep):
        assert (status, names) == (0, {"matplotlib"}), printed  # which draws the figure
        assert "1 result, 0 computed now" in printed
    assert (unfinished[0], unfinished[2]) == (0, {"matplotlib"})
    assert "2 to train" in unfinished[1]


def test_pages_and_lists_wait_for_no_large_library(finished: Finished) -> None:
    verbs = ("run", "plan", "merge", "extract", "evaluate", "collect", "zoo", "prepare", "report")
    pages = [["--help"], *([verb, "--help"] for verb in verbs), ["zoo", "add", "--help"]]
    lists = [["zoo", "list"], ["zoo", "verify"], ["prepare"]]
    wrong = [
        *(["merge", "checkpoints=[a,b]", "method=none"], ["extract", "rang=2"]),
        *(["evaluate", "data=table.csv"], ["collect", "data=table.csv"]),
    ]
    for status, printed, names in finished.large(*pages, *lists):
        assert (status, names) == (0, set()), printed
    for status, printed, names in finished.large(*wrong):
        assert (status, names) == (2, set()), printed
    (report,) = finished.large(["report", "results=outputs", "output=page"])
    assert (report[0], report[2]) == (0, {"matplotlib"}), report[1]


def test_the_command_for_views_waits_for_no_large_library() -> None:
    command = f"import sys, regmean_lab.dashboard; print(*(name for name in {LARGE!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == []


@pytest.mark.parametrize("model", ["minilm", "pico_bert"])
def test_plans_of_what_is_not_finished_wait_for_no_large_library(finished: Finished, model: str) -> None:
    job = ["plan", *finished.overrides, f"model={model}", "seed=2"]
    plans = finished.large(
        [*job, "method=regmean,fisher,ensemble"],
        [*job, "method=simple", "training.lora.rank=2"],
        [*job, "method=regmean_plusplus,iso_c,distill", "training.max_length=8"],
        [*job, "method=simple", "training.lora.target_modules=[nothing]", "training.lora.rank=2"],
    )
    for _, printed, names in plans:
        assert not names, printed
        assert "2 to train: about" in printed
        assert "time unknown" not in printed
    assert [status for status, _, _ in plans] == [0, 0, 0, 2]


def test_a_finished_greedy_order_is_found_without_large_libraries(finished: Finished, forks: Forks) -> None:
    job = [*finished.overrides, "members=[tec,isear]", "method=simple", "order=greedy", "first=2"]
    status, printed = forks.run(job, finished.folder / "greedy.txt", finished.folder)
    assert status == 0, printed
    plan, again = finished.large(["plan", *job], job)
    assert (plan[0], plan[2]) == (0, set()), plan[1]
    assert "1 finished" in plan[1]
    assert (again[0], again[2]) == (0, {"matplotlib"}), again[1]
    assert "1 result, 0 computed now" in again[1]


def test_a_merge_of_folders_waits_for_transformers_alone(finished: Finished) -> None:
    members = sorted(path.parent for path in (finished.folder / "zoo").glob("*/training.json"))
    assert len(members) == 2
    command = ["merge", f"checkpoints=[{','.join(map(str, members))}]", "trainer=cpu"]
    simple, regmean = finished.large(
        [*command, "method=simple", "output=simple"], [*command, "method=regmean", "output=regmean"]
    )
    for status, printed, names in (simple, regmean):
        assert (status, names) == (0, {"transformers"}), printed
    assert (finished.folder / "simple" / "model.safetensors").is_file()


def test_a_merge_of_architectures_that_were_merged_before_makes_no_model(finished: Finished, tmp_path: Path) -> None:
    members = sorted(path.parent for path in (finished.folder / "zoo").glob("*/training.json"))
    checkpoints, cache = f"checkpoints=[{','.join(map(str, members))}]", str(tmp_path / "kept")

    def merged(output: str, method: str) -> tuple[set[str], bytes]:
        command = ["merge", checkpoints, "trainer=cpu", f"method={method}", f"output={tmp_path / output}"]
        ((status, printed, names),) = finished.large(command, names=[*LARGE, *MODELS], cache=cache)
        assert status == 0, printed
        return names, (tmp_path / output / "model.safetensors").read_bytes()

    first, expected = merged("first", "simple")
    again, found = merged("again", "simple")
    other, _ = merged("other", "regmean")
    assert "transformers.modeling_utils" in first
    assert again == set()
    assert found == expected
    assert not other & {*LARGE, "transformers.modeling_utils", "torch._dynamo"}
    ((status, printed, names),) = finished.large(
        ["merge", checkpoints, "trainer=cpu", "method=simple", f"output={tmp_path / 'none'}", "plan=true"], cache=cache
    )
    assert (status, names) == (0, set()), printed
    assert "Nothing was done." in printed


def test_plans_and_refusals_of_statistics_and_scores_wait_for_transformers_alone(finished: Finished) -> None:
    member = next(path.parent for path in (finished.folder / "zoo").glob("*/training.json"))
    table = finished.folder / "table.csv"
    table.write_text("text,label\nfine,joy\n", encoding="utf-8")
    refused, missing, plan = finished.large(
        ["evaluate", f"checkpoint={member}", "data=nowhere.csv", "trainer=cpu"],
        ["evaluate", "checkpoint=nowhere", f"data={table}", "trainer=cpu"],
        ["collect", f"checkpoint={member}", f"data={table}", "kinds=[gram]", "plan=true", "trainer=cpu"],
    )
    assert [status for status, _, _ in (refused, missing, plan)] == [2, 2, 0], plan[1]
    assert "no such file: nowhere.csv" in refused[1]
    assert "nowhere" in missing[1]
    assert "Nothing was done." in plan[1]
    for _, printed, names in (refused, missing, plan):
        assert names == {"transformers"}, printed


def test_a_merge_of_llamas_that_were_merged_before_makes_no_configuration(finished: Finished, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    members = [tmp_path / name for name in ("a", "b")]
    for folder in members:
        LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=24)).save_pretrained(folder)
    command = ["merge", f"checkpoints=[{','.join(map(str, members))}]", "trainer=cpu", "method=simple"]
    found, written = [], []
    for output in ("first", "again"):
        arguments = [*command, f"output={tmp_path / output}"]
        imports = [*MODELS, LLAMA, "scipy.stats"]
        ((status, printed, names),) = finished.large(arguments, names=imports, cache=str(tmp_path / "kept"))
        assert status == 0, printed
        found.append(names)
        written.append({name: (tmp_path / output / name).read_bytes() for name in ("config.json", "model.safetensors")})
    assert found[0] >= {*MODELS, LLAMA}
    assert found[1] == set()
    assert written[0] == written[1]
