"""Flags, files and settings of the paper's released code, on the command line."""

from __future__ import annotations

import sys

import pytest

from regmean_lab.__main__ import main
from regmean_lab.command.released import SETTINGS, released_key_problem
from regmean_lab.command.released_files import released_choices
from regmean_lab.command.released_flags import released_flag_problems


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
            "experiment=emotion_text_pairwise model=t5_v1_1_base method=regmean seed=1 paths.data_dir=resources",
        ),
        (["suite=ner", "--filter_model"], ["instead: members=[bc,mz] ("], None),
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


C = "src/configs"
DEFAULTS = f"{C}/defaults.yaml"
EMOTION = [f"{C}/datasets/emotion.yaml", f"{C}/exps/roberta-base/roberta-base-emotion-regmean.yaml"]
RELEASED_COMMANDS = [
    # README.md: the example
    (
        ["--config", DEFAULTS, EMOTION[0], f"{C}/exps/roberta-base/roberta-base-emotion.yaml"],
        ["--templates", "seed=1", "--filter_model", "model0", "model1"],
        "suite=emotion model=roberta_base method=simple 'members=[dailydialog,crowdflower]' seed=1",
    ),
    # scripts/deberta/pairwise_emotion.py, different heads
    (
        [
            *("--config_file", DEFAULTS, f"{C}/datasets/emotion_diffseed.yaml"),
            f"{C}/exps/deberta/deberta-large-emotion-fisher.yaml",
        ],
        ["--filter_model", "model3", "model5", "--templates", "dseed_generator=2", "seed=2"],
        "suite=emotion model=deberta_v3_large method=fisher 'members=[tales-emotion,isear]' head_init=different seed=2",
    ),
    # scripts/roberta/incremental_emotion.py: one model, which is not merged
    (
        ["--config_file", DEFAULTS, EMOTION[0], f"{C}/exps/roberta-base/ood/roberta-base-emotion-ood.yaml"],
        ["--filter_model", "model5", "--templates", "seed=3"],
        "suite=emotion model=roberta_base method=individual suite.include_other_members=true 'members=[isear]' seed=3",
    ),
    # scripts/roberta/incremental_ner.py
    (
        [
            *("--config_files", DEFAULTS, f"{C}/datasets/ner.yaml"),
            f"{C}/exps/roberta-base/ner/ood/roberta-base-ner-regmean.yaml",
        ],
        ["--filter_model", "model4", "model3", "model0", "--templates", "seed=1"],
        "suite=ner model=roberta_base method=regmean suite.include_other_members=true 'members=[bn,nw,bc]' seed=1",
    ),
    # scripts/distilbert/pairwise_glue_subset.py, whose folder is spelled like this
    (
        [
            *("--config_file", DEFAULTS, f"{C}/datasets/subests/glue_partition_1k_niid.yaml"),
            f"{C}/exps/distilbert/subset/distilbert-niid-1k-fisher-whead.yaml",
        ],
        ["--templates", "seed=1", "dataset_name=qnli"],
        "experiment=glue_partition model=distilbert_base method=fisher seed=1 suite.task=qnli",
    ),
    (
        [
            *("-c", DEFAULTS, f"{C}/datasets/emotion_gen.yaml"),
            f"{C}/exps/t5/ood/t5-base-emotion-regmean-rw-ood.yaml",
        ],
        ["--filter", "model2", "model5", "--template", "seed=1", "rw=0.5", "--upload"],
        "suite=emotion_text model=t5_v1_1_base method=regmean suite.include_other_members=true 'members=[tec,isear]' "
        "seed=1 method.off_diagonal=0.5",
    ),
    (
        ["--config", DEFAULTS, f"{C}/datasets/glue.yaml", f"{C}/exps/distilbert/tsp/distilbert-tsp2-5.yaml"],
        ["--filter_model", "model1", "model7", "training.epochs=1", "paths.data_dir=elsewhere"],
        "suite=glue model=distilbert_base method=simple method.keep_top=4 'members=[sst2,rte]' training.epochs=1 "
        "paths.data_dir=elsewhere",
    ),
]


@pytest.mark.parametrize(("files", "flags", "expected"), RELEASED_COMMANDS)
def test_a_whole_command_of_the_released_code(
    files: list[str],
    flags: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = told(monkeypatch, capsys, *files, *flags)
    shown = message.partition("The command so corrected:\n")[2].strip()
    data = "" if "paths.data_dir=" in expected else " paths.data_dir=resources"
    assert shown == f"python -m regmean_lab {expected}{data}"
    assert f"{files[0]}: a flag of the paper's released code; choose options of groups instead: " in message


def test_a_number_is_that_of_the_suite_of_the_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--config", f"{C}/datasets/ner.yaml", f"{C}/exps/roberta-base/ner/roberta-base-ner.yaml"]
    assert "in suite ner they stand for conll2003, twitter: members=[conll2003,twitter]" in told(
        monkeypatch, capsys, *files, "--filter_model", "model6", "model7"
    )
    message = told(monkeypatch, capsys, "--config", *EMOTION, "--filter_model", "model2", "model4")
    assert "they stand for tec, emobank; the suite has no corpus emobank" in message
    assert "The command so corrected" not in message


@pytest.mark.parametrize(
    ("names", "members", "expected"),
    [
        (["roberta-base-emotion"], None, "experiment=emotion_pairwise model=roberta_base method=simple"),
        (["/ner/t5/roberta-base-emotion.yaml"], None, "experiment=emotion_pairwise model=roberta_base method=simple"),
        (
            ["exps/deberta/ner/ood/deberta-ner-mtl-ood.yaml"],
            None,
            "experiment=ner_incremental model=deberta_v3_large method=multitask suite.include_other_members=true",
        ),
        (["exps/roberta-base/glue/roberta-base.yaml"], 2, "suite=glue model=roberta_base method=simple"),
        (["defaults.yaml", "datasets/emotion_gen.yaml"], None, "experiment=emotion_text_pairwise"),
        (["incremental_emotion.py"], None, "experiment=emotion_incremental"),
        (["defaults.yaml"], None, ""),
        (
            ["datasets/subsets/glue_mtl_subset_100.yaml", "exps/distilbert/distilbert-mtl.yaml"],
            2,
            "suite=glue model=distilbert_base method=multitask suite.train_examples=100",
        ),
    ],
)
def test_names_of_yaml_files_say_what_is_run(names: list[str], members: int | None, expected: str) -> None:
    assert " ".join(released_choices(names, members)) == expected


def test_an_experiment_by_the_name_of_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = told(monkeypatch, capsys, "experiment=roberta-base-emotion")
    assert (
        "did you mean experiment=emotion_pairwise model=roberta_base method=simple? (docs/from_the_release.md)"
        in message
    )
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


@pytest.mark.parametrize("arguments", [[], ["seed=1"], ["--help"]])
def test_ordinary_commands_have_nothing_of_it(arguments: list[str]) -> None:
    assert released_flag_problems(arguments, None) == ([], None)
