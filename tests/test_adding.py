"""docs/adding: the suite and the method that its pages write, from their files to a report."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import regmean_lab.merging.base
import regmean_lab.suites.base
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.experiment import run
from regmean_lab.merging import Layout, MergeMember, merge_members, method_types
from regmean_lab.prepare import preparers
from regmean_lab.prepare.listing import statuses
from regmean_lab.report.cli import main as report
from regmean_lab.results import Result
from regmean_lab.suites import suite_types
from regmean_lab.sweeps.plan import make_plan

PAGES = Path(__file__).parents[1] / "docs" / "adding"
SENTENCES = {"bad": ("terrible", "boredom", "worse"), "good": ("happy", "wonderful", "best")}
MOST_LINES = 30

Job = Callable[..., Result]


def files_of(page: str) -> dict[str, str]:
    """The files that a page writes, by path."""
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.S)
    return dict(blocks)


SUITE, METHOD = files_of("suite.md"), files_of("method.md")


@pytest.fixture(scope="module", autouse=True)
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The files of both pages as if they lay in the package and in conf; afterwards all is as before."""
    if "reviews" in suite_types() or "trimmed_mean" in method_types():
        pytest.skip("the pages' own suite or method has been added to the package")
    modules, stored = [], []
    for path, content in {**SUITE, **METHOD}.items():
        if path.endswith(".py"):
            file = tmp_path_factory.mktemp("added") / Path(path).name
            file.write_text(content, encoding="utf-8")
            modules.append(path.removesuffix(".py").replace("/", "."))
            spec = importlib.util.spec_from_file_location(modules[-1], file)
            assert spec is not None and spec.loader is not None
            sys.modules[modules[-1]] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            _, group, name = path.removesuffix(".yaml").split("/")
            stored.append((group, name))
            ConfigStore.instance().store(group=group, name=name, node=OmegaConf.create(content))
    yield
    for module in modules:
        del sys.modules[module]
    for group, name in stored:
        folder: Any = ConfigStore.instance().repo
        for part in group.split("/"):
            folder = folder[part]
        folder.pop(f"{name}.yaml", None)
    del regmean_lab.suites.base._SUITES["reviews"]
    del regmean_lab.merging.base._METHODS["trimmed_mean"]


def rows(corpus: str, split: str, count: int) -> list[dict[str, str]]:
    generator = random.Random(f"{corpus} {split}")
    labels = generator.choices(list(SENTENCES), k=count)
    return [{"text": f"the {corpus} was {generator.choice(SENTENCES[label])}", "label": label} for label in labels]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for corpus in ("shops", "hotels", "films", "pets"):
        for split, count in (("train", 24), ("dev", 8), ("test", 12)):
            path = folder / "reviews" / corpus / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows(corpus, split, count)))
    return folder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def settings(data_dir: Path, outputs: Path) -> list[str]:
    return [
        "suite=reviews",
        "model=pico_bert",
        "members=[shops,pets]",
        "experiment=reviews",
        "training.epochs=1",
        "trainer=cpu",
        "trainer.progress_bar=false",
        "logger=none",
        f"paths.data_dir={data_dir}",
        f"paths.zoo_dir={outputs / 'zoo'}",
        f"paths.output_dir={outputs}",
    ]


@pytest.fixture
def run_job(settings: list[str], outputs: Path, compose_job: Callable[..., Any]) -> Job:
    def run_one(*more: str) -> Result:
        overrides = [*settings, *more]
        result, _ = run(compose_job(*overrides), outputs / "-".join(more).replace("=", "_"), overrides)
        assert result is not None
        return result

    return run_one


def test_a_suite_takes_few_lines() -> None:
    assert len(SUITE) == len(METHOD) == 2
    assert sum(len(content.splitlines()) for content in SUITE.values()) <= MOST_LINES


def test_examples_are_those_of_the_files(data_dir: Path) -> None:
    kind = suite_types()["reviews"]
    suite = kind(data_dir, kind.settings_type())
    assert suite.candidates == ("shops", "hotels", "films", "pets")
    assert suite.out_of_domain(["shops", "pets"]) == ("hotels", "films")
    examples = suite.examples("pets", "test")
    expected = [(row["text"], ["bad", "good"].index(row["label"])) for row in rows("pets", "test", 12)]
    assert [(example.text, example.label) for example in examples] == expected
    assert suite.out_of_domain_examples("pets") == examples
    hashes = [
        hashlib.sha256((data_dir / "reviews" / "pets" / f"{split}.jsonl").read_bytes()).hexdigest()
        for split in ("train", "dev", "test")
    ]
    # The labels' order is in no file, and makes other examples of it.
    declared = {"columns": ["text"], "label": "label", "labels": ["bad", "good"], "lowest": "-inf", "highest": "inf"}
    content = {"suite": "reviews", "corpus": "pets", "files": hashes, "rows": declared}
    content |= {"sample_seed": 0, "train_examples": None, "dev_examples": None}
    assert suite.fingerprint("pets") == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def test_the_method_is_what_its_page_says() -> None:
    generator = torch.Generator().manual_seed(0)
    members = [
        MergeMember(str(number), {"weight": torch.randn(3, 4, generator=generator, dtype=torch.float64)})
        for number in range(5)
    ]
    (merged,) = merge_members(method_types()["trimmed_mean"](), members, Layout({}))
    for row in range(3):
        for column in range(4):
            values = sorted(float(member.weights["weight"][row, column]) for member in members)
            assert float(merged.value[row, column]) == pytest.approx(sum(values[1:4]) / 3, rel=1e-14)


def test_wrong_names_and_settings_are_told_together(compose_job: Callable[..., Any], settings: list[str]) -> None:
    wrong = ["members=[shop,pets]", "method=trimmed_mean", "method.trim=0", "suite.train_examples=0"]
    with pytest.raises(ConfigurationError) as caught:
        settings_of(compose_job(*settings, *wrong))
    message = str(caught.value)
    assert "method.trim: expected at least 1, got 0" in message
    assert "suite.train_examples: expected at least 1 or null, got 0" in message
    assert "members: suite reviews has no 'shop'; did you mean shops?" in message


def test_from_the_plan_to_the_report(
    run_job: Job, settings: list[str], outputs: Path, data_dir: Path, compose_job: Callable[..., Any]
) -> None:
    overrides = [*settings, "method=trimmed_mean"]
    plan = make_plan([(overrides, compose_job(*overrides))])
    assert not plan.problems and len(plan.to_train) == 2 and not plan.to_collect
    merged, mean, regmean = (run_job(f"method={name}") for name in ("trimmed_mean", "simple", "regmean"))
    assert list(merged.scores["in_domain"]) == ["shops", "pets"]
    assert list(merged.scores["out_of_domain"]) == ["hotels", "films"]
    # Of two values none can be left out.
    assert merged.scores == mean.scores
    assert merged.zoo == mean.zoo == regmean.zoo
    assert report([f"results={outputs}", f"output={outputs / 'report'}"]) == 0
    assert "trimmed_mean" in (outputs / "report" / "report.html").read_text(encoding="utf-8")


def test_the_list_of_data_has_the_suite(data_dir: Path) -> None:
    found = {status.name: status for status in statuses(data_dir, preparers(), suite_types(), data_dir)}
    assert found["reviews"].present == ("shops", "hotels", "films")
    assert (found["reviews"].command, found["reviews"].missing) == ("", ())
