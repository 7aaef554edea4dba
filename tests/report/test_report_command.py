from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from report_results import make_result, pairwise, write_results

from regmean_lab.report.cli import KEYS, ArgumentsError, main, read_arguments


def test_an_empty_folder_is_said_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"results={tmp_path}"]) == 2

    assert f"no result.json below {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"results={tmp_path}/a,{tmp_path}"]) == 2

    assert f"no folder {tmp_path}/a" in capsys.readouterr().err


def test_corrupt_results_are_named_and_the_others_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, pairwise(seeds=(1,)))
    bad = tmp_path / "corrupt" / "result.json"
    bad.parent.mkdir()
    bad.write_text("{")

    assert main([f"results={tmp_path}", "figures=false"]) == 0

    captured = capsys.readouterr()
    assert f"warning: {bad.resolve()}" in captured.err
    assert "24 results" in captured.out
    for name in ("report.html", "report.md"):
        assert str(bad.resolve()) in (tmp_path / "report" / name).read_text(encoding="utf-8")


def test_results_of_two_schema_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_results(tmp_path, pairwise(seeds=(1, 2)))
    for path in paths[:5]:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))

    assert main([f"results={tmp_path}", "figures=false"]) == 0

    captured = capsys.readouterr()
    assert captured.err.count("expected a result of schema 1") == 5
    assert f"{len(paths) - 5} results" in captured.out


def test_only_results_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = write_results(tmp_path, [make_result()])
    path.write_text("{")

    assert main([f"results={tmp_path}"]) == 2

    assert str(path) in capsys.readouterr().err


def test_every_file_is_written_and_what_is_shown_is_there(tmp_path: Path) -> None:
    write_results(tmp_path / "in", pairwise(("simple", "regmean"), (1, 2)))
    folder = tmp_path / "out" / "deep"

    assert main([f"results={tmp_path / 'in'}", f"output={folder}", "title=A <title>"]) == 0

    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    tables = {
        "emotion_pairwise", "emotion_pairwise-tests", "emotion_pairwise-corpora",
        "emotion_pairwise-members-in-domain", "emotion_pairwise-members-out-of-domain",
    }  # fmt: skip
    figures = {
        "emotion_pairwise-gain-over-simple-in-domain", "emotion_pairwise-gain-over-simple-out-of-domain",
        "emotion_pairwise-scores", "emotion_pairwise-domains",
    }  # fmt: skip
    assert files == {
        "report.html",
        "report.md",
        "runs.csv",
        *(f"tables/{name}.{kind}" for name in tables for kind in ("csv", "tex")),
        *(f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")),
    }
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# A \\<title\\>\n")
    assert all(f"](figures/{name}.png)" in markdown for name in figures)
    assert not (tmp_path / "in" / "report").exists()


def test_the_report_of_a_report_is_the_same(tmp_path: Path) -> None:
    write_results(tmp_path, pairwise(("simple", "regmean"), (1, 2)))
    main([f"results={tmp_path}"])
    files = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}

    main([f"results={tmp_path}"])

    assert {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()} == files


def test_a_table_takes_its_own_results_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [make_result("simple", ("tec", "isear"), seed) for seed in (1, 2)]
    write_results(tmp_path, [*results, make_result(experiment="another")])
    overrides = "overrides=members=[tec,isear] method=simple,regmean seed=1,2"

    assert main([f"results={tmp_path}", "table=emotion_pairwise", overrides, "figures=false"]) == 0

    captured = capsys.readouterr()
    assert "2 of 4 jobs of emotion_pairwise have no result" in captured.err
    assert "2 results in 1 section; 1 result of other experiments left out" in captured.out
    table = (tmp_path / "report" / "tables" / "emotion_pairwise.csv").read_text().splitlines()
    assert table[2] == "regmean,,,0,2,,,0,2"


def test_results_that_no_job_of_the_table_has_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, [make_result("simple", seed=1), make_result("simple", seed=7)])
    arguments = ["table=emotion_pairwise", "overrides=members=[tec,isear] method=simple", "figures=false"]

    assert main([f"results={tmp_path}", *arguments]) == 0

    assert "1 result of the same experiment left out" in capsys.readouterr().err


def test_an_unknown_table_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, [make_result()])

    assert main([f"results={tmp_path}", "table=emotion_pairwize"]) == 2

    assert "did you mean emotion_pairwise" in capsys.readouterr().err


def test_everything_wrong_with_a_command_line_is_said_at_once() -> None:
    given = [
        "reslts=a",
        "--table=x",
        "zzzz=1",
        "title",
        "output=",
        "figures=maybe",
        "overrides=a=1",
        "title=a",
        "title=b",
    ]

    with pytest.raises(ArgumentsError) as caught:
        read_arguments(given)

    problems = str(caught.value).splitlines()
    assert "did you mean results?" in problems[0]
    assert "did you mean table or title?" in problems[1]
    assert "there are: results, table" in problems[2]
    assert problems[3:] == [
        "title: expected title=VALUE",
        "output=: expected output=VALUE",
        "title=b: title is given twice",
        "figures=maybe: expected true or false",
        "overrides: only together with table=, whose sweep they belong to",
    ]


@pytest.mark.parametrize("text", ["a,b", "[a,b]", "a, b", "a,b,"])
def test_several_folders(text: str) -> None:
    assert read_arguments([f"results={text}"]).results == (Path("a"), Path("b"))


def test_no_folder_at_all() -> None:
    with pytest.raises(ArgumentsError, match="at least one folder"):
        read_arguments(["results=,"])


def test_a_list_of_overrides_is_split_as_a_shell_does() -> None:
    arguments = read_arguments(["table=x", "overrides='a=b c' d=[e,f]"])

    assert arguments.overrides == ("a=b c", "d=[e,f]")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_key(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag, "results=nowhere"]) == 0

    shown = capsys.readouterr().out
    assert all(f"  {key}=" in shown for key in KEYS)


def test_a_report_needs_none_of_the_large_libraries(tmp_path: Path) -> None:
    write_results(tmp_path, pairwise(("simple", "regmean"), (1,)))
    code = (
        "import sys; from regmean_lab.report.cli import main; "
        f"code = main(['results={tmp_path}', 'figures=false']); "
        "large = {'torch', 'pytorch_lightning', 'transformers', 'hydra'} & set(sys.modules); "
        "sys.exit(code or ', '.join(large) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "code", ["from regmean_lab.report.cli import main; main(['--help'])", "import regmean_lab.sweeps.summary"]
)
def test_tables_and_figures_are_imported_only_when_they_are_made(code: str) -> None:
    code += "; import sys; sys.exit(', '.join({'pandas', 'matplotlib', 'jinja2', 'scipy'} & set(sys.modules)) or 0)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_is_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "regmean_lab.report", f"results={tmp_path}"], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 2
    assert done.stderr.startswith("results: no result.json")
