"""The commands and the code of docs/checkpoints.md, on pico models in folders of the names that the page has."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folders import sentence_folder, tensors_of
from forks import Forks
from given_folders import LABELS, save_classifier_of, write_corpus
from released_folders import released
from stand_in_hub import Account, StandInHub

from regmean_lab.__main__ import main
from regmean_lab.checkpoints import merge_command, released_zoo
from regmean_lab.config.schema import settings_of
from regmean_lab.experiment import run
from regmean_lab.models.convert_pickled import convert, convert_file
from regmean_lab.models.pico import pico_folder
from regmean_lab.suites.emotion import IN_DOMAIN, OUT_OF_DOMAIN
from regmean_lab.zoo import Zoo

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8").replace(" \\\n        ", " ")
COMMANDS = re.findall(r"^    (?:python -m regmean_lab|regmean-lab) (.+)$", PAGE, re.M)
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
SMALL = ("trainer=cpu", "trainer.progress_bar=false")


def of(beginning: str) -> list[str]:
    """The commands that begin so."""
    return [command for command in COMMANDS if command.startswith(beginning)]


FORM, REGMEAN, TIES, QUOTED, SENTENCES = of("experiment=merge_checkpoints")
*BOTH, TEXTS = of("experiment=collect_statistics")
RECIPE, PUSHED = of("merge ")
WHOLE, AGAIN, BY_CORPUS, WITH_ADDED, WITH_IMPORTED = of("run ")
(ADD,), (IMPORT,) = of("zoo add"), of("zoo import")
SAVED, KEPT, LIBRARY = CODE


def test_every_command_of_the_page_is_run_here() -> None:
    run_here = [FORM, REGMEAN, TIES, QUOTED, SENTENCES, *BOTH, TEXTS, RECIPE, PUSHED]
    run_here += [WHOLE, AGAIN, BY_CORPUS, WITH_ADDED, WITH_IMPORTED, ADD, IMPORT]
    assert sorted(run_here) == sorted(COMMANDS)
    assert len(re.findall(r"^    \S", PAGE, re.M)) == len(COMMANDS)


@pytest.fixture
def folder(tmp_path: Path, pico_cache: Path) -> Path:
    """Two classifiers, data of theirs, and what both were trained from."""
    for seed, name in enumerate(("reviews", "tweets")):
        save_classifier_of(tmp_path / name, pico_cache, seed)
        write_corpus(tmp_path / f"{name}.jsonl", seed)
    write_corpus(tmp_path / "test.jsonl", 2)
    shutil.copytree(pico_folder("bert", pico_cache), tmp_path / "bert-base-uncased")
    return tmp_path


def told(forks: Forks, folder: Path, command: str, *more: str) -> str:
    status, printed = forks.run([*shlex.split(command), *SMALL, *more], folder / "log.txt", folder)
    assert status == 0, printed
    return printed


def execute(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    names: dict[str, Any] = {}
    with monkeypatch.context() as patched:
        patched.chdir(folder)
        exec(code, names)
    return names


def test_two_folders_become_one(forks: Forks, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in BOTH:
        told(forks, folder, command)
    told(forks, folder, REGMEAN)
    regmean = tensors_of(folder / "merged")
    assert execute(SAVED, folder, monkeypatch)["model"].config.id2label == dict(enumerate(LABELS))

    form = FORM.replace("FOLDER_OR_NAME,FOLDER_OR_NAME,...", "reviews,tweets").replace("METHOD", "simple")
    told(forks, folder, form, "output=mean")
    mean, members = tensors_of(folder / "mean"), [tensors_of(folder / name) for name in ("reviews", "tweets")]
    assert all(value.allclose((members[0][name] + members[1][name]) / 2, atol=1e-6) for name, value in mean.items())
    assert any(not value.allclose(regmean[name], atol=1e-4) for name, value in mean.items())
    told(forks, folder, TIES, "output=ties")
    assert json.loads((folder / "ties" / "merge.json").read_text())["method"]["name"] == "ties"

    for name, copied in (("first", "reviews"), ("epoch=9-step=100", "tweets")):
        shutil.copytree(folder / copied, folder / name)
    told(forks, folder, QUOTED, "output=quoted")
    assert all(value.allclose(regmean[name]) for name, value in tensors_of(folder / "quoted").items())

    told(forks, folder, form, "heads=keep", "output=merged", "force=true")
    assert execute(KEPT, folder, monkeypatch)["model"].config.id2label == dict(enumerate(LABELS))
    shutil.rmtree(folder / "merged")
    execute(LIBRARY, folder, monkeypatch)
    assert (folder / "merged" / "model.safetensors").is_file()


def test_a_recipe_becomes_a_folder(forks: Forks, folder: Path) -> None:
    lines = ["merge_method: linear", "models:", *(f"  - model: {name}" for name in ("reviews", "tweets"))]
    (folder / "recipe.yml").write_text("\n".join(lines))
    told(forks, folder, RECIPE)
    assert (folder / "merged" / "model.safetensors").is_file()


def test_sentence_embeddings(forks: Forks, tmp_path: Path, pico_cache: Path) -> None:
    for seed, name in enumerate(("first", "second")):
        sentence_folder(tmp_path / name, pico_cache, seed)
    (tmp_path / "texts.txt").write_text("".join(f"the film was good {number}\n" for number in range(32)))
    told(forks, tmp_path, SENTENCES)
    assert (tmp_path / "merged" / "modules.json").is_file()
    told(forks, tmp_path, TEXTS)
    assert (tmp_path / "first" / "statistics" / "gram.safetensors").is_file()


def test_checkpoints_are_members(forks: Forks, folder: Path) -> None:
    for name, new in (("reviews", "my-model"), ("tweets", "owner/name"), ("reviews.jsonl", "a.csv")):
        (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, folder / new)
    rows = [json.loads(line) for line in (folder / "reviews.jsonl").read_text().splitlines()]
    for corpus in "ab":
        lines = [f"{row['text']} {corpus},{row['label']}" for row in rows]
        (folder / f"{corpus}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    beginning = WHOLE.removeprefix("run ").partition(" members=")[0]
    for number, command in enumerate((WHOLE, AGAIN, BY_CORPUS)):
        here = command.replace("…", beginning).replace("roberta_base", "pico_bert").replace("@main", "")
        told(forks, folder, here, "logger=none", f"paths.output_dir=outputs{number}")
        (found,) = folder.glob(f"outputs{number}/**/result.json")
        checkpoints = json.loads(found.read_text())["checkpoints"]
        assert {corpus: Path(entry["from"]).name for corpus, entry in checkpoints.items()} == {
            "a": "my-model",
            "b": "name",
        }


def test_a_checkpoint_is_added(
    tmp_path: Path,
    pico_cache: Path,
    made_up_sentiment: Path,
    compose_job: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [f"paths.data_dir={made_up_sentiment}", f"paths.zoo_dir={tmp_path / 'zoo'}", *SMALL]
    texts = [*shlex.split(WITH_ADDED.replace("minilm", "pico_bert"))[1:], *paths, "logger=none", "debug=fast"]
    config = compose_job(*texts, "model=pico_bert", f"paths.output_dir={tmp_path / 'outputs'}")
    labels = settings_of(config).suite.task("tweets").labels
    save_classifier_of(tmp_path / "my-tweets-model", pico_cache, 1, labels)
    monkeypatch.chdir(tmp_path)
    given = shlex.split(ADD.replace("minilm", "pico_bert"))
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *given, *paths, "debug=fast"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    (added,) = Zoo(tmp_path / "zoo").entries()
    result, _ = run(config, tmp_path / "job", [])
    assert set(result.scores["in_domain"]) == {"tweets", "nyt"}
    assert len(Zoo(tmp_path / "zoo").entries()) == 2  # only the other one was trained
    assert added.description["corpus"] == "tweets"


def test_a_zoo_is_imported(
    tmp_path: Path,
    pico_cache: Path,
    write_emotions: Callable[[Path], Path],
    compose_job: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def convert_here(source: Path, target: Path) -> None:
        (convert_file if source.is_file() else convert)(source, target)

    monkeypatch.setattr(released_zoo, "convert_apart", convert_here)
    emotions = write_emotions(tmp_path / "resources") / "emotion_splits"
    for corpus in (*IN_DOMAIN, *OUT_OF_DOMAIN):
        if not (emotions / corpus).is_dir():
            shutil.copytree(emotions / "tec", emotions / corpus)
    for corpus in ("tec", "isear"):
        released(tmp_path / "old_zoo", corpus, "1660000000", pico_cache, 1)
    monkeypatch.chdir(tmp_path)
    paths = [f"paths.zoo_dir={tmp_path / 'zoo'}", *SMALL]
    given = shlex.split(IMPORT.replace("roberta_base", "pico_bert").replace("roberta-base", "bert-base"))
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *given, *paths])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert {entry.description["corpus"] for entry in Zoo(tmp_path / "zoo").entries()} == {"tec", "isear"}
    texts = shlex.split(WITH_IMPORTED.replace("roberta_base", "pico_bert"))[1:]
    small = ["members=[tec,isear]", "suite.out_of_domain=[emoint]", "logger=none", f"paths.output_dir={tmp_path}/out"]
    result, _ = run(compose_job(*texts, *small, *paths), tmp_path / "job", [])
    assert set(result.scores["in_domain"]) == {"tec", "isear"}


def test_a_merge_is_pushed(
    folder: Path,
    forks: Forks,
    new_hub: StandInHub,
    compose_job: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new_hub.log_in(monkeypatch, Account("owner"))
    for command in BOTH:
        told(forks, folder, command)
    shutil.copy(folder / "test.jsonl", folder / "test.csv")
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    (folder / "test.csv").write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in rows)]))
    monkeypatch.chdir(folder)
    texts = [*shlex.split(PUSHED)[1:], *SMALL, "output=merged", "paths.output_dir=outputs", "paths.zoo_dir=zoo"]
    config = compose_job(*texts, root="merge_checkpoints")
    merge_command.check(config)
    merge_command.run(config, folder / "job")
    assert "owner/reviews-tweets" in new_hub.repositories
