"""Vocabularies of checkpoints' tokenizers, read by transformers once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from regmean_lab.checkpoints import kept_structures, tokenizer_folders
from regmean_lab.checkpoints.tokenizer_folders import read_tokens
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pico import pico_folder
from regmean_lab.utils.cache import CACHE_VARIABLE

FORGET = tokenizer_folders._read_vocabulary.cache_clear
"""What another process would not know either."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which vocabularies are kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kept"))
    FORGET()
    return tmp_path / "kept" / kept_structures.FOLDER


@pytest.fixture
def no_tokenizers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, no tokenizer is loaded."""

    def refuse(folder: Path) -> None:
        raise AssertionError(f"the tokenizer of {folder} was loaded")

    return lambda: monkeypatch.setattr(tokenizer_folders, "_loaded", refuse)


def folder_of(name: str, folder: Path, pico_cache: Path) -> Path:
    """A folder with the tokenizer of a pico model."""
    AutoTokenizer.from_pretrained(pico_folder(name, pico_cache)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "deberta_v2"])
def test_a_kept_vocabulary_is_that_of_transformers(
    name: str, tmp_path: Path, pico_cache: Path, cache: Path, no_tokenizers: Callable[[], None]
) -> None:
    folder = folder_of(name, tmp_path / "model", pico_cache)
    expected = AutoTokenizer.from_pretrained(folder).get_vocab()
    assert read_tokens([tmp_path, folder]) == (expected, folder)
    assert len(list(cache.glob("*.json"))) == 1
    FORGET()
    no_tokenizers()
    assert read_tokens([folder]) == (expected, folder)
    copy = folder.rename(tmp_path / "elsewhere")
    assert read_tokens([copy]) == (expected, copy)


def test_of_changed_files_it_is_read_anew(tmp_path: Path, pico_cache: Path, cache: Path) -> None:
    folder = folder_of("bert", tmp_path / "model", pico_cache)
    before, _ = read_tokens([folder])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["added"])
    tokenizer.save_pretrained(folder)
    after, _ = read_tokens([folder])
    assert before is not None and after is not None
    assert after.keys() - before.keys() == {"added"}


def test_of_another_type_of_model_it_is_read_anew(
    tmp_path: Path, pico_cache: Path, cache: Path, no_tokenizers: Callable[[], None]
) -> None:
    folder = folder_of("bert", tmp_path / "model", pico_cache)
    read_tokens([folder])
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}), encoding="utf-8")
    no_tokenizers()
    with pytest.raises(CheckpointError, match="was loaded"):
        read_tokens([folder])


@pytest.mark.parametrize("name", ["tekken.json", "dict.txt", "prophetnet.tokenizer"])
def test_a_file_by_a_name_of_its_class_tells_too(
    name: str, tmp_path: Path, pico_cache: Path, cache: Path, no_tokenizers: Callable[[], None]
) -> None:
    folder = folder_of("bert", tmp_path / "model", pico_cache)
    (folder / name).write_text("{}", encoding="utf-8")
    read_tokens([folder])
    (folder / "README.md").write_text("# a card", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    no_tokenizers()
    FORGET()
    read_tokens([folder])
    (folder / name).write_text("{ }", encoding="utf-8")
    with pytest.raises(CheckpointError, match="was loaded"):
        read_tokens([folder])


def test_one_that_makes_no_sense_is_not_taken(tmp_path: Path, pico_cache: Path, cache: Path) -> None:
    folder = folder_of("bert", tmp_path / "model", pico_cache)
    expected = read_tokens([folder])
    (path,) = cache.glob("*.json")
    kept_structures.keep(path.stem, {"vocabulary": {"a": "one"}})
    FORGET()
    assert read_tokens([folder]) == expected


def test_one_that_cannot_be_loaded_is_refused_each_time(tmp_path: Path, pico_cache: Path, cache: Path) -> None:
    folder = folder_of("bert", tmp_path / "model", pico_cache)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="its tokenizer cannot be loaded"):
            read_tokens([folder])
    assert not list(cache.glob("*.json"))


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert read_tokens([tmp_path]) == (None, None)
