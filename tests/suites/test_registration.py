from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import regmean_lab.suites
from regmean_lab.suites import suite_types


def test_suites_are_known_by_name() -> None:
    types = suite_types()
    assert {"sentiment", "emotion"} <= set(types)
    assert all(suite.name == name for name, suite in types.items())


def test_every_file_registers_its_suite() -> None:
    """In a fresh interpreter that imports nothing else first (a circle would show, too), and nothing that is slow."""
    code = """
import sys
import regmean_lab.utils.download
from regmean_lab.suites import suite_types
print(*suite_types(), "|", *({"transformers", "pytorch_lightning"} & set(sys.modules)))
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, _, slow = finished.stdout.partition("|")
    folder = Path(regmean_lab.suites.__file__).parent
    written = [
        line.split('"')[1]
        for path in folder.glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith('@register_suite("')
    ]
    assert set(names.split()) == set(written) and len(written) >= 8
    assert slow.split() == []
