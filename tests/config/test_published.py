"""Published settings: the files of conf/published, those of a person's own folder, and what is wrong with one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from regmean_lab.__main__ import EXIT_CONFIGURATION, main
from regmean_lab.config.locations import configuration_root, use_own_folders

CONF = configuration_root() / "conf"
FILES = sorted((CONF / "published").glob("*.yaml"))
SUITES, MODELS = ([path.stem for path in (CONF / group).glob("*.yaml")] for group in ("suite", "model"))

OWN = {
    "suite/short.yaml": "defaults: [emotion, _self_]\ntrain_examples: 7\n",
    "model/small.yaml": "defaults: [pico_bert, _self_]\nname: small\n",
    "method/gentle.yaml": "defaults: [regmean, _self_]\noff_diagonal: 0.25\n",
    "published/short-small.yaml": """
training: {epochs: 4, learning_rate: 0.003}
suite: {dev_examples: 9}
method:
  regmean: {off_diagonal: 0.6}
  gentle: {diagonal: true}
fidelity:
  training: {epochs: 11}
  statistics: {gram: {extra_rows: false}}
  method:
    gentle: {label_head: row_mean}
""",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name, text in OWN.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield tmp_path / "mine"
    use_own_folders([])


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command; returns its status, and what it printed or told."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["regmean-lab", *arguments])
        status = 0
        try:
            main()
        except SystemExit as error:
            status = int(error.code or 0)
        printed = capsys.readouterr()
        return status, printed.err if status else printed.out

    return run


@pytest.fixture
def composed(own: Path, run_main: Callable[..., tuple[int, str]]) -> Callable[..., Any]:
    """The configuration of a job of the own suite and model."""

    def compose(*overrides: str, given: tuple[str, ...] = ("--config-dir", "mine")) -> Any:
        status, printed = run_main(*given, "suite=short", "model=small", *overrides, "--cfg", "job")
        assert status == 0, printed
        return OmegaConf.create(printed)

    return compose


@pytest.mark.parametrize("given", [("--config-dir", "mine"), ("hydra.searchpath=[mine]",)])
def test_a_file_of_ones_own_is_found(given: tuple[str, ...], composed: Callable[..., Any]) -> None:
    config = composed(given=given)
    assert (config.training.epochs, config.training.learning_rate) == (4, 0.003)
    assert config.training.batch_size == 32  # of pico_bert, from which the model is derived
    assert (config.suite.train_examples, config.suite.dev_examples) == (7, 9)
    assert (config.method.name, config.method.off_diagonal, config.method.diagonal) == ("regmean", 0.6, False)
    assert config.statistics.gram.count_padding is False


def test_the_block_of_the_chosen_method_counts(composed: Callable[..., Any]) -> None:
    gentle = composed("method=gentle").method
    assert (gentle.off_diagonal, gentle.diagonal, gentle.label_head) == (0.25, True, "merged")
    assert "off_diagonal" not in composed("method=simple").method


def test_fidelity_adds_what_the_file_and_the_one_for_all_suites_have_below_it(composed: Callable[..., Any]) -> None:
    config = composed("method=gentle", "fidelity=published")
    assert (config.training.epochs, config.training.learning_rate) == (11, 0.003)
    assert (config.method.label_head, config.method.off_diagonal) == ("row_mean", 0.25)
    gram = config.statistics.gram
    assert (gram.count_padding, gram.extra_rows) == (True, False)  # the file that says more about the job wins


def test_a_file_for_a_new_model_of_our_suite_lies_beside_our_file_for_the_suite(
    own: Path, composed: Callable[..., Any]
) -> None:
    (own / "published/emotion-small.yaml").write_text("training: {epochs: 6}\n")
    config = composed("suite=emotion", "fidelity=published")
    assert (config.training.epochs, config.suite.threshold_on) == (6, "logit")


def test_the_command_line_and_experiments_win(own: Path, composed: Callable[..., Any]) -> None:
    config = composed("training.epochs=2", "method.off_diagonal=1", "suite.dev_examples=null", "fidelity=published")
    assert (config.training.epochs, config.method.off_diagonal, config.suite.dev_examples) == (2, 1, None)
    (own / "experiment").mkdir()
    (own / "experiment/mine.yaml").write_text("# @package _global_\ntraining: {epochs: 5}\nexperiment: mine\n")
    assert composed("experiment=mine", "fidelity=published").training.epochs == 5


def test_published_settings_can_be_left_out(composed: Callable[..., Any]) -> None:
    config = composed("~published")
    assert (config.training.epochs, config.method.off_diagonal) == (1, 0.9)
    assert "published" not in config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("traning: {epochs: 1}", "traning: there is no such key; did you mean training"),
        ("training: {epoch: 1}", "training.epoch: there is no such key; did you mean epochs"),
        ("training: {epochs: many}", "training.epochs: Value 'many' of type 'str' could not be converted to Integer"),
        ("method: {regmeen: {off_diagonal: 1}}", "method.regmeen: there is no such method; did you mean regmean"),
        ("method: {gentel: {off_diagonal: 1}}", "method.gentel: there is no such method; did you mean gentle"),
        ("method: {fisher: {epsilom: 1}}", "method.fisher.epsilom: there is no such key; did you mean epsilon"),
        ("method: {off_diagonal: 1}", "method.off_diagonal: there is no such method"),
        ("method: {regmean: 1}", "method.regmean: expected keys and values"),
        ("method: regmean", "method: expected a block for each method"),
        ("fidelty: {training: {epochs: 1}}", "fidelty: there is no such key; did you mean fidelity"),
        (
            "fidelity: {statistics: {gram: {paddin: true}}}",
            "fidelity.statistics.gram.paddin: there is no such key; did",
        ),
        ("fidelity: {fidelity: {}}", "fidelity.fidelity: there is no such key"),
        ("fidelity: published", "fidelity: expected keys and values"),
        ("[training]", "expected keys and values"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_name_and_the_nearest_ones(
    text: str, expected: str, own: Path, run_main: Callable[..., tuple[int, str]]
) -> None:
    """Whatever method is chosen, before any work."""
    (own / "published/short-small.yaml").write_text(text)
    status, told = run_main("--config-dir", "mine", "suite=short", "model=small", "method=simple")
    assert status == EXIT_CONFIGURATION
    assert f"1 thing to correct:\n  - {own}/published/short-small.yaml: {expected}" in told


def test_keys_of_the_suite_are_checked_and_all_problems_told_at_once(
    own: Path, run_main: Callable[..., tuple[int, str]]
) -> None:
    (own / "published/emotion-small.yaml").write_text("suite: {dev_exmples: 1}\nmethod: {tise: {density: 1}}\n")
    status, told = run_main("--config-dir", "mine", "suite=emotion", "model=small")
    assert status == EXIT_CONFIGURATION
    assert "2 things to correct" in told
    assert "suite.dev_exmples: there is no such key; did you mean dev_examples" in told
    assert "method.tise: there is no such method; did you mean ties" in told


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_belongs_to_a_suite_and_a_model_and_composes(path: Path, compose_job: Callable[..., Any]) -> None:
    suite, _, model = path.stem.partition("-")
    assert suite in (*SUITES, "default") and (not model or model in MODELS)
    assert model or suite in ("default", "emotion", "emotion_text", "ner", "ner_open")
    chosen = (f"suite={'emotion' if suite == 'default' else suite}", f"model={model or 'roberta_base'}")
    content = OmegaConf.load(path)
    for method in content.get("method", {"regmean": {}}):
        config = compose_job(*chosen, f"method={method}")
        for key in ("training", "suite"):
            assert dict(content.get(key, {})).items() <= dict(config[key]).items()
        if model or suite == "default":
            assert dict(content.get("method", {}).get(method, {})).items() <= dict(config.method).items()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_where_its_values_come_from_and_what_each_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    heading = " ".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert "https://arxiv.org/abs/2212.09849" in heading or "Nothing is published for this model" in heading
    for before, line in itertools.pairwise(lines):
        if line.startswith(" ") and not line.lstrip().startswith("#") and not line.endswith(":"):
            assert before.lstrip().startswith("#"), line
