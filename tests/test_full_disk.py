"""A full disk in each stage of a command: what is told, that nothing is left, and that the next try completes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks
from small_disks import small_disk

from regmean_lab.models.pico import pico_folder
from regmean_lab.zoo import Zoo

BELOW_WEIGHTS, BELOW_STATISTICS = 30_000, 15_000
"""Bytes: less than the weights of a pico model, and less than its Gram matrices and more than all other files."""


class Command:
    """The command, with a zoo and results below one folder."""

    def __init__(self, forks: Forks, data: Path, root: Path, log: Path) -> None:
        self.forks, self.data, self.root, self.log = forks, data, root, log

    def run(self, *more: str, largest_file: int | None = None) -> tuple[int, str]:
        arguments = [
            *("suite=emotion", "suite.out_of_domain=[emoint]", "model=pico_bert", "members=[tec,isear]", "trainer=cpu"),
            *("trainer.progress_bar=false", "logger=none", "training.epochs=1", "training.batch_size=16"),
            *("statistics.gram.examples=16", "measure_divergence=false", f"paths.data_dir={self.data}"),
            *(f"paths.zoo_dir={self.root / 'zoo'}", f"paths.output_dir={self.root / 'out'}"),
        ]
        return self.forks.run([*arguments, *more], self.log, largest_file=largest_file)

    def files(self) -> set[str]:
        """All files that others read, and temporary ones; but for locks and generated models."""
        found = {path.relative_to(self.root / "zoo").as_posix() for path in (self.root / "zoo").rglob("*")}
        kept = {name for name in found if not name.startswith((".locks", ".models"))}
        return kept | {path.name for path in self.root.rglob("*") if path.name == "result.json" or "tmp" in path.name}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]) -> Path:
    return write_emotions(tmp_path_factory.mktemp("data"))


@pytest.fixture
def command(forks: Forks, data: Path, tmp_path: Path) -> Command:
    pico_folder("bert", tmp_path / "work" / "zoo" / ".models")
    return Command(forks, data, tmp_path / "work", tmp_path / "log.txt")


def is_told(printed: str, what: str, folder: Path, setting: str) -> bool:
    """Whether one message, without a traceback, says what could not be written, where, and what chooses the folder."""
    assert "Traceback" not in printed, printed
    assert f"cannot write {what} {folder}" in printed, printed
    assert "nothing half-written is left" in printed
    return f"choose a folder ({setting}=FOLDER)" in printed


def test_a_member_that_cannot_be_written(command: Command) -> None:
    status, printed = command.run("method=simple", largest_file=BELOW_WEIGHTS)
    assert status == 1
    assert is_told(printed, "a member", command.root / "zoo" / "emotion-tec-pico_bert-seed1-", "paths.zoo_dir")
    assert "File too large" in printed
    assert command.files() == set()
    status, printed = command.run("method=simple")
    assert (status, len(Zoo(command.root / "zoo").entries())) == (0, 2), printed
    assert "1 result, 1 computed now" in printed


def test_statistics_that_cannot_be_written(command: Command) -> None:
    assert command.run("method=simple")[0] == 0
    before = command.files()
    status, printed = command.run("method=regmean", largest_file=BELOW_STATISTICS)
    assert status == 1
    assert is_told(printed, "gram statistics", command.root / "zoo" / "emotion-tec-pico_bert", "paths.zoo_dir")
    left = command.files() - before
    assert all(name.endswith("/statistics") for name in left)  # an empty folder
    status, printed = command.run("method=regmean")
    assert status == 0, printed


def test_collected_statistics_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    assert command.run("method=simple")[0] == 0
    member, text = Zoo(command.root / "zoo").entries()[0].path, tmp_path / "texts.txt"
    text.write_text("\n".join(["the film was happy and wonderful music"] * 60))
    collect = ["collect", f"checkpoint={member}", f"data={text}", f"output={tmp_path / 'published'}", "trainer=cpu"]
    collect += [
        f"paths.output_dir={tmp_path / 'out'}",
        "trainer.progress_bar=false",
        "form=full",
        "allow_few_rows=true",
    ]
    status, printed = command.forks.run(collect, command.log, largest_file=BELOW_STATISTICS)
    assert status == 1
    assert is_told(printed, "gram statistics", tmp_path / "published" / "statistics" / "gram.safetensors", "output")
    assert not [path for path in (tmp_path / "published").rglob("*") if path.is_file()]
    status, printed = command.forks.run(collect, command.log)
    assert status == 0, printed
    assert (tmp_path / "published" / "statistics" / "gram.safetensors").is_file()


@pytest.mark.parametrize("room", [72, 140, 220, 300, 340])
def test_a_disk_that_is_full_somewhere_on_the_way(forks: Forks, data: Path, tmp_path: Path, room: int) -> None:
    """Before the first job, in training, at statistics, at results: by how many kilobytes there are."""
    with small_disk(tmp_path / "disk", room) as disk:
        command = Command(forks, data, disk.folder, tmp_path / "log.txt")
        status, printed = command.run("method=regmean")
        assert "Traceback" not in printed, printed
        if status:
            assert "cannot write" in printed
            assert "free there\n  nothing half-written is left" in printed
        assert not [path for path in disk.folder.rglob("*") if "tmp" in path.name]
        for path in disk.folder.rglob("result.json"):
            json.loads(path.read_text())
        disk.make_room(4000)
        status, printed = command.run("method=regmean")
        assert status == 0, printed
        assert len(list(disk.folder.rglob("result.json"))) == 1
