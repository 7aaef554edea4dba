from __future__ import annotations

import pkgutil
import subprocess
import sys

import regmean_lab.suites
from regmean_lab.suites import suite_types


def test_suites_are_known_by_name() -> None:
    types = suite_types()
    assert {"sentiment", "emotion"} <= set(types)
    assert all(suite.name == name for name, suite in types.items())


def test_download_can_be_imported_first() -> None:
    """In a fresh interpreter: the package imports all of its modules, so a circle would show here."""
    code = "import regmean_lab.utils.download; from regmean_lab.suites import suite_types; print(*suite_types())"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sentiment" in finished.stdout.split()


def test_every_module_of_the_package_is_imported() -> None:
    names = [module.name for module in pkgutil.iter_modules(regmean_lab.suites.__path__)]
    assert "emotion" in names
    assert all(f"regmean_lab.suites.{name}" in sys.modules for name in names)
