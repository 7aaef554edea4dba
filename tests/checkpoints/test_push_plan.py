"""``plan=true`` of merges and statistics: what would be written and pushed, without network, token and work."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import pytest
from checkpoint_folders import merge_into, save_classifier, sentence_folder
from huggingface_hub import constants

from regmean_lab.__main__ import EXIT_CONFIGURATION, main
from regmean_lab.checkpoints.lora.request import AdapterRequest
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.merge_plan import planned_files
from regmean_lab.merging.simple import Simple


@pytest.fixture
def root(tmp_path: Path, pico_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two checkpoints in the working folder; no token, and no connection to anywhere."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for seed, name in enumerate("ab"):
        save_classifier(tmp_path / name, pico_cache, seed)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *arguments, "plan=true", "trainer=cpu"])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_a_push_of_a_merge_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = ("merge", "checkpoints=[a,b]", "method=simple", "output=merged", "push=me/merged")
    (root / "b" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# b\n")
    assert command(monkeypatch, *merge) == 0
    told = capsys.readouterr().out
    assert not (root / "merged").exists() and not (root / "outputs").exists()
    assert f"push to {constants.ENDPOINT}/me/merged, branch main; only its owner sees it" in told
    merge_into(root / "merged", [root / "a", root / "b"], Simple())
    size = (root / "merged" / "model.safetensors").stat().st_size
    assert f"model.safetensors ({size:,} bytes)" in told
    matter = (root / "merged" / "README.md").read_text().split("---\n")[1]
    assert "".join(f"    {line}\n" for line in matter.splitlines()) in told
    assert "the card names no licence (those of the checkpoints: a: none, b: apache-2.0)" in told
    assert "no token of the hub is here" in told

    card = root / "merged" / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1))
    (root / "merged" / "LICENSE").write_text("mine")
    assert command(monkeypatch, *merge, "private=false") == 0
    told = capsys.readouterr().out
    assert "everybody sees it" in told and "license: mit" in told and "names no licence" not in told
    assert "LICENSE (4 bytes)" in told
    assert "an earlier merge is there" in told


def test_what_is_wrong_is_told_before(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = ("merge", "checkpoints=[a,b]", "method=simple")
    assert command(monkeypatch, *merge, "push=one/two/three") == EXIT_CONFIGURATION
    assert "push: 'one/two/three' is not the name of a repository on the hub" in capsys.readouterr().err
    assert command(monkeypatch, "merge", "checkpoints=[a,nowhere]", "method=simple", "push=me/x") == EXIT_CONFIGURATION
    assert "nowhere" in capsys.readouterr().err
    shutil.copytree(root / "a", root / "copy")
    assert command(monkeypatch, "merge", "checkpoints=[a,copy]", "method=simple,ties", "base=b", "-m") == 0
    told = capsys.readouterr().out
    assert told.count("warning: a and copy have equal weights") == 2
    assert "by simple" in told and "by ties" in told and "push to" not in told


@pytest.mark.parametrize("kind", ["plain", "shards", "heads", "adapter", "sentence"])
def test_the_files_are_those_of_the_merge(root: Path, pico_cache: Path, kind: str) -> None:
    settings = {
        "plain": {},
        "shards": {"max_shard_size": 20_000},
        "heads": {"heads": "keep"},
        "adapter": {"adapter": AdapterRequest(16), "base": str(root / "base")},
        "sentence": {},
    }[kind]
    if kind == "adapter":
        save_classifier(root / "base", pico_cache, 2)
    if kind == "sentence":
        for seed, name in enumerate("ab"):
            shutil.rmtree(root / name)
            sentence_folder(root / name, pico_cache, seed)
    request = MergeRequest([str(root / "a"), str(root / "b")], Simple(), **settings)  # type: ignore[arg-type]
    planned = planned_files(prepare_merge(request))
    merged = merge_into(root / "merged", [root / "a", root / "b"], Simple(), **settings)  # type: ignore[arg-type]
    written = {path.relative_to(merged).as_posix(): path for path in merged.rglob("*") if path.is_file()}
    assert set(planned) == set(written)
    known = {name: size for name, size in planned.items() if size is not None}
    assert known == {name: written[name].stat().st_size for name in known}
    if kind in ("plain", "shards", "heads"):
        assert all(size is not None for name, size in planned.items() if name.endswith(".safetensors"))


def test_a_push_of_statistics_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "texts.txt").write_text("".join(f"the film number {number} was good\n" for number in range(200)))
    collect = ("collect", "checkpoint=a", "data=texts.txt", "push=me/a", "allow_few_rows=true")
    (root / "a" / "README.md").write_text("---\nlicense: mit\n---\n# a\n")
    assert command(monkeypatch, *collect) == 0
    told = capsys.readouterr().out
    assert not (root / "a" / "statistics").exists()
    assert f"push to {constants.ENDPOINT}/me/a, branch main" in told
    assert "statistics/gram.safetensors (–)" in told and "regmean-statistics" in told and "license: mit" in told
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *collect[:3], *collect[4:], "trainer=cpu", "paths.output_dir=out"])
    main()
    size = (root / "a" / "statistics" / "gram.safetensors").stat().st_size
    capsys.readouterr()
    assert command(monkeypatch, *collect) == 0
    assert f"statistics/gram.safetensors ({size:,} bytes)" in capsys.readouterr().out
    (root / "a" / "README.md").write_text("<!-- regmean_lab statistics: begin -->\n")
    assert command(monkeypatch, *collect) == 0
    assert "README.md: expected" in capsys.readouterr().out
