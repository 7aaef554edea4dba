"""A sweep in a terminal, as a person sees it, and the same one without."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Callable
from pathlib import Path

from forks import Forks

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_in_terminal(forks: Forks, arguments: list[str]) -> tuple[int, str]:
    """The exit status of a command in a terminal, and all that it has written there."""
    master, slave = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(master, 1 << 16)
            except OSError:  # all ends are closed
                return
            parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    environment = {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    status = forks.wait(forks.start(arguments, Path(os.ttyname(slave)), environment=environment))
    os.close(slave)
    reader.join()
    os.close(master)
    return status, b"".join(parts).decode()


def lines(text: str) -> list[str]:
    """Log lines without the time, and without what is another number each time."""
    found = (line.strip() for line in re.split(r"[\r\n]", ESCAPES.sub("", text)))
    logged = (line.partition("]")[2] for line in found if re.match(r"\[\d{4}-", line))
    return [re.sub(r"\s+", " ", re.sub(r"\d+ s\b|after.*", "", line)) for line in logged]


def test_a_terminal_has_every_line_and_one_that_changes(
    forks: Forks, tmp_path: Path, write_emotions: Callable[[Path], Path]
) -> None:
    data = write_emotions(tmp_path / "data")

    def arguments(name: str, bars: str) -> list[str]:
        return [
            *("-m", "suite=emotion", "suite.out_of_domain=[]", "model=pico_bert", "members=[tec,isear]"),
            *("method=simple,regmean", "training.epochs=2", "trainer=cpu", "logger=none"),
            *(
                "statistics.gram.examples=32",
                f"trainer.progress_bar={bars}",
                f"paths.data_dir={data}",
                f"paths.zoo_dir={tmp_path / name / 'zoo'}",
            ),
            f"paths.output_dir={tmp_path / name / 'outputs'}",
        ]

    status, shown = run_in_terminal(forks, arguments("t", bars="true"))
    plain_status, plain = forks.run(arguments("p", bars="false"), tmp_path / "log.txt")

    assert (status, plain_status) == (0, 0)
    assert "\x1b" not in plain
    changing = ESCAPES.sub("", shown)
    assert re.search(r"1/2 train tec · \d+/4", changing)
    assert re.search(r"1/2 tec\+isear simple seed 1 · evaluate", changing)
    assert re.search(r"2/2 tec\+isear regmean seed 1 · [^\n]*last score \d+\.\d\d", changing)
    expected = [line.replace("progress_bar=false", "progress_bar=true").replace("/p/", "/t/") for line in lines(plain)]
    assert sorted(lines(shown)) == sorted(expected)
    assert any("2 of 2: tec+isear regmean seed 1" in line for line in expected)
