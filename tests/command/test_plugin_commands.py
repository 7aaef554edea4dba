"""Methods and suites of other packages, installed as anybody installs them, and classes anywhere on the path."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from forks import Forks
from omegaconf import OmegaConf
from safetensors.torch import load_file

import regmean_lab
from regmean_lab.__main__ import EXIT_CONFIGURATION
from regmean_lab.command.overrides import override_problems
from regmean_lab.config.locations import use_own_folders
from regmean_lab.config.plugin_options import register_plugin_options
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.config.targets import TargetError, target_method
from regmean_lab.merging import method_types
from regmean_lab.merging.base import _METHODS
from regmean_lab.merging.regmean import RegMean

ROOT = Path(regmean_lab.__file__).parents[1]
PAGES = ROOT / "docs" / "adding"
LOOSE = re.findall(r"```python\n# (\S+)\n(.*?)```", (PAGES / "plugin.md").read_text(encoding="utf-8"), re.S)
SUITE = re.findall(r"```python\n# \S+\n(.*?)```", (PAGES / "suite.md").read_text(encoding="utf-8"), re.S)[0]
WORDS = {"bad": "terrible", "good": "wonderful"}

Command = Callable[..., tuple[int, str]]


def write_package(folder: Path, name: str, group: str, code: str) -> None:
    """A package of one module without YAML, as it lies where an installer puts it."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\none = {name}\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, by pip; a suite without YAML; and a module that nothing names."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "examples" / "plugin", source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    write_package(target, "their_reviews", "regmean_lab.suites", SUITE)
    ((name, code),) = LOOSE
    (target / name).parent.mkdir()
    (target / name).write_text(code, encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for corpus in ("shops", "hotels", "films"):
        for split in ("train", "dev", "test"):
            generator = random.Random(f"{corpus} {split}")
            labels = generator.choices(list(WORDS), k=16)
            rows = [{"text": f"the {corpus} were {WORDS[label]}", "label": label} for label in labels]
            path = folder / "reviews" / corpus / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def command(forks: Forks, installed: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs the command in one folder; returns its exit status and what it printed. It finds what is installed."""
    folder = tmp_path_factory.mktemp("runs")

    def run(*arguments: str) -> tuple[int, str]:
        settings = [
            f"paths.data_dir={data}",
            f"paths.zoo_dir={folder / 'zoo'}",
            f"paths.output_dir={folder / 'outputs'}",
            *("suite=reviews", "members=[shops,hotels]", "model=pico_bert", "training.epochs=1", "save_merged=true"),
            *("trainer=cpu", "trainer.progress_bar=false", "logger=none"),
        ]
        given = list(arguments) if "--help" in arguments else [*arguments, *settings]
        return forks.run(given, folder / "log", folder, installed=installed)

    run.folder = folder  # type: ignore[attr-defined]
    return run


def members_and_merged(command: Any, name: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Weights of both members and of the merge by a method, and the result."""
    (path,) = (command.folder / "outputs").glob(f"reviews/*/*-{name}-*/result.json")
    result = json.loads(path.read_text())
    weights = []
    for address in result["zoo"].values():
        (file,) = (command.folder / "zoo").glob(f"**/*{address}/model.safetensors")
        weights.append(load_file(file))
    return weights, load_file(path.parent / "merged" / "model.safetensors"), result


def test_help_lists_them(command: Command) -> None:
    status, page = command("--help")
    groups = {key: options.split(", ") for key, options in re.findall(r"^\s*(\w+): (.*)$", page, re.M)}
    assert status == 0
    assert "tempered" in groups["method"] and "regmean" in groups["method"]
    assert "reviews" in groups["suite"] and "sentiment" in groups["suite"]


def test_the_example_merges_members_of_a_suite_of_another_package(command: Command) -> None:
    status, printed = command("method=tempered", "method.floor=1e-6")
    assert status == 0, printed
    weights, merged, result = members_and_merged(command, "tempered")
    assert result["configuration"]["method"]["floor"] == 1e-6
    assert len(merged) > 10 and set(merged) == set(weights[0])
    for name, value in merged.items():
        first, second = (own[name].double() for own in weights)
        size = (first.abs().clamp(min=1e-6) * second.abs().clamp(min=1e-6)).sqrt()
        torch.testing.assert_close(value.double(), (first + second).sign() * size, rtol=1e-5, atol=1e-9)


def test_its_settings_are_checked_as_ours_are(command: Command) -> None:
    status, printed = command("method=tempered", "method.floor=0", "seed=-1")
    assert status == EXIT_CONFIGURATION
    assert "method.floor: expected" in printed and "seed: expected" in printed
    assert "did you mean method.floor" in command("method=tempered", "method.flor=1")[1]


def test_a_class_on_the_path_needs_no_registration(command: Any, tmp_path: Path) -> None:
    """On the command line, or in a file of one's own; both as the documentation shows."""
    status, printed = command("method._target_=my_package.my_method.Leaning", "method.share=0.75")
    assert status == 0, printed
    weights, merged, result = members_and_merged(command, "Leaning")
    assert result["configuration"]["method"]["_target_"] == "my_package.my_method.Leaning"
    for name, value in merged.items():
        first, second = (own[name].double() for own in weights)
        torch.testing.assert_close(value.double(), 0.75 * first + 0.25 * second, rtol=1e-5, atol=1e-7)
    (yaml,) = re.findall(r"```yaml\n# mine/(\S+)\n(.*?)```", (PAGES / "plugin.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / yaml[0]).parent.mkdir(parents=True)
    (tmp_path / yaml[0]).write_text(yaml[1])
    status, shown = command("--config-dir", str(tmp_path), "--cfg", "job", f"method={Path(yaml[0]).stem}")
    assert status == 0 and "_target_: my_package.my_method.Leaning\n" in shown and "share: 0.9\n" in shown


@pytest.fixture
def on_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process finds the class; afterwards it is forgotten."""
    monkeypatch.syspath_prepend(installed)
    before = dict(method_types())
    register_plugin_options()
    register_resolvers()
    yield
    use_own_folders([])
    for name in method_types().keys() - before.keys():
        del _METHODS[name]
    for name in ("my_package.my_method", "my_package"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["method.share=2"], "method.share: expected a share from 0 to 1"),
        (["method.share=much"], "method.share=much: Value 'much' of type 'str' could not be converted to Float"),
        (["method.shar=1"], "method.shar: there is no such key; did you mean method.share"),
        (["method.name=regmean"], "method.name: expected 'Leaning'; choose another one with method=regmean"),
    ],
)
def test_the_settings_of_a_class_are_checked(given: list[str], told: str) -> None:
    problems = override_problems(["suite=text_classification", "method=my_package.my_method.Leaning", *given])
    assert [problem for problem in problems if told in problem], problems


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("my_package.my_method.Leanin", "there is no Leanin in my_package.my_method"),
        ("my_package.my_methods.Leaning", "module my_package.my_methods cannot be imported: ModuleNotFoundError"),
        ("pathlib.Path", "expected a class derived from regmean_lab.merging.MergeMethod"),
        ("regmean_lab.merging.task_vectors.ElementwiseMethod", "the class is abstract; it must define "),
    ],
)
def test_what_is_no_method_is_told(target: str, told: str) -> None:
    (problem,) = override_problems([f"method={target}"])
    assert problem.startswith(f"method={target}: ") and told in problem


@pytest.mark.usefixtures("on_path")
def test_a_name_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that is derived from one of ours has its own name; one that takes ours is refused."""
    module = ModuleType("derived")
    module.__dict__.update(RegMean=RegMean, dataclass=dataclass)
    monkeypatch.setitem(sys.modules, "derived", module)
    exec("@dataclass\nclass Mine(RegMean): pass\n@dataclass\nclass Other(RegMean): name = 'regmean'", module.__dict__)
    assert (target_method("derived.Mine").name, RegMean.name) == ("Mine", "regmean")
    with pytest.raises(TargetError, match=r"regmean_lab\.merging\.regmean\.RegMean is called 'regmean', too"):
        target_method("derived.Other")


@pytest.mark.usefixtures("on_path")
def test_a_file_with_nothing_but_the_class_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "bare.yaml").write_text("_target_: my_package.my_method.Leaning\nshare: 0.9\n")
    use_own_folders([f"file://{tmp_path}"])
    (problem,) = override_problems(["method=bare"])
    assert "begin the file with defaults: [my_package.my_method.Leaning, _self_]" in problem


def test_what_cannot_be_imported_stops_nothing_else(forks: Forks, tmp_path: Path) -> None:
    write_package(tmp_path, "broken", "regmean_lab.methods", "import nothing_of_that_name\n")
    arguments = ["--cfg", "job", "method=simple", "suite=emotion"]
    status, printed = forks.run(arguments, tmp_path / "log", installed=tmp_path)
    (line,) = re.findall("^broken 1.0 is left out.*$", printed, re.M)
    assert status == 0 and "No module named 'nothing_of_that_name'" in line
    shown = OmegaConf.create(printed.replace(line, ""))  # nothing else is told
    assert shown.method.name == "simple" and shown.suite.name == "emotion"


@pytest.mark.parametrize(("name", "told"), [("ties", "ties.Ties and clash.Mine"), ("linear", "clash.Mine has a name")])
def test_a_name_that_is_taken_is_refused(name: str, told: str, forks: Forks, tmp_path: Path) -> None:
    ((_, code),) = LOOSE
    method = code.replace("@dataclass", f"@register_method({name!r})\n@dataclass").replace("Leaning", "Mine")
    method = method.replace("import MergeMethod", "import register_method, MergeMethod")
    write_package(tmp_path, "clash", "regmean_lab.methods", method)
    status, printed = forks.run(["--help"], tmp_path / "log", installed=tmp_path)
    assert status == EXIT_CONFIGURATION and told in printed
