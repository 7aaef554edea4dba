"""Every command, name and folder of docs/from_the_release.md, on pico models and data in the released layouts."""

from __future__ import annotations

import itertools
import math
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from regmean_lab.__main__ import main
from regmean_lab.checkpoints import released_zoo
from regmean_lab.command.aliases import known_names
from regmean_lab.command.members import quoted_members
from regmean_lab.command.overrides import compose_first_job, override_problems
from regmean_lab.command.released_files import released_choices
from regmean_lab.config.grids import Composer, composing, grids_of, values_of
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.members import named_members
from regmean_lab.config.resolvers import job_folder
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.experiment import run
from regmean_lab.models.convert_pickled import convert, convert_file
from regmean_lab.models.pico import pico_folder
from regmean_lab.suites import suite_types
from regmean_lab.suites.emotion import IN_DOMAIN, LABELS, OUT_OF_DOMAIN
from regmean_lab.suites.ner import GENRES
from regmean_lab.zoo import Zoo

sys.path.insert(0, str(Path(__file__).parent / "suites"))
sys.path.insert(0, str(Path(__file__).parent / "checkpoints"))
from entity_files import write_entities
from given_folders import save_classifier_of
from glue_files import COLUMNS, write_task
from released_folders import released, save_statistics

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "from_the_release.md").read_text(encoding="utf-8").replace(" \\\n        ", " ")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
COMMANDS = re.findall(r"(?:`|^    )python -m regmean_lab ([^`\n]+)", PAGE, re.M)
(RELEASED,) = re.findall(r"^    python -m src.run_experiments (.+)$", PAGE, re.M)
VERBS = re.findall(r"^    regmean-lab (?:plan|run) (.+)$", PAGE, re.M)
IMPORTS = re.findall(r"^    regmean-lab zoo (import .+)$", PAGE, re.M)
EXAMPLES = re.findall(r"\| `([^`]+)` \|$", SECTIONS["Flags and settings"], re.M)
CONFIGURATIONS = re.findall(r"^\| (`.*) \|$", SECTIONS["Configurations"], re.M)
SWEEPS = SECTIONS["Scripts"] + SECTIONS["Figures and variants"]
TABLES = re.findall(r"`make reproduce-(\w+)(?: OVERRIDES=(\S+))?`", SWEEPS)
ANSWER, ALL_METHODS = COMMANDS[:2]

PICO = {
    "roberta_base": "pico_roberta",
    "deberta_v3_large": "pico_deberta_v2",
    "distilbert_base": "pico_distilbert",
    "t5_v1_1_base": "pico_t5",
    "gpt2": "pico_gpt2",
    "layer.11": "layer.1",  # the last layer of a pico model
}
"""What stands in a command of the page, and what a test runs in its place."""


