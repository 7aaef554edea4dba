"""Entry points of other packages: what is found, what is left out, and what is refused."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from regmean_lab.config import plugin_options
from regmean_lab.utils import plugins
from regmean_lab.utils.plugins import PluginError, package_of, plugin_folders
from regmean_lab.utils.registry import Registry

GROUP = "regmean_lab.tests"
Install = Callable[..., None]


@pytest.fixture
def registry() -> Registry[object]:
    return Registry("thing", GROUP)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry[object]) -> Iterator[Install]:
    """Writes a module and its metadata as an installer does; what it imports is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "failed", failed := set())
    monkeypatch.setattr("regmean_lab.utils.registry.failed", failed)
    monkeypatch.setitem(sys.modules, "things", type(sys)("things"))
    sys.modules["things"].register = registry.register  # type: ignore[attr-defined]

    def install_one(package: str, code: str, *, value: str | None = None, group: str = GROUP) -> None:
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        metadata = tmp_path / f"{module}-2.5.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.5\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\nany = {value or module}\n")
        plugins.plugins.cache_clear()

    plugins.plugins.cache_clear()
    before = set(sys.modules)
    yield install_one
    for name in set(sys.modules) - before:
        del sys.modules[name]
    plugins.plugins.cache_clear()


def class_called(name: str, *more: str) -> str:
    return "\n".join(["from things import register", *(f"@register({one!r})\nclass X: pass" for one in (name, *more))])


def test_packages_are_imported_when_somebody_asks(install: Install, registry: Registry[object]) -> None:
    install("pack-b", class_called("b"))
    install("pack-a", class_called("a"), value="pack_a:X")
    assert (dict(registry), "pack_a" in sys.modules) == ({}, False)
    assert list(registry.with_plugins()) == ["a", "b"]
    assert (registry["a"].__module__, registry["b"].__module__) == ("pack_a", "pack_b")
    assert [package_of(entry) for entry in plugins.plugins(GROUP)] == ["pack-a 2.5", "pack-b 2.5"]


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise RuntimeError('old')", "RuntimeError: old"),
        ("class :", "SyntaxError: invalid syntax"),
    ],
)
def test_a_package_that_cannot_be_imported_is_left_out(
    end: str, told: str, install: Install, registry: Registry[object], caplog: pytest.LogCaptureFixture
) -> None:
    """Whole: also what it registered before it went wrong."""
    install("broken", f"{class_called('half')}\n{end}\n")
    install("whole", class_called("fine"))
    with caplog.at_level(logging.WARNING):
        assert list(registry.with_plugins()) == ["fine"]
        assert list(registry.with_plugins()) == ["fine"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("broken 2.5 is left out: its thing (entry point any = broken) cannot be imported: ")
    assert told in message and "uninstall it" in message


def test_a_package_that_registers_nothing_is_told(
    install: Install, registry: Registry[object], caplog: pytest.LogCaptureFixture
) -> None:
    install("silent", "class X: pass\n")
    assert dict(registry.with_plugins()) == {}
    assert "silent 2.5: its entry point any = silent registers no thing" in caplog.text


def test_two_packages_with_one_name_are_refused(install: Install, registry: Registry[object]) -> None:
    install("first", class_called("same"))
    install("second", class_called("other", "same"))
    for _ in range(2):  # whoever asks is told
        with pytest.raises(PluginError) as caught:
            registry.with_plugins()
        assert "thing 'same': both first.X and second.X are registered" in str(caught.value)
        assert "the second is of second 2.5: give it another name, or uninstall that package" in str(caught.value)


def test_the_name_of_a_class_of_ours_is_refused(install: Install, registry: Registry[object]) -> None:
    class Ours:
        name: str

    registry.register("ours")(Ours)
    install("theirs", class_called("ours"))
    with pytest.raises(PluginError, match=r"both .*Ours and theirs\.X are registered .* theirs 2\.5"):
        registry.with_plugins()
    assert registry == {"ours": Ours}


def test_a_package_may_ask_what_is_registered(install: Install, registry: Registry[object]) -> None:
    sys.modules["things"].registry = registry  # type: ignore[attr-defined]
    install("asking", class_called("mine") + "\nimport things\nassert 'mine' in things.registry.with_plugins()\n")
    assert list(registry.with_plugins()) == ["mine"]


def test_folders_with_yaml_are_those_of_packages(install: Install, tmp_path: Path) -> None:
    """Not that beside a module of its own, which is anybody's."""
    for folder in ("conf", "with_yaml/conf", "without"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "with_yaml" / "methods.py").write_text("raise RuntimeError\n")
    install("alone", "", group=plugins.METHODS)
    install("yaml", "", value="with_yaml.methods", group=plugins.METHODS)
    install("suites", "", value="with_yaml:Suite", group=plugins.SUITES)
    install("bare", "", value="without.methods", group=plugins.SUITES)
    assert plugin_folders() == [tmp_path / "with_yaml" / "conf"]
    assert "with_yaml" not in sys.modules
    plugins.failed.update(plugins.plugins(plugins.METHODS))
    assert plugin_folders() == [tmp_path / "with_yaml" / "conf"]  # the suite's could be
    plugins.failed.update(plugins.plugins(plugins.SUITES))
    assert plugin_folders() == []


def test_files_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two packages, and those of a package and ours: Hydra would take the first without a word."""
    folders = [tmp_path / "one" / "conf", tmp_path / "two" / "conf"]
    for folder in folders:
        (folder / "method").mkdir(parents=True)
        (folder / "method" / "theirs.yaml").write_text("defaults: [simple, _self_]\n")
    monkeypatch.setattr(plugin_options, "plugins", lambda group: ("any",))
    monkeypatch.setattr(plugin_options, "plugin_folders", lambda: folders)
    with pytest.raises(PluginError, match=f"method=theirs: both {folders[0]} and {folders[1]} have method/theirs.yaml"):
        plugin_options.register_plugin_options()
    (folders[1] / "method" / "theirs.yaml").rename(folders[1] / "method" / "ties.yaml")
    with pytest.raises(PluginError, match=f"method=ties: both .*conf and {folders[1]} have"):
        plugin_options.register_plugin_options()
    (folders[1] / "method" / "ties.yaml").unlink()
    plugin_options.register_plugin_options()
