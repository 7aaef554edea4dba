from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import regmean_lab
from regmean_lab.zoo import Zoo, ZooEntry, ZooError, member_address, statistics_key
from regmean_lab.zoo.cli import main

DESCRIPTION: dict[str, Any] = {
    "format": 1,
    "model": {"name": "minilm", "fingerprint": "0a1b"},
    "suite": "sentiment",
    "corpus": "tweets",
    "data_fingerprint": ["ff00"],
    "training": {"learning_rate": 1e-05, "epochs": 3, "layers": None, "best": True},
    "seed": 1,
}
NAME = "sentiment-tweets-minilm-seed1"
SCORES = {"scores": {"macro_f1": 81.25, "loss": 0.5}, "key_score": "macro_f1"}

WAIT_SECONDS = 60
"""How long to wait for another process before the test fails; it takes a fraction of it."""


def write_member(folder: Path, **tensors: np.ndarray) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save_file(tensors or {"layer.weight": np.ones((2, 3), np.float32)}, folder / "model.safetensors")


def train(folder: Path) -> Mapping[str, Any]:
    write_member(folder)
    return SCORES


def must_not_train(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("trained again")


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo")


@pytest.fixture
def entry(zoo: Zoo) -> ZooEntry:
    return zoo.find_or_train(DESCRIPTION, NAME, train)[0]


def edit_training(entry: ZooEntry, change: Callable[[dict[str, Any]], object]) -> None:
    path = entry.path / "training.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


class TestAddress:
    def test_is_the_sha256_of_canonical_json(self) -> None:
        canonical = '{"a":[1,2.5,null,true],"b":{"z":"x y","\\u00e9":1e-05}}'
        expected = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        assert member_address({"b": {"z": "x y", "é": 0.00001}, "a": (1, 2.5, None, True)}) == expected
        assert statistics_key({"a": [1, 2.5, None, True], "b": {"é": 1e-5, "z": "x y"}}) == expected

    @given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
    def test_survives_json_and_reordering_but_no_change(self, description: dict[str, Any]) -> None:
        address = member_address(description)
        assert member_address(json.loads(json.dumps(description))) == address
        assert member_address(dict(reversed(description.items()))) == address
        first = next(iter(description))
        assert member_address({**description, first: str(description[first])}) != address

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_refuses_numbers_that_json_lacks(self, number: float) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            member_address({"training": {"learning_rate": number}})

    @pytest.mark.parametrize("description", [{"a": {1: "x"}}, {"a": [{None: 1}]}, {"a": Path("x")}, {"a": b"x"}])
    def test_refuses_what_json_would_change(self, description: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            member_address(description)


class TestFindOrTrain:
    def test_trains_once(self, zoo: Zoo) -> None:
        assert zoo.find(member_address(DESCRIPTION)) is None
        entry, trained = zoo.find_or_train(DESCRIPTION, NAME, train)
        assert trained
        assert entry.path == zoo.root / f"{NAME}-{member_address(DESCRIPTION)}"
        assert zoo.find_or_train(DESCRIPTION, "another prefix", must_not_train) == (entry, False)
        assert zoo.find(member_address(DESCRIPTION)) == entry
        assert zoo.entries() == [entry]

    def test_another_description_is_another_member(self, zoo: Zoo, entry: ZooEntry) -> None:
        other, trained = zoo.find_or_train({**DESCRIPTION, "seed": 2}, NAME, train)
        assert trained
        assert other.address != entry.address
        assert len(zoo.entries()) == 2

    def test_record_tells_what_was_trained(self, entry: ZooEntry) -> None:
        training = json.loads((entry.path / "training.json").read_text())
        assert training == entry.training
        assert training["description"] == entry.description == DESCRIPTION
        assert training["address"] == entry.address
        assert training["weights_sha256"] == hashlib.sha256(entry.weights_path.read_bytes()).hexdigest()
        assert entry.dev_scores == SCORES["scores"]
        assert entry.size_bytes == sum(len(path.read_bytes()) for path in entry.path.iterdir())

    def test_scores_that_are_not_finite_become_null(self, zoo: Zoo) -> None:
        def train_badly(folder: Path) -> Mapping[str, Any]:
            write_member(folder)
            return {"scores": {"pearson": math.nan, "loss": math.inf, "accuracy": 50.0}}

        entry, _ = zoo.find_or_train(DESCRIPTION, NAME, train_badly)
        assert entry.dev_scores == {"pearson": None, "loss": None, "accuracy": 50.0}

    @pytest.mark.parametrize(
        ("prefix", "name"),
        [("glue-mnli-microsoft/deberta v3-seed1", "glue-mnli-microsoft-deberta-v3-seed1"), ("../..", "member")],
    )
    def test_prefix_becomes_a_file_name(self, zoo: Zoo, prefix: str, name: str) -> None:
        entry, _ = zoo.find_or_train(DESCRIPTION, prefix, train)
        assert entry.path == zoo.root / f"{name}-{member_address(DESCRIPTION)}"
        assert zoo.entries() == [entry]

    def test_failed_training_leaves_nothing(self, zoo: Zoo) -> None:
        def fail(folder: Path) -> Mapping[str, Any]:
            write_member(folder)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            zoo.find_or_train(DESCRIPTION, NAME, fail)
        assert [path.name for path in zoo.root.iterdir()] == [".locks"]
        assert zoo.find_or_train(DESCRIPTION, NAME, train)[1]

    def test_training_must_write_the_model(self, zoo: Zoo) -> None:
        def forget(folder: Path) -> Mapping[str, Any]:
            (folder / "config.json").write_text("{}")
            return {}

        with pytest.raises(ZooError, match=r"did not write model\.safetensors into"):
            zoo.find_or_train(DESCRIPTION, NAME, forget)
        assert zoo.entries() == []

    def test_training_must_not_overwrite_the_record(self, zoo: Zoo) -> None:
        def forge(folder: Path) -> Mapping[str, Any]:
            write_member(folder)
            return {"weights_sha256": "0", "seconds": 1.0}

        with pytest.raises(ValueError, match="weights_sha256: written by the zoo"):
            zoo.find_or_train(DESCRIPTION, NAME, forge)
        assert zoo.entries() == []

    @pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
    def test_damaged_entry_is_told_before_training(self, zoo: Zoo, entry: ZooEntry, content: str | None) -> None:
        record = entry.path / "training.json"
        record.unlink() if content is None else record.write_text(content)
        with pytest.raises(ZooError, match=rf"training\.json .*regmean_lab\.zoo prune {entry.name}"):
            zoo.find_or_train(DESCRIPTION, NAME, must_not_train)


class TestStatistics:
    def test_path_tells_kind_and_key(self, entry: ZooEntry) -> None:
        key = statistics_key({"batches": 10})
        assert entry.statistics_path("gram", key) == entry.path / "statistics" / f"gram-{key}.safetensors"
        assert entry.statistics_path("gram", statistics_key({"batches": 11})) != entry.statistics_path("gram", key)

    @pytest.mark.parametrize(("kind", "key"), [("../gram", "0" * 16), ("", "0" * 16), ("gram", "x"), ("gram", "../..")])
    def test_refuses_other_names(self, entry: ZooEntry, kind: str, key: str) -> None:
        with pytest.raises(ValueError, match=r"kind=|key="):
            entry.statistics_path(kind, key)
        with pytest.raises(ValueError, match=r"kind=|key="):
            entry.statistics_lock(kind, key)

    def test_lock_excludes_others_for_the_same_settings_only(self, entry: ZooEntry) -> None:
        with entry.statistics_lock("gram", "0" * 16), entry.statistics_lock("gram", "1" * 16):
            held = list((entry.path.parent / ".locks").glob(f"{entry.address}-gram-*.lock"))
            assert len(held) == 2
            for path in held:
                assert not is_free(path)
        assert all(is_free(path) for path in held)


def is_free(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    lock.release()
    return True


class TestVerify:
    def test_finds_nothing_in_a_sound_entry(self, entry: ZooEntry) -> None:
        write_statistics(entry)
        assert entry.verify() == []

    def test_finds_a_changed_description(self, entry: ZooEntry) -> None:
        edit_training(entry, lambda content: content["description"].update(seed=7))
        address = member_address({**DESCRIPTION, "seed": 7})
        assert ZooEntry(entry.path).verify() == [
            f"training.json: its description has the address {address}, not {entry.address}"
        ]

    def test_finds_changed_weights(self, entry: ZooEntry) -> None:
        content = bytearray(entry.weights_path.read_bytes())
        content[-1] ^= 1
        entry.weights_path.write_bytes(content)
        (problem,) = entry.verify()
        assert problem.startswith("model.safetensors: its SHA-256")

    def test_finds_values_that_are_not_finite(self, zoo: Zoo) -> None:
        def diverge(folder: Path) -> Mapping[str, Any]:
            bad = np.ones(4, np.float16)
            bad[2] = np.inf
            write_member(folder, good=np.ones(2), bad=bad, ids=np.arange(3))
            return {}

        entry, _ = zoo.find_or_train(DESCRIPTION, NAME, diverge)
        assert entry.verify() == ["model.safetensors: tensor 'bad' holds values that are not finite"]

    def test_collects_all_problems(self, entry: ZooEntry) -> None:
        (entry.path / "training.json").write_text("{")
        (entry.path / "config.json").write_text("")
        entry.weights_path.write_bytes(entry.weights_path.read_bytes()[:20])
        write_statistics(entry, "gram", describe=False)
        write_statistics(entry, "fisher", values=[1.0, math.nan])
        problems = ZooEntry(entry.path).verify()
        told = [
            "training.json cannot be read",
            "config.json: cannot be read",
            "model.safetensors: cannot be read",
            "fisher-0000000000000000.safetensors: tensor 'layer' holds values that are not finite",
            "gram-0000000000000000.safetensors: its metadata has no 'kind'",
        ]
        assert len(problems) == len(told)
        for problem, part in zip(problems, told, strict=True):
            assert part in problem

    def test_finds_missing_weights(self, entry: ZooEntry) -> None:
        entry.weights_path.unlink()
        assert entry.verify() == ["model.safetensors: missing"]


def write_statistics(entry: ZooEntry, kind: str = "gram", values: Any = (1.0,), describe: bool = True) -> Path:
    path = entry.statistics_path(kind, "0" * 16)
    path.parent.mkdir(exist_ok=True)
    save_file({"layer": np.array(values, np.float32)}, path, metadata={"kind": kind} if describe else None)
    return path


WORKER = """
import logging, sys, time
from pathlib import Path
from regmean_lab.zoo import Zoo
from tests_zoo_material import DESCRIPTION, NAME, write_member

logging.basicConfig(level=logging.INFO)
folder = Path(sys.argv[1])

def train(target):
    write_member(target)
    with (folder / "trained").open("a") as log:
        log.write("x")
    while not (folder / "go").exists():
        time.sleep(0.01)
    return {}

entry, trained = Zoo(folder / "zoo").find_or_train(DESCRIPTION, NAME, train)
print(entry.name, trained, flush=True)
"""
MATERIAL = """
import json
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file

NAME = {name!r}
DESCRIPTION = json.loads({description!r})

def write_member(folder):
    (folder / "config.json").write_text("{{}}")
    save_file({{"weight": np.ones(3)}}, folder / "model.safetensors")
"""


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that ask for the same member; training ends when the file ``go`` is there."""
    (tmp_path / "tests_zoo_material.py").write_text(
        MATERIAL.format(name=NAME, description=json.dumps(DESCRIPTION)), encoding="utf-8"
    )
    package_root = Path(regmean_lab.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{package_root}"}
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        log = (tmp_path / f"log{len(processes)}").open("w")
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
        log.close()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Wait for another process to come to a point; fail if it ends before."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


class TestProcesses:
    def test_second_job_waits_and_takes_what_the_first_trained(self, tmp_path: Path, start_worker: Any) -> None:
        first = start_worker()
        wait_until((tmp_path / "trained").exists, first)
        second = start_worker()
        wait_until(lambda: "Waiting" in (tmp_path / "log1").read_text(), first, second)
        time.sleep(0.5)  # several looks at the lock: the message must stay the only one
        (tmp_path / "go").touch()
        name = f"{NAME}-{member_address(DESCRIPTION)}"
        assert first.communicate(timeout=WAIT_SECONDS)[0] == f"{name} True\n"
        assert second.communicate(timeout=WAIT_SECONDS)[0] == f"{name} False\n"
        assert (tmp_path / "trained").read_text() == "x"
        assert (tmp_path / "log0").read_text() == ""
        (message,) = (tmp_path / "log1").read_text().splitlines()
        assert message.endswith(f"Waiting: another job is training {name}")

    def test_jobs_that_start_at_once_train_once(self, tmp_path: Path, start_worker: Any) -> None:
        (tmp_path / "go").touch()
        processes = [start_worker() for _ in range(3)]
        told = sorted(process.communicate(timeout=WAIT_SECONDS)[0].split()[1] for process in processes)
        assert told == ["False", "False", "True"]
        assert (tmp_path / "trained").read_text() == "x"
        (entry,) = Zoo(tmp_path / "zoo").entries()
        assert entry.verify() == []

    def test_killed_job_leaves_a_sound_zoo(
        self, tmp_path: Path, start_worker: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        zoo = Zoo(tmp_path / "zoo")
        process = start_worker()
        wait_until((tmp_path / "trained").exists, process)
        (left_over,) = zoo.root.glob(".tmp-*")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=WAIT_SECONDS)
        assert left_over.is_dir()
        assert zoo.entries() == []
        assert zoo.find(member_address(DESCRIPTION)) is None
        with caplog.at_level(logging.INFO):
            entry, trained = zoo.find_or_train(DESCRIPTION, NAME, train)
        assert trained
        assert str(left_over) in caplog.text
        assert not left_over.exists()
        assert entry.verify() == []

    def test_prune_spares_a_running_job_and_clears_up_after_a_killed_one(
        self, tmp_path: Path, start_worker: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        zoo = Zoo(tmp_path / "zoo")
        command = ["prune", "--yes", "--json", "--zoo-dir", str(zoo.root)]
        process = start_worker()
        wait_until((tmp_path / "trained").exists, process)
        (left_over,) = zoo.root.glob(".tmp-*")
        assert main(command) == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {"entries": [], "temporary": [], "locks": [], "in_use": [left_over.name]}
        assert (left_over / "model.safetensors").is_file()
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=WAIT_SECONDS)
        assert main([*command, "--dry-run"]) == 0
        planned = json.loads(capsys.readouterr().out)
        assert left_over.is_dir()
        assert main(command) == 0
        told = json.loads(capsys.readouterr().out)
        assert planned == told
        assert told["temporary"] == [left_over.name]
        assert told["locks"] == [f"{member_address(DESCRIPTION)}.lock"]
        assert list(zoo.root.rglob("*")) == [zoo.root / ".locks"]


class TestCommand:
    @pytest.fixture
    def run(self, zoo: Zoo, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
        def run(*arguments: str) -> tuple[int, str, str]:
            code = main([*arguments, "--zoo-dir", str(zoo.root)])
            out, err = capsys.readouterr()
            return code, out, err

        return run

    @pytest.mark.parametrize("exists", [False, True])
    @pytest.mark.parametrize("command", ["list", "verify", "prune"])
    def test_zoo_without_members(self, zoo: Zoo, run: Any, command: str, exists: bool) -> None:
        if exists:
            zoo.root.mkdir()
        code, out, err = run(command)
        assert (code, err) == (0, "")
        assert str(zoo.root) in out
        assert zoo.root.exists() == exists

    def test_list_shows_each_member(self, run: Any, zoo: Zoo, entry: ZooEntry) -> None:
        write_statistics(entry)
        zoo.find_or_train({**DESCRIPTION, "corpus": "amazon", "seed": 10}, "sentiment-amazon-minilm-seed10", train)
        zoo.find_or_train({**DESCRIPTION, "corpus": "amazon", "seed": 9}, "sentiment-amazon-minilm-seed9", train)
        code, out, _ = run("list")
        assert code == 0
        lines = [line for line in out.splitlines() if "minilm-seed" in line]
        assert [line.split()[0].rpartition("-")[0] for line in lines] == [
            "sentiment-amazon-minilm-seed9",
            "sentiment-amazon-minilm-seed10",
            NAME,
        ]
        for part in (entry.name, "sentiment", "tweets", "minilm", "81.25 macro_f1", " s ", "gram"):
            assert part in lines[2]
        assert "gram" not in lines[0]
        assert "3 members" in out

    def test_list_in_a_narrow_terminal_still_tells_names_and_scores(
        self, run: Any, entry: ZooEntry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", "80")
        out = run("list")[1]
        assert max(map(len, out.splitlines())) <= 80
        assert "corpus" not in out
        first_column = "".join(line.split()[0] for line in out.splitlines() if line.strip())
        assert entry.name in first_column
        assert "81.25 macro_f1" in out

    def test_list_as_json(self, run: Any, entry: ZooEntry) -> None:
        path = write_statistics(entry)
        for arguments in (["list", "--json"], ["--json"]):
            (row,) = json.loads(run(*arguments)[1])
            assert row.pop("age_seconds") >= 0
            assert row == {
                "name": entry.name,
                "path": str(entry.path),
                "address": entry.address,
                "suite": "sentiment",
                "corpus": "tweets",
                "model": "minilm",
                "seed": 1,
                **{"key_score": "macro_f1", "dev_scores": SCORES["scores"]},
                "size_bytes": entry.size_bytes,
                "created": entry.training["created"],
                "statistics": [path.stem],
                "problem": None,
            }

    def test_list_tells_a_damaged_member(self, run: Any, entry: ZooEntry) -> None:
        (entry.path / "training.json").unlink()
        code, out, _ = run("list")
        assert code == 0
        assert f"prune {entry.name}" in " ".join(out.split())

    def test_verify_exits_with_1_for_problems(self, run: Any, entry: ZooEntry) -> None:
        code, out, _ = run("verify")
        assert (code, out.strip()) == (0, "1 member: all is well.")
        entry.weights_path.unlink()
        code, out, _ = run("verify")
        assert code == 1
        assert entry.name in out
        assert "model.safetensors: missing" in out
        code, out, _ = run("verify", "--json")
        assert code == 1
        assert json.loads(out) == {entry.name: ["model.safetensors: missing"]}

    def test_prune_removes_named_members(self, run: Any, zoo: Zoo, entry: ZooEntry) -> None:
        other, _ = zoo.find_or_train({**DESCRIPTION, "seed": 2}, NAME, train)
        assert run("prune", entry.name, "--dry-run")[0] == 0
        assert len(zoo.entries()) == 2
        code, out, _ = run("prune", entry.address, "--yes")
        assert code == 0
        assert entry.name in out
        assert other.name not in out
        assert zoo.entries() == [other]
        assert other.verify() == []

    def test_prune_asks_first(self, run: Any, zoo: Zoo, entry: ZooEntry, monkeypatch: pytest.MonkeyPatch) -> None:
        for answer, code, left in (("", 1, [entry]), ("n", 1, [entry]), ("y", 0, [])):
            monkeypatch.setattr("builtins.input", lambda answer=answer: answer)
            assert run("prune", entry.name)[0] == code
            assert zoo.entries() == left

    def test_prune_without_a_terminal_is_a_no(
        self, run: Any, zoo: Zoo, entry: ZooEntry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def closed() -> str:
            raise EOFError

        monkeypatch.setattr("builtins.input", closed)
        assert run("prune", entry.name)[0] == 1
        assert zoo.entries() == [entry]
        code, _, err = run("prune", entry.name, "--json")
        assert code == 2
        assert "--yes" in err
        assert zoo.entries() == [entry]

    def test_prune_takes_broken_and_old_members(self, run: Any, zoo: Zoo, entry: ZooEntry) -> None:
        broken, _ = zoo.find_or_train({**DESCRIPTION, "seed": 2}, NAME, train)
        broken.weights_path.unlink()
        old, _ = zoo.find_or_train({**DESCRIPTION, "seed": 3}, NAME, train)
        edit_training(old, lambda content: content.update(created="2001-01-01T00:00:00+00:00"))
        assert run("prune", "--yes")[0] == 0
        assert len(zoo.entries()) == 3
        assert run("prune", "--yes", "--broken")[0] == 0
        assert {found.name for found in zoo.entries()} == {entry.name, old.name}
        assert run("prune", "--yes", "--older-than", "30")[0] == 0
        assert zoo.entries() == [entry]

    @pytest.mark.parametrize("kind", [None, "gram"])
    def test_prune_spares_members_whose_lock_is_held(
        self, run: Any, zoo: Zoo, entry: ZooEntry, kind: str | None
    ) -> None:
        part = "" if kind is None else f"-{kind}-{'0' * 16}"
        with FileLock(zoo.root / ".locks" / f"{entry.address}{part}.lock"):
            code, out, _ = run("prune", "--yes", entry.name)
            assert code == 0
            assert f"In use by a job, stays: {entry.name}" in out
            assert zoo.entries() == [entry]
        run("prune", "--yes", entry.name)
        assert zoo.entries() == []

    def test_prune_refuses_unknown_names_all_at_once(self, run: Any, zoo: Zoo, entry: ZooEntry) -> None:
        code, out, err = run("prune", "--yes", entry.name, entry.name[:-1], "something else")
        assert (code, out) == (2, "")
        assert f"did you mean '{entry.name}'" in err
        assert "something else" in err
        assert zoo.entries() == [entry]

    @pytest.mark.parametrize("days", ["-1", "nan", "soon"])
    def test_prune_refuses_other_ages(self, run: Any, days: str) -> None:
        with pytest.raises(SystemExit) as stop:
            run("prune", f"--older-than={days}")
        assert stop.value.code == 2

    def test_module_lists_the_zoo_of_the_environment_without_loading_torch(self, zoo: Zoo, entry: ZooEntry) -> None:
        environment = {**os.environ, "REGMEAN_LAB_ZOO": str(zoo.root)}
        command = [sys.executable, "-X", "importtime", "-m", "regmean_lab.zoo"]
        root = Path(regmean_lab.__file__).parent.parent
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        assert entry.name in done.stdout
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "rich.table" in imported
        assert not imported & {"torch", "safetensors", "transformers"}