def arguments(command: str) -> list[str]:
    """The overrides of a command, as the program has them before it composes anything."""
    return quoted_members(known_names([text for text in shlex.split(command) if text != "-m"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path], pico_cache: Path) -> Path:
    """`resources`, as the released code has it, and two checkpoints."""
    made = tmp_path_factory.mktemp("release")
    resources = write_emotions(made / "resources")
    emotions = resources / "emotion_splits"
    for corpus in (*IN_DOMAIN, *OUT_OF_DOMAIN, "emobank"):
        if not (emotions / corpus).is_dir():
            shutil.copytree(emotions / ("tec" if corpus in IN_DOMAIN else "emoint"), emotions / corpus)
        rows = [(emotions / corpus / f"{split}.jsonl").read_text() for split in ("train", "dev", "test")]
        (emotions / corpus / "full.jsonl").write_text("".join(rows))
    write_entities(resources, GENRES)
    for task in COLUMNS:
        write_task(resources, task)
    shutil.copytree(pico_folder("roberta", pico_cache), resources / "roberta-base")
    for seed, name in enumerate(("tec-model", "isear-model")):
        model = save_classifier_of(made / name, pico_cache, seed, LABELS, "roberta")
        model.config.problem_type = "multi_label_classification"
        model.config.save_pretrained(made / name)
    return made


def on_pico_models(texts: list[str], folder: Path) -> list[str]:
    """The overrides of a small job of the same kind, on the made-up data."""
    joined = "\n".join(texts)
    for real, small in PICO.items():
        joined = joined.replace(real, small)
    joined = re.sub(r"owner/([\w-]+)(@main)?", rf"{folder}/\1", joined)
    joined = joined.replace("=resources/roberta-base", f"={folder}/resources/roberta-base")
    joined = re.sub(r"paths\.(data|zoo|output)_dir=\S+\n?|suite\.examples=\d+\n?", "", joined)
    small = [text for text in joined.splitlines() if text]
    small += ["debug=fast", f"paths.data_dir={folder / 'resources'}", f"paths.zoo_dir={folder / 'zoo'}"]
    small += ["trainer=cpu", "trainer.progress_bar=false", "logger=none", "measure_divergence=false"]
    if "partition" in joined:
        small.append("suite.examples=20")
    return small


def run_first_job(texts: list[str], folder: Path) -> Any:
    """The result of a command's first job; what commands have in common is computed once, as the program does it."""
    outputs = folder / "outputs_of_commands"
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        config = compose_first_job([*on_pico_models(texts, folder), f"paths.output_dir={outputs}"])
    OmegaConf.set_struct(config, True)
    job = outputs / job_folder(config)
    known = (job / "result.json").is_file()
    result, computed = run(config, job, texts)
    assert computed != known
    scores = [score for domain in result.scores.values() for score in domain.values()]
    assert len(result.scores["in_domain"]) == len(result.members) >= 2
    assert all(math.isfinite(score) and -100 <= score <= 100 for score in scores)
    return result


SCRIPTS = (
    "deberta/{incremental_emotion,incremental_ner,pairwise_emotion}",
    "distilbert/{pairwise_glue_difftask,pairwise_glue_subset}",
    "roberta/{incremental_emotion,incremental_ner,pairwise_emotion,pairwise_glue_difftask,pairwise_glue_subset}",
    "t5/{incremental_emotion,pairwise_emotion}",
)
"""The released code's scripts, by hand."""
EXPERIMENT_FILES = (
    "deberta/deberta-large-emotion{,-fisher,-locals,-mtl,-regmean}",
    "deberta/ner/deberta-ner-{locals,mtl}",
    "deberta/ner/ood/deberta-ner{,-ensemble,-fisher,-mtl-ood,-regmean}",
    "deberta/ood/deberta-large-emotion-{ensemble-ood,fisher-norm-ood,fisher-ood,mtl-ood,ood,regmean-ood}",
    "distilbert/distilbert-{base,fisher,mtl,ot,regmean}",
    "distilbert/coeff/distilbert-coeff{,-50,-50-fisher}",
    "distilbert/coeff/distilbert-coeff-50-fisher-{normalize,fixregression,fixregression-normalize}",
    "distilbert/fisher/distilbert-fisher_{10,100,1000-normalize,abl}",
    "distilbert/regmean/distilbert-regmean-coeff",
    "distilbert/subset/distilbert-iid-{10k-regmean-whead,1k,1k-debug,1k-regmean,1k-whead}",
    "distilbert/subset/distilbert-niid-1k-{fisher-whead,regmean-whead,whead}",
    "distilbert/tsp/distilbert-tsp{1,2,3,4}-5",
    "roberta-base/roberta-base-emotion{,-ensemble,-fisher,-mtl,-ot,-regmean}",
    "roberta-base/glue/roberta-base{,-fisher,-fisher-norm,-mtl,-mtl-debug,-regmean}",
    "roberta-base/glue/roberta-coeff-50{,-fisher}",
    "roberta-base/ner/distilbert-base-ner{,-mtl}",
    "roberta-base/ner/roberta-base-ner{,-fisher,-mtl,-regmean}",
    "roberta-base/ner/ood/roberta-base-ner{,-ensemble,-fisher,-mtl-ood,-regmean}",
    "roberta-base/ood/roberta-base-emotion-{ensemble-ood,fisher-norm-ood,fisher-ood,local-ood,mtl-ood,ood}",
    "roberta-base/ood/roberta-base-emotion-{partial-regmean-ood,regmean-diag-ood,regmean-ood,regmean-rw-ood}",
    "roberta-base/subset/rb-1k{,-fisher,-regmean}-whead",
    "t5/t5-base-{local,emotion,emotion-debug,emotion-fisher,emotion-mtl,emotion-regmean,emotion-regmean-diag}",
    "t5/ood/t5-base-emotion-{ensemble-ood,fisher-norm-ood,fisher-ood,mtl-ood,ood}",
    "t5/ood/t5-base-emotion-regmean-{full-ood,ood,ood2,rw-ood}",
)
"""The files of its folder ``src/configs/exps``, by hand."""
DATA_FILES = (
    "{emotion,emotion_gen,glue,ner}{,_mtl}",
    "{emotion,ner}_diffseed",
    "subsets/glue_mtl_subset_{100,1k}",
    "subsets/glue_partition_{10k_iid,1k_iid,1k_niid,1k_niid_diffseed}",
)
"""The files of its folder ``src/configs/datasets``, by hand."""


def all_of(patterns: tuple[str, ...]) -> list[str]:
    return sorted(name for pattern in patterns for name in braces(pattern))


def rows_of(section: str) -> list[list[str]]:
    _, _, body = SECTIONS[section].partition("\n|---")
    return [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]


def named(cell: str) -> list[str]:
    return [name for text in re.findall(r"`([^`]+)`", cell) for name in braces(text)]


def as_settings(texts: list[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts if text != "-m")


def test_the_page_has_what_is_run_here() -> None:
    scripts = [name for row in rows_of("Scripts") for name in named(row[0])]
    assert sorted(scripts) == [f"{name}.py" for name in all_of(SCRIPTS)]
    assert all(row[1].startswith("`python -m regmean_lab ") for row in rows_of("Scripts"))
    rows = rows_of("Figures and variants")
    assert len(rows) == 16
    assert all("`python -m regmean_lab " in row[1] or "two_checkpoints.ipynb" in row[1] for row in rows)
    rows = [line for line in SECTIONS["Flags and settings"].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(EXAMPLES) >= 20
    flags = ("--config_files", "--filter_model", "--templates", "zoo_filter", "local_zoo_dir")
    assert all(any(f"`{flag}" in row for row in rows) for flag in flags)
    assert (len(VERBS), len(IMPORTS)) == (2, 1)
    assert len(CONFIGURATIONS) == 9
    assert (TESTS.parent / "notebooks" / "two_checkpoints.ipynb").is_file()


def test_every_file_of_an_experiment_is_answered_with_the_command_of_its_row() -> None:
    seen = []
    for row in rows_of("Files of experiments"):
        files, (data,), (command,) = ([name for name in named(row[0]) if "/" in name], named(row[1]), named(row[2]))
        given = as_settings(shlex.split(command.removeprefix("python -m regmean_lab ")))
        methods = given.pop("method").split(",")
        assert given.pop("paths.data_dir") == "resources"
        used = []
        for file in files:
            answer = as_settings(released_choices([f"configs/datasets/{data}.yaml", f"configs/exps/{file}.yaml"]))
            used.append(answer.pop("method"))
            assert answer == given, file
        assert list(dict.fromkeys(used)) == methods or set(used) == set(methods)
        seen += files
    assert len(seen) == 100
    assert sorted(seen) == all_of(EXPERIMENT_FILES)


def test_every_file_of_data_is_answered_with_the_command_of_its_row() -> None:
    rows = rows_of("Files of data")
    for file, command in rows:
        given = as_settings(shlex.split(named(command)[0].removeprefix("python -m regmean_lab ")))
        answer = as_settings(released_choices([f"src/configs/datasets/{named(file)[0]}.yaml"], 2))
        assert answer.items() <= given.items()
        assert set(given) - set(answer) <= {"model", "method", "members", "suite.task", "paths.data_dir"}
    assert sorted(named(file)[0] for file, _ in rows) == all_of(DATA_FILES)


def check_jobs(texts: list[str], *, multirun: bool = True) -> None:
    """That a command line is right, and the first and the last job of each of its grids; data and weights aside."""
    with composing():
        assert override_problems(texts, jobs_too=False, multirun=multirun) == []
        composer = Composer()
        for grid in grids_of(texts, multirun=multirun):
            values = [values_of(parameter) for parameter in grid]
            for job in ([texts[0] for texts in values], [texts[-1] for texts in values]):
                assert len(settings_of(composer.compose(job)).members) >= 2


@pytest.mark.parametrize("command", [*COMMANDS, *VERBS, *EXAMPLES])
def test_a_command_is_right_as_it_stands(command: str, compose_job: Callable[..., Any]) -> None:
    compose_job()  # registers schemas and resolvers
    check_jobs(arguments(command), multirun="-m" in shlex.split(command))


@pytest.mark.parametrize("command", [*COMMANDS, *EXAMPLES, *(row.split("`")[1] for row in CONFIGURATIONS)])
def test_a_command_runs(command: str, folder: Path, compose_job: Callable[..., Any]) -> None:
    compose_job()
    texts = arguments(command)
    result = run_first_job(texts, folder)
    if {"suite=ner", "suite.include_other_members=true"} <= set(texts):
        assert set(result.scores["out_of_domain"]) == {"conll2003", "twitter"}  # all six are merged
    elif {"experiment=ner_incremental", "suite.include_other_members=true"} <= set(texts):
        assert set(result.scores["out_of_domain"]) == {"conll2003", "twitter", "bc", "mz", "tc", "wb"}


def test_the_example_is_one_command(forks: Forks, folder: Path, tmp_path: Path) -> None:
    """As somebody types it beside the folder `resources`, with a pico model; then the plan, and the report."""
    example = ALL_METHODS.replace("roberta_base", PICO["roberta_base"])
    small = ["debug=fast", "trainer=cpu", "suite.out_of_domain=[emoint]", f"paths.output_dir={tmp_path / 'outputs'}"]
    status, printed = forks.run([*shlex.split(example), *small], tmp_path / "log.txt", folder)
    assert status == 0, printed
    assert "6 results, 6 computed now" in printed
    assert len(list((tmp_path / "outputs").glob("emotion_pairwise/dailydialog+crowdflower/*/result.json"))) == 6
    plan = ["plan", *shlex.split(VERBS[0].replace("roberta_base", PICO["roberta_base"]))]
    status, printed = forks.run([*plan, *small], tmp_path / "plan.txt", folder)
    assert status == 0, printed
    assert "1 job: 1 finished, 0 to do" in printed  # one of the six
    (report,) = re.findall(r"`python -m regmean_lab\.report (results=outputs)`", PAGE)
    status, printed = forks.run(["report", report], tmp_path / "report.txt", tmp_path)
    assert status == 0, printed
    assert "6 results in 1 section" in printed
    assert "dailydialog" in (tmp_path / "outputs" / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name, override", sorted(set(TABLES)))
def test_a_table_begins(name: str, override: str, folder: Path, compose_job: Callable[..., Any]) -> None:
    compose_job()
    texts = [f"+multirun_sweeps={name}", *([override] if override else [])]
    check_jobs(texts)
    # Models of the sweep's grids are its own: of the first grid a pico one is run.
    chosen = {"glue_partitions": "suite.task=mrpc"}.get(name, "members=[mrpc,rte]" if "glue" in name else None)
    run_first_job([*texts, "model=roberta_base", *([chosen] if chosen else [])], folder)


@pytest.mark.parametrize("row", CONFIGURATIONS)
def test_published_configurations(row: str, compose_job: Callable[..., Any]) -> None:
    chosen, rate, length, schedule, kept, alpha = row.split(" | ")
    texts = chosen.strip("`").split()
    config = compose_job(*texts, "method=regmean")
    joint = compose_job(*texts, "method=multitask").method
    training = config.training
    own, jointly = re.fullmatch(r"(\S+)(?: \((\S+)\))?", rate).groups()  # type: ignore[union-attr]
    assert (training.learning_rate, joint.learning_rate) == (float(own), float(jointly) if jointly else None)
    number, unit, more = re.fullmatch(r"([\d,]+) (\w+)(?: \(([\d,]+)\))?", length).groups()  # type: ignore[union-attr]
    counted = {"epochs": (training.epochs, training.steps), "steps": (training.steps, joint.steps)}[unit]
    assert counted == tuple(int(text.replace(",", "")) if text else None for text in (number, more))
    assert (training.schedule, training.warmup) == (schedule.partition(",")[0], 0.06 if "6 %" in schedule else 0)
    assert training.selection == kept.removesuffix(" on dev")
    assert config.method.off_diagonal == float(alpha)
    shared = (training.batch_size, training.weight_decay, training.gradient_clip, training.precision)
    assert shared == (16, 0, 1, "32-true")
    assert training.max_length == (512 if "suite=ner" in texts else 128)


# dataset_name of model0, model1, … in src/configs/datasets of the released code, by hand: emotion.yaml (and _diffseed,
# _gen, _mtl and _gen_mtl, which have the same), ner.yaml, glue.yaml, subsets/glue_partition_*.yaml (partition).
EMOTION_THERE = (
    "dailydialog crowdflower tec tales-emotion emobank isear emoint ssec electoraltweets fb-valence-arousal-anon "
    "grounded_emotions emotion-cause affectivetext"
)
RELEASED_NUMBERS = {
    "emotion": EMOTION_THERE.split(),
    "emotion_text": EMOTION_THERE.split(),
    "ner": ["bc", "mz", "tc", "nw", "bn", "wb", "conll2003", "twitter"],
    "glue": ["cola", "sst2", "mrpc", "stsb", "mnli", "qnli", "qqp", "rte", "wnli"],
    "glue_partition": ["partition_0", "partition_1"],
}
NO_CORPORA = ("emobank", "fb-valence-arousal-anon", "emotion-cause")


@pytest.mark.parametrize("suite", RELEASED_NUMBERS)
def test_every_number_of_a_member(suite: str, compose_job: Callable[..., Any], tmp_path: Path) -> None:
    for number, corpus in enumerate(RELEASED_NUMBERS[suite]):
        config = compose_job(f"suite={suite}", f"members=[model{number}]", f"paths.data_dir={tmp_path}")
        problem, *_ = settings_problems(config)  # two are needed to merge, besides
        then = f"; the suite has no corpus {corpus}; there are " if corpus in NO_CORPORA else f": members=[{corpus}] ("
        stands = f"in suite {suite} it stands for {corpus}{then}"
        assert problem.startswith(f"members: model{number} is a name of the paper's released code; {stands}")
    problem, *_ = settings_problems(compose_job(f"suite={suite}", f"members=[model{number + 1}]"))
    assert problem.startswith(f"members: suite {suite} has no 'model{number + 1}'; ")


def test_numbers_of_members_on_the_page() -> None:
    shown = {}
    for row in re.findall(r"^\| (`.*) \|$", SECTIONS["Names of members"], re.M):
        suites, members, unnamed = (re.findall(r"`([^`]+)`", cell.partition("(")[0]) for cell in row.split(" | "))
        shown.update(dict.fromkeys(suites, members))
        for suite in suites:
            by_default = suite_types()[suite].reference_order
            numbers = {f"model{number}" for number, name in enumerate(members) if name not in by_default}
            assert numbers >= set(unnamed) and bool(numbers) == bool(unnamed)
    assert shown == RELEASED_NUMBERS


def test_a_corpus_whose_folder_is_there_can_be_named(folder: Path, compose_job: Callable[..., Any]) -> None:
    config = compose_job("suite=emotion", "members=[tec,model4]", f"paths.data_dir={folder / 'resources'}")
    (problem,) = settings_problems(config)
    assert "in suite emotion it stands for emobank: members=[tec,emobank] (" in problem


def settings_problems(config: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        settings_of(config)
    return raised.value.problems


def test_the_answer_to_names_of_the_release_is_that_of_the_page(compose_job: Callable[..., Any]) -> None:
    (shown,) = re.findall(r"^    (members: .*)$", PAGE, re.M)
    with pytest.raises(ConfigurationError) as raised:
        settings_of(compose_job("suite=emotion", "members=[model0,model1]"))
    assert raised.value.problems == [f"{shown} (docs/from_the_release.md)"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["suite=ner", "members=[ontonotes@nw,bc,model5]"],
            "members: ontonotes@nw, model5 are names of the paper's released code; in suite ner they stand for nw, wb: "
            "members=[nw,bc,wb]",
        ),
        (
            ["suite=glue_partition", "members=[partition_1,model0]"],
            "is a name of the paper's released code; in suite glue_partition it stands for partition_0: members=[",
        ),
        (["suite=emotion", "members=[tec,model0]"], "it stands for dailydialog: members=[tec,dailydialog] "),
        (
            ["suite=emotion", "members=[model2,model4]"],
            "members: model2, model4 are names of the paper's released code; in suite emotion they stand for tec, "
            "emobank; the suite has no corpus emobank; there are dailydialog, ",
        ),
        (
            ["suite=emotion", "checkpoints.model4=owner/name"],
            "model4 of the paper's released code is emobank in suite emotion, which is no corpus of it here; there are",
        ),
        (["suite=sentiment", "members=[model0,nyt]"], "members: suite sentiment has no 'model0'"),
        (
            ["suite=emotion", "members=['model1=owner/name',tec,isear]"],
            "members: model1=owner/name: model1 of the paper's released code is crowdflower in suite emotion",
        ),
        (
            ["suite=emotion", "checkpoints.model2=owner/name"],
            "checkpoints.model2: model2 of the paper's released code is tec in suite emotion",
        ),
        (
            ["suite=ner", "suite.out_of_domain=[ontonotes@wb]"],
            "suite.out_of_domain: no corpus ontonotes@wb (did you mean wb?)",
        ),
    ],
)
def test_names_of_the_release_wherever_a_corpus_is_named(
    overrides: list[str], expected: str, compose_job: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings_of(compose_job(*overrides))
    (problem,) = raised.value.problems
    assert expected in problem


def test_a_folder_of_such_a_name_is_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose_job: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model0", "model1"):
        Path(name).mkdir()
    suite = ("suite=text_classification", "suite.corpora.a=a.csv", "suite.corpora.b=b.csv")
    assert named_members(["model0", "model1"], {}, settings_suite(compose_job(*suite))).checkpoints == {
        "a": "model0",
        "b": "model1",
    }
    emotion = settings_suite(compose_job("suite=emotion"))
    assert named_members(["tec=model0", "isear=model1"], {}, emotion).corpora == ("tec", "isear")
    assert named_members(["model0", "isear"], {}, emotion).corpora == ("isear",)  # whose corpus is to be said


def settings_suite(config: Any) -> Any:
    kind = suite_types()[config.suite.name]
    values = {str(key): value for key, value in OmegaConf.to_container(config.suite).items() if key != "name"}
    return kind(Path("data"), kind.settings_type(**values))


def test_the_example_of_the_release_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *shlex.split(RELEASED)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "3 things to correct" in told
    for flag, instead in (("--config", "suite="), ("--filter_model", "members=["), ("--templates", "seed=")):
        assert re.search(rf"{flag}: .*{re.escape(instead)}", told)
    assert told.partition("The command so corrected:\n")[2].strip() == f"python -m regmean_lab {ANSWER}"


def braces(pattern: str) -> list[str]:
    """What a pattern with braces stands for, as a shell has it."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def test_folders_of_the_page_are_those_that_are_read(folder: Path) -> None:
    """The made-up data lie where the page says, and the commands above have read them there."""
    rows = re.findall(r"^\| `([^`]+)` \|", SECTIONS["Data"], re.M)
    rows += re.findall(r"^\| GLUE, .* \| `([^`]+)`", SECTIONS["Data"], re.M)
    rows.append("roberta-base")
    assert len(rows) == 9
    places = [place for row in rows if row != "resources/" for place in braces(row)]
    places = [place.replace("CORPUS", "tec").replace("TASK", "mrpc") for place in places]
    assert [place for place in places if not (folder / "resources" / place).exists()] == []
    emotion = suite_types()["emotion"]
    suite = emotion(folder / "resources", emotion.settings_type())
    parts = [len(suite.examples("emoint", split)) for split in ("train", "dev", "test")]
    assert len(suite.out_of_domain_examples("emoint")) == sum(parts)
    assert "emobank" not in suite.members and "emobank" in suite.candidates


def test_an_old_zoo_is_imported(
    folder: Path,
    tmp_path: Path,
    pico_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    compose_job: Callable[..., Any],
) -> None:
    def convert_here(source: Path, target: Path) -> None:
        (convert_file if source.is_file() else convert)(source, target)

    monkeypatch.setattr(released_zoo, "convert_apart", convert_here)
    for corpus in ("tec", "isear"):
        state = released(tmp_path / "old_zoo", corpus, "1660000000", pico_cache, 1)
        save_statistics(tmp_path / "old_zoo", corpus, "1660000000", state)
    (command,) = IMPORTS
    command = command.replace("roberta_base", "pico_bert").replace("roberta-base", "bert-base")
    given = shlex.split(command.replace("=resources", f"={folder / 'resources'}"))
    paths = [f"paths.zoo_dir={tmp_path / 'zoo'}", "trainer=cpu"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["regmean-lab", "zoo", *given, *paths, "trainer.progress_bar=false"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert {entry.description["corpus"] for entry in Zoo(tmp_path / "zoo").entries()} == {"tec", "isear"}

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("trained although it is there")

    monkeypatch.setattr("regmean_lab.training.train.train_model", refuse)
    then = VERBS[-1].replace("roberta_base", "pico_bert").replace("=resources", f"={folder / 'resources'}")
    config = compose_job(
        *arguments(then),
        *("suite.out_of_domain=[emoint]", "logger=none", "trainer.progress_bar=false", *paths),
        f"paths.output_dir={tmp_path / 'outputs'}",
    )
    result, _ = run(config, tmp_path / "job", [])
    assert set(result.scores["in_domain"]) == {"tec", "isear"}


def test_the_paper_is_cited_alike_in_both_files() -> None:
    root = TESTS.parent
    (cited,) = OmegaConf.to_container(OmegaConf.load(root / "CITATION.cff"))["references"]  # type: ignore[index,call-overload]
    (entry,) = re.findall(r"```bibtex\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.S)
    fields = dict(re.findall(r"^ *(\w+) *= *\{(.*)\},?$", entry, re.M))
    names = [f"{author['family-names']}, {author['given-names']}" for author in cited["authors"]]
    assert fields["author"] == " and ".join(names)
    assert fields["title"].replace("{", "").replace("}", "") == cited["title"]
    assert (fields["year"], fields["url"]) == (str(cited["year"]), cited["url"])
    assert fields["booktitle"] in cited["collection-title"]
    assert f"arXiv:{fields['eprint']}" in [identifier["value"] for identifier in cited["identifiers"]]
