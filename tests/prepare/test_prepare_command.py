from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.prepare import Preparer, Request, preparers
from regmean_lab.prepare.cli import main, parse
from regmean_lab.prepare.listing import statuses
from regmean_lab.suites import suite_types
from regmean_lab.suites.emotion import EMOTIONS


def unified_file(tmp_path: Path) -> Path:
    path = tmp_path / "unified-dataset.jsonl"
    rows = [{"source": "tec", "text": f"text {n}", "emotions": dict.fromkeys(EMOTIONS, 0)} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_prepares_and_shows_the_licence_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir = tmp_path / "data"
    assert main(["suite=emotion", f"from={unified_file(tmp_path)}", f"data_dir={data_dir}", "seed=3"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(preparers()["emotion"].notice)
    assert "tec: 7 / 1 / 2 sentences (train / dev / test), divided at random with seed 3" in printed
    assert (data_dir / "emotion_splits" / "tec" / "test.jsonl").is_file()
    assert main(["suite=emotion", f"from={tmp_path}", f"paths.data_dir={data_dir}"]) == 0
    assert "tec: is there already and stays as it is (force=true replaces it)" in capsys.readouterr().out
    assert main(["suite=emotion_text", f"from={tmp_path}", f"data_dir={data_dir}", "force=True"]) == 0
    assert "divided at random with seed 0" in capsys.readouterr().out


def test_the_licence_comes_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    kind = type(preparers()["ner_open"])
    monkeypatch.setattr(kind, "prepare", lambda self, request: order.append("prepare"))
    monkeypatch.setattr("builtins.print", lambda *values, **options: order.append(str(values[0])))
    assert main(["suite=ner_open", f"data_dir={tmp_path}"]) == 0
    assert order == [kind.notice, "prepare"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suit=emotion"], "suit=emotion: there is no key 'suit'; did you mean suite?"),
        (["verbose"], "verbose: there is no key 'verbose'; there are: suite, data_dir, from, mirror, seed, force"),
        (["emotion"], "emotion: expected KEY=VALUE; did you mean suite=emotion?"),
        (["suite="], "suite=: expected suite=VALUE"),
        (["suite=emotin"], "suite=emotin: there is nothing of that name to prepare; did you mean emotion"),
        (["suite=ner"], "suite=ner: its data is prepared in parts: suite=conll2003, suite=ontonotes, suite=twitter"),
        (["suite=emotion", "seed=1", "seed=2"], "seed= is given more than once"),
        (["data_dir=a", "paths.data_dir=b"], "data_dir= is given more than once"),
        (["suite=emotion", "seed=-1"], "seed=-1: expected a whole number from 0"),
        (["suite=emotion", "force=1"], "force=1: expected true or false"),
        (["suite=emotion", "from=/not/there"], "from=/not/there: there is no such file or folder"),
        (["suite=ner_open", "mirror=/not/there"], "mirror=/not/there: expected a folder that is there, or a URL"),
        (["suite=emotion", "mirror=/"], "mirror= is not for suite=emotion, which takes from=, seed="),
        (["suite=twitter", "seed=1"], "seed= is not for suite=twitter, which takes no source"),
        (["force=true"], "force= needs suite= beside it"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    found = errors(capsys)
    assert len(found) == 2 and found[1].startswith(f"  - {message}")


def test_all_wrong_arguments_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite=glue", "sed=1", "seed=x", "mirror=/not/there", "force=perhaps"]) == 2
    assert len(errors(capsys)) == 1 + 6  # seed= and mirror= are wrong and not for glue


def test_arguments_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    call = parse(
        ["suite=ner_open", "mirror=https://example.org/x", "seed=7", "force=true", "data_dir=~/d"], preparers()
    )
    assert not isinstance(call, list) and call.preparer is not None and call.preparer.name == "ner_open"
    assert call.request == Request(tmp_path / "d", mirror="https://example.org/x", seed=7, force=True)
    call = parse(["suite=ner_open", "mirror=~"], preparers())
    assert not isinstance(call, list) and call.request == Request(Path("data"), mirror=str(tmp_path))


def test_missing_sources_and_malformed_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"data_dir={tmp_path / 'data'}"
    assert main(["suite=conll2003", where]) == 2
    assert errors(capsys) == [
        "error: it cannot be downloaded: give from= a folder with eng.train, eng.testa and eng.testb"
    ]
    assert main(["suite=twitter", where]) == 2
    assert "annotated.twitter-ner-20-21-tweet-dev-withcleaned.json" in errors(capsys)[0]
    path = unified_file(tmp_path)
    path.write_text(path.read_text() + "{}\n")
    assert main(["suite=emotion", f"from={path}", where]) == 2
    assert errors(capsys) == [f'error: {path}:11: "source" must be a string, found null']


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(self: Preparer, request: Request) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(preparers()["glue"]), "prepare", interrupt)
    assert main(["suite=glue", f"data_dir={tmp_path}"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite=nonsense", "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m regmean_lab.prepare [KEY=VALUE ...]")
    assert all(f"\n  {name} " in printed for name in preparers())


def test_as_a_program(tmp_path: Path) -> None:
    """The exit code comes through, and nothing is imported that makes the command slow."""
    code = """
import runpy, sys
import regmean_lab.suites
before = set(sys.modules)
import regmean_lab.prepare.cli
print(*sorted({"datasets", "pytorch_lightning", "transformers"} & (set(sys.modules) - before)), end="|")
sys.argv = ["prepare", *sys.argv[1:]]
runpy.run_module("regmean_lab.prepare", run_name="__main__")
"""
    command = [sys.executable, "-c", code, "suite=conll2003", f"data_dir={tmp_path}"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.stdout == f"|{preparers()['conll2003'].notice}\n"
    assert finished.stderr.startswith("error: it cannot be downloaded") and finished.returncode == 2


def test_every_preparer_serves_a_suite_and_says_what_it_does(tmp_path: Path) -> None:
    known = preparers()
    assert {"conll2003", "emotion", "glue", "ner_open", "ontonotes", "sentiment", "twitter"} <= set(known)
    for name, preparer in known.items():
        assert preparer.name == name and preparer.notice.strip() and preparer.needs
        assert set(preparer.suites) <= set(suite_types())
        assert preparer.arguments.split()[:1] in ([f"suite={name}"], [])
        paths = [path for paths in preparer.files(tmp_path).values() for path in paths]
        assert len(paths) == len(set(paths)) and all(path.is_relative_to(tmp_path) for path in paths)


def test_the_files_of_the_list_are_those_that_the_suites_read(tmp_path: Path) -> None:
    """Every file that a suite misses in an empty folder belongs to a preparer that serves it."""
    for name in ("emotion", "ner", "ner_open"):
        suite_type = suite_types()[name]
        suite = suite_type(tmp_path, suite_type.settings_type())
        paths = [
            str(path)
            for preparer in preparers().values()
            if name in preparer.suites
            for files in preparer.files(tmp_path).values()
            for path in files
        ]
        missing = "\n".join(suite.missing(suite.candidates))
        assert len(paths) > 0
        assert all(path in missing for path in paths)


def test_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: Any, **options: Any) -> None:
        pytest.fail("the list asked the network")

    monkeypatch.setattr("regmean_lab.suites.glue_data.hub_problem", no_network)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    data_dir = tmp_path / "data"
    assert main(["suite=emotion", f"from={unified_file(tmp_path)}", f"data_dir={data_dir}"]) == 0
    (data_dir / "ner_open" / "btc_a").mkdir(parents=True)
    (data_dir / "ner_open" / "btc_a" / "train.conll").write_text("a O btc_a\n")
    (data_dir / "sentiment").mkdir()
    (data_dir / "sentiment" / "nyt.tsv").write_text("changed")
    capsys.readouterr()
    assert main([f"data_dir={data_dir}"]) == 0
    printed = capsys.readouterr().out
    found = {status.name: status for status in statuses(data_dir, preparers(), suite_types(), Path("data"))}
    assert set(preparers()) <= set(found)  # and suites that nothing prepares
    assert found["emotion"].present == ("tec",)
    assert set(found["emotion"].missing) == set(preparers()["emotion"].files(data_dir)) - {"tec"}
    assert found["emotion"].suites == ("emotion", "emotion_text")
    assert found["ner_open"].missing == ("wikigold", "btc_a (dev.conll, test.conll)", "btc_b", "btc_g", "wnut17")
    assert found["sentiment"].present == ("nyt",)
    assert (
        len(found["sentiment"].problems) == 1 and "nyt.tsv is not the published file" in found["sentiment"].problems[0]
    )
    assert found["sentiment"].problems[0] in printed
    assert (
        f"emotion: python -m regmean_lab.prepare suite=emotion from=unified-dataset.jsonl data_dir={data_dir}"
        in printed
    )
    assert "twitter: placed by hand" in printed


def test_the_list_names_no_folder_that_is_the_default(tmp_path: Path) -> None:
    (status, *_) = statuses(tmp_path, preparers(), suite_types(), tmp_path)
    assert status.command == "python -m regmean_lab.prepare suite=conll2003 from=FOLDER"


def test_the_list_shows_suites_without_a_preparer(tmp_path: Path) -> None:
    class Other(suite_types()["ner_open"]):  # type: ignore[misc]
        name = "other"

        def missing(self, corpora: Any) -> list[str]:
            return [f"{corpus} is missing" for corpus in corpora if corpus != "wikigold"]

    found = statuses(tmp_path, {}, {"other": Other}, tmp_path)
    assert [(status.name, status.present, status.missing) for status in found] == [
        ("other", ("wikigold",), ("btc_a", "btc_b", "btc_g", "wnut17"))
    ]
    assert found[0].problems[0] == "btc_a is missing"


def test_nothing_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regmean_lab.prepare.cli.preparers", lambda: {"twitter": preparers()["twitter"]})
    monkeypatch.setattr("regmean_lab.prepare.cli.suite_types", dict)
    for path in preparers()["twitter"].files(tmp_path)["twitter"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"tokens": ["a"], "labels": ["O"]}\n')
    assert main([f"data_dir={tmp_path}"]) == 0
    assert "Nothing is missing." in capsys.readouterr().out
    assert main(["suite=twitter", f"data_dir={tmp_path}"]) == 0
