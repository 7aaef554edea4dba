"""Flags, files and settings of the paper's released code, on the command line."""

from __future__ import annotations

import sys

import pytest

from regmean_lab.__main__ import main
from regmean_lab.command.released import SETTINGS, released_choices, released_key_problem


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that is refused says."""
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


BOTH = "members=[dailydialog,crowdflower]"


@pytest.mark.parametrize(
    ("arguments", "answers", "corrected"),
    [
        (
            ["experiment=emotion_pairwise", "--filter_model", "model0", "model1", "seed=1"],
            [f"in suite emotion they stand for dailydialog, crowdflower: {BOTH}"],
            f"'{BOTH}' experiment=emotion_pairwise seed=1",
        ),
        (
            ["plan", "suite=ner", "--filter_model", "ontonotes@nw", "bc"],
            ["--filter_model: ", "in suite ner it stands for nw"],
            "plan 'members=[nw,bc]' suite=ner",
        ),
        (
            ["suite=emotion", "--filter_model", "tec", "isear"],
            ["instead: members=[tec,isear] ("],
            "'members=[tec,isear]' suite=emotion",
        ),
        (
            ["--filter_model", "model0", "model1"],
            [f"in suite emotion they stand for dailydialog, crowdflower: {BOTH}"],
            None,
        ),
        (["suite=emotion", "--filter_model", "model4"], ["stands for emobank; the suite has no corpus emobank"], None),
        (["suite=emotion", "--filter_model", "model13"], ["suite emotion has no 'model13'"], None),
        (
            ["--config", "src/configs/defaults.yaml", "exps/t5/t5-emotion-regmean.yaml", "--templates", "seed=1"],
            ["--config: ", "experiment=emotion_text_pairwise model=t5_v1_1_base method=regmean", "--templates: "],
            "experiment=emotion_text_pairwise model=t5_v1_1_base method=regmean seed=1",
        ),
        (["--config_files", "a.yaml", "b.yaml"], ["--config_files: ", "suite= model= method="], None),
        (
            ["src/configs/defaults.yaml"],
            ["src/configs/defaults.yaml: experiments are chosen by their names", "docs/from_the_release.md"],
            None,
        ),
    ],
)
def test_flags_and_files_are_answered(
    arguments: list[str],
    answers: list[str],
    corrected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = told(monkeypatch, capsys, *arguments)
    assert all(answer in message for answer in answers)
    shown = message.partition("The command so corrected:\n")[2].strip()
    assert shown == ("" if corrected is None else f"python -m regmean_lab {corrected}")


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("regmean_reduce_nondiag", "method.off_diagonal="),
        ("merger.regmean_reduce_nondiag", "method.off_diagonal="),
        ("merger.gram_n_example", "statistics.gram.batches="),
        ("regmean_n_example", "statistics.gram.batches="),
        ("default_model_args.reweight_loss_schema", "training.reweight="),
        ("resources", "paths.data_dir="),
        ("zoo_filter.seed", "regmean-lab zoo import"),
        ("generation_max_length", "suite.answer_by=generation"),
        ("merger.ot_params.reg", "method=optimal_transport"),
        ("sead", None),
    ],
)
def test_settings_are_answered(key: str, answer: str | None) -> None:
    problem = released_key_problem(key)
    if answer is None:
        assert problem is None
    else:
        assert problem is not None and problem.startswith(f"{key}: ") and answer in problem
        assert problem.endswith("(docs/from_the_release.md)")


def test_every_problem_of_a_command_line_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [key for key in SETTINGS if key != "tokenizer"]
    message = told(monkeypatch, capsys, "suite=emotion", *(f"{key}=1" for key in keys))
    assert f"{len(keys)} things to correct" in message
    assert all(f"  - {key}: a setting of the paper's released code; here: {SETTINGS[key]}" in message for key in keys)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["roberta-base-emotion"], "experiment=emotion_pairwise model=roberta_base"),
        (
            ["exps/deberta/ner/ood/deberta-ner-mtl-ood.yaml"],
            "experiment=ner_incremental model=deberta_v3_large method=multitask",
        ),
        (
            ["exps/distilbert/subset/distilbert-niid-1k-fisher-whead.yaml"],
            "experiment=glue_partition model=distilbert_base method=fisher",
        ),
        (["exps/roberta-base/glue/roberta-base.yaml"], "experiment=glue_pairwise model=roberta_base"),
        (["exps/roberta-base/ner/distilbert-base-ner.yaml"], "experiment=ner_incremental model=distilbert_base"),
        (["defaults.yaml", "datasets/emotion_gen.yaml"], "experiment=emotion_text_pairwise"),
        (["incremental_emotion.py"], "experiment=emotion_incremental"),
        (["defaults.yaml"], ""),
    ],
)
def test_names_of_yaml_files_say_what_is_run(names: list[str], expected: str) -> None:
    assert " ".join(released_choices(names)) == expected


def test_an_experiment_by_the_name_of_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = told(monkeypatch, capsys, "experiment=roberta-base-emotion")
    assert "did you mean experiment=emotion_pairwise model=roberta_base? (docs/from_the_release.md)" in message
    assert "did you mean emotion_pairwise or" in told(monkeypatch, capsys, "experiment=emotion_pairwize")


def test_a_setting_of_another_method_is_told_by_the_name_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = told(monkeypatch, capsys, "method=fisher", "method.regmean_reduce_nondiag=0.1")
    assert (
        "method.regmean_reduce_nondiag (here method.off_diagonal): method fisher has no such setting; regmean"
        in message
    )


def test_what_a_number_of_examples_counts_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = told(monkeypatch, capsys, "num_regmean_examples=1000", "sead=1")
    assert "num_regmean_examples is read as statistics.gram.examples: it counts examples" in message
    assert "batches of 16: statistics.gram.batches" in message
