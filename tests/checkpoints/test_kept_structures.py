"""What is kept of an architecture between processes changes nothing in a merge, and has a key of all it rests on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoint_folders import LABELS, merge_into, randomise, save_classifier, save_decoder, sentence_folder, tensors_of
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

import regmean_lab
from regmean_lab.checkpoints import kept_structures, origin
from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.checkpoints.architecture_reading import read_architecture
from regmean_lab.checkpoints.empty_models import Like
from regmean_lab.checkpoints.kept_structures import keep, kept
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.origin import Origin
from regmean_lab.checkpoints.structure import NotPlainError, change_settings_, plain, setting_changes
from regmean_lab.checkpoints.written_configuration import Changes, write_configuration
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError, StoredTensor
from regmean_lab.models.pico import pico_folder
from regmean_lab.utils.cache import CACHE_VARIABLE, cache_folder

LLAMA = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 24,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which structures are kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def files_in(cache: Path) -> list[Path]:
    return sorted((cache / kept_structures.FOLDER).glob("*.json"))


def _of_pico(auto_class: str, name: str, **settings: Any) -> Callable[[Path, Path, int], object]:
    def save(folder: Path, pico_cache: Path, seed: int) -> None:
        source = pico_folder(name, pico_cache)
        config = AutoConfig.from_pretrained(source, **settings)
        model = randomise(getattr(transformers, auto_class).from_config(config), seed)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)

    return save


def _of_kind(kind: str, **settings: Any) -> Callable[[Path, Path, int], object]:
    def save(folder: Path, pico_cache: Path, seed: int) -> None:
        model_class = getattr(transformers, kind)
        model = model_class(model_class.config_class(**{**LLAMA, **settings}))
        randomise(model, seed).save_pretrained(folder)

    return save


def _without(part: str, names: str = "") -> Callable[[Path, Path, int], object]:
    """A classifier whose files lack a part, or whose configuration does not name its class."""

    def save(folder: Path, pico_cache: Path, seed: int) -> None:
        save_classifier(folder, pico_cache, seed)
        left_out = (part, "classifier") if part else ()
        kept_tensors = {name: v for name, v in tensors_of(folder).items() if not any(out in name for out in left_out)}
        save_file(
            {name.removeprefix(names): value for name, value in kept_tensors.items()}, folder / "model.safetensors"
        )
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = ["BertModel"] if part else None
        (folder / "config.json").write_text(json.dumps(config))

    return save


PLAIN: dict[str, Callable[[Path, Path, int], object]] = {
    "bert": save_classifier,
    "roberta": _of_pico("AutoModelForSequenceClassification", "roberta"),
    "deberta": _of_pico("AutoModelForSequenceClassification", "deberta_v2"),
    "distilbert": _of_pico("AutoModelForTokenClassification", "distilbert"),
    "t5": _of_pico("AutoModelForSeq2SeqLM", "t5"),
    "t5, tied": _of_pico("AutoModelForSeq2SeqLM", "t5", tie_word_embeddings=True),
    "gpt2": save_decoder,
    "llama, tied": _of_kind("LlamaForCausalLM", tie_word_embeddings=True),
    "llama, untied": _of_kind("LlamaForCausalLM", tie_word_embeddings=False),
    "sentence-transformers": sentence_folder,
    "an encoder without its pooler": _without("pooler", "bert."),
    "no class named": _without(""),
}
"""Models that are merged by their tensors' plain names."""


def _untied_by_its_files(folder: Path, pico_cache: Path, seed: int) -> None:
    save_decoder(folder, pico_cache, seed)
    tensors = tensors_of(folder)
    save_file(
        {**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def _adapter(folder: Path, pico_cache: Path, seed: int) -> None:
    base = folder.parent / "base of adapters"
    if not base.is_dir():
        save_classifier(base, pico_cache, 9)
    folder.mkdir(parents=True)
    content = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 6,
        "base_model_name_or_path": str(base),
        "task_type": "SEQ_CLS",
    }
    (folder / "adapter_config.json").write_text(json.dumps(content))
    generator = torch.Generator().manual_seed(seed)
    layer = "bert.encoder.layer.0.attention.self.query"
    rows, columns = tensors_of(base)[f"{layer}.weight"].shape
    factors = {
        "lora_A": torch.randn(2, columns, generator=generator),
        "lora_B": torch.randn(rows, 2, generator=generator),
    }
    save_file(
        {f"base_model.model.{layer}.{part}.weight": value for part, value in factors.items()},
        folder / "adapter_model.safetensors",
    )


def _endless(folder: Path, pico_cache: Path, seed: int) -> None:
    save_classifier(folder, pico_cache, seed)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"limit": float("inf")}))


MADE: dict[str, Callable[[Path, Path, int], object]] = {
    "a mixture of experts": _of_kind("MixtralForCausalLM", num_local_experts=2),
    "untied by its files": _untied_by_its_files,
    "an adapter": _adapter,
    "a setting that JSON does not tell": _endless,
}
"""Models that a merge needs itself, or the configuration."""

CASES = PLAIN | MADE


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, neither models nor configurations are made."""

    def refuse(*_: object) -> None:
        raise AssertionError("a model or a configuration was made")

    def begin() -> None:
        monkeypatch.setattr(origin, "empty_model", refuse)
        monkeypatch.setattr(Origin, "config", refuse)

    return begin


@pytest.mark.parametrize("case", CASES)
def test_a_merge_with_a_kept_structure_is_the_same(
    case: str,
    tmp_path: Path,
    pico_cache: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_models: Callable[[], None],
) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        CASES[case](folder, pico_cache, number)
    with monkeypatch.context() as nowhere:
        nowhere.setenv(CACHE_VARIABLE, "")
        expected = contents(merge_into(tmp_path / "without", folders, Simple()))
    assert not cache.exists()
    assert contents(merge_into(tmp_path / "first", folders, Simple())) == expected
    assert files_in(cache) or case == "an adapter"
    if case in PLAIN:
        no_models()
    assert contents(merge_into(tmp_path / "second", folders, Simple())) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"heads": "keep"},
        {"heads": "drop"},
        {"heads": "keep", "dtype": torch.bfloat16},
        {"heads": "drop", "dtype": torch.float16},
        {"heads": "keep", "tokenizer": "base"},
    ],
)
def test_other_heads_a_base_and_a_dtype(
    settings: dict[str, Any],
    tmp_path: Path,
    pico_cache: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_models: Callable[[], None],
) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    save_classifier(folders[0], pico_cache, 0)
    save_classifier(folders[1], pico_cache, 1, labels=("yes", "no"))
    method, base = TaskArithmetic(), str(pico_folder("bert", pico_cache))
    settings = settings | {"base": base} | ({"tokenizer": base} if "tokenizer" in settings else {})
    with monkeypatch.context() as nowhere:
        nowhere.setenv(CACHE_VARIABLE, "")
        expected = contents(merge_into(tmp_path / "without", folders, method, **settings))
    assert contents(merge_into(tmp_path / "first", folders, method, **settings)) == expected
    no_models()
    assert contents(merge_into(tmp_path / "second", folders, method, **settings)) == expected


def _break(folder: Path, how: str) -> None:
    config, tensors = json.loads((folder / "config.json").read_text()), tensors_of(folder)
    name = "bert.encoder.layer.0.output.dense.weight"
    if how == "lacks a tensor":
        del tensors[name]
    elif how == "another shape":
        tensors[name] = tensors[name][:-1]
    elif how == "more layers than tensors":
        config["num_hidden_layers"] = 1000
    elif how == "no such class":
        config["architectures"] = ["BertForNothing"]
    elif how == "no class that fits":
        config["architectures"], tensors["another"] = None, torch.ones(2)
    elif how == "settings that make no sense":
        config["num_attention_heads"] = 7
    elif how == "other settings":
        config["hidden_act"] = "relu"
    else:
        config["id2label"] = {"1": "a", "2": "b", "3": "c"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "how",
    [
        "lacks a tensor",
        "another shape",
        "more layers than tensors",
        "no such class",
        "no class that fits",
        "settings that make no sense",
        "other settings",
        "labels from 1",
    ],
)
def test_what_is_refused_is_refused_each_time_with_the_same_words(
    how: str, tmp_path: Path, pico_cache: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        save_classifier(folder, pico_cache, number)
    merge_into(tmp_path / "sound", folders, Simple())
    _break(folders[1], how)
    request = MergeRequest([str(folder) for folder in folders], Simple())
    told = []
    for folder in ("", str(cache), str(cache)):
        monkeypatch.setenv(CACHE_VARIABLE, folder)
        with pytest.raises(CheckpointError) as error:
            prepare_merge(request)
        told.append(error.value.problems)
    assert told[0] and told[0] == told[1] == told[2]


class TestAFileThatIsNotWhatWasWritten:
    KEY, CONTENT = "0" * 64, {"b": [1, "x"], "a": {"two": 2, "one": 1}}

    @pytest.fixture
    def path(self, cache: Path) -> Path:
        keep(self.KEY, self.CONTENT)
        assert kept(self.KEY) == self.CONTENT
        assert list(kept(self.KEY)["a"]) == ["two", "one"]  # type: ignore[index]
        (path,) = files_in(cache)
        return path

    @pytest.mark.parametrize(
        "change",
        [
            lambda file: file | {"content": {**file["content"], "b": [2, "x"]}},
            lambda file: file | {"content": {**file["content"], "a": {"one": 1, "two": 2}}},
            lambda file: file | {"format": file["format"] + 1},
            lambda file: file | {"key": "1" * 64},
            lambda file: {name: value for name, value in file.items() if name != "sha256"},
            lambda file: [file],
            lambda file: None,
        ],
    )
    def test_edited(self, path: Path, change: Callable[[Any], Any]) -> None:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        assert kept(self.KEY) is None

    @pytest.mark.parametrize("change", [lambda text: text[:-9], lambda text: "", lambda text: "[" * 10**5])
    def test_cut_off(self, path: Path, change: Callable[[str], str]) -> None:
        path.write_text(change(path.read_text()))
        assert kept(self.KEY) is None

    def test_no_text(self, path: Path) -> None:
        path.write_bytes(b"\xff\xfe\x00")
        assert kept(self.KEY) is None

    def test_of_another_key(self, path: Path) -> None:
        path.rename(path.with_name(f"{'1' * 64}.json"))
        assert kept("1" * 64) is None

    def test_too_large(self, path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kept_structures, "MOST_BYTES", path.stat().st_size - 1)
        assert kept(self.KEY) is None
        keep("1" * 64, self.CONTENT)
        assert files_in(cache) == [path]

    def test_is_made_anew_by_a_merge(self, tmp_path: Path, pico_cache: Path, cache: Path) -> None:
        folders = [tmp_path / name for name in ("a", "b")]
        for number, folder in enumerate(folders):
            save_classifier(folder, pico_cache, number)
        expected = contents(merge_into(tmp_path / "first", folders, Simple()))
        sound = {path: path.read_text() for path in files_in(cache)}
        for path, text in sound.items():
            path.write_text(text.replace("encoder", "decoder"))
        assert contents(merge_into(tmp_path / "second", folders, Simple())) == expected
        assert {path: path.read_text() for path in files_in(cache)} == sound

    def test_sound_but_of_no_architecture(self, tmp_path: Path, pico_cache: Path, cache: Path) -> None:
        """What another state of this package would have written under the same key."""
        folders = [tmp_path / name for name in ("a", "b")]
        for number, folder in enumerate(folders):
            save_classifier(folder, pico_cache, number)
        expected = contents(merge_into(tmp_path / "first", folders, Simple()))
        for path in files_in(cache):
            keep(path.stem, {"properties": {"name": "x"}, "plain": 3})
        assert contents(merge_into(tmp_path / "second", folders, Simple())) == expected


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, pico_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        save_classifier(folder, pico_cache, number)
    monkeypatch.setenv(CACHE_VARIABLE, "")
    expected = contents(merge_into(tmp_path / "without", folders, Simple()))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert contents(merge_into(tmp_path / "with", folders, Simple())) == expected
    assert (tmp_path / "file").read_text() == "no folder"


def test_no_room_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_structures, "write_text", full)
    keep("0" * 64, {})
    assert kept("0" * 64) is None


def test_where_things_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_folder() is None
    monkeypatch.setenv(CACHE_VARIABLE, "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "regmean-lab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "regmean-lab"


def test_those_used_longest_ago_are_dropped(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_structures, "MOST_FILES", 3)
    times: Iterator[int] = iter(range(1, 100))

    def touch(path: Path) -> None:
        time = next(times)
        utime(path, ns=(time * 10**9, time * 10**9))

    utime = kept_structures.os.utime
    monkeypatch.setattr(kept_structures.os, "utime", touch)
    keys = [str(number) * 64 for number in range(5)]
    for key in keys[:3]:
        keep(key, {"key": key})
        assert kept(key) is not None
    assert kept(keys[0]) is not None
    for key in keys[3:]:
        keep(key, {"key": key})
        assert kept(key) is not None
    assert [path.stem for path in files_in(cache)] == [keys[0], keys[3], keys[4]]


def test_all_together_take_no_more_room_than_they_may(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [str(number) * 64 for number in range(4)]
    keep(keys[0], {"key": keys[0]})
    (path,) = files_in(cache)
    monkeypatch.setattr(kept_structures, "MOST_TOGETHER", 2 * path.stat().st_size)
    for number, key in enumerate(keys):
        keep(key, {"key": key})
        file = cache / kept_structures.FOLDER / f"{key}.json"
        kept_structures.os.utime(file, ns=(number * 10**9, number * 10**9))
    keep(keys[3], {"key": keys[3]})
    assert [path.stem for path in files_in(cache)] == keys[2:]


TENSORS = {"a.weight": StoredTensor(Path("x"), "F32", (2, 3), 0, 24), "b": StoredTensor(Path("x"), "F32", (2,), 24, 8)}
ORIGIN: dict[str, Any] = {
    "content": {"model_type": "bert", "hidden_size": 8, "id2label": {"0": "a"}},
    "like": Like(),
    "stored": TENSORS,
    "lenient": False,
}


def _tensors(**changed: StoredTensor) -> Mapping[str, StoredTensor]:
    return {name: changed.get(name, tensor) for name, tensor in TENSORS.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"content": {**ORIGIN["content"], "hidden_size": 16}},
        {"content": {**ORIGIN["content"], "hidden_size": 8.0}},
        {"content": {**ORIGIN["content"], "new": None}},
        {"content": {**ORIGIN["content"], "id2label": {"0": "b"}}},
        {"like": Like(auto_class=transformers.AutoModel)},
        {"like": Like(auto_class=transformers.AutoModelForMaskedLM)},
        {"like": Like(labels=1)},
        {"like": Like(tokens=1)},
        {"stored": {"c" if name == "b" else name: tensor for name, tensor in TENSORS.items()}},
        {"stored": _tensors(b=StoredTensor(Path("x"), "F16", (2,), 24, 4))},
        {"stored": _tensors(b=StoredTensor(Path("x"), "F32", (2, 1), 24, 8))},
        {"stored": dict(reversed(TENSORS.items()))},
        {"stored": {}},
        {"lenient": True},
    ],
)
def test_the_key_has_each_ingredient(change: dict[str, Any]) -> None:
    assert Origin(**{**ORIGIN, **change}).key != Origin(**ORIGIN).key


def test_the_key_has_neither_places_nor_the_order_of_settings() -> None:
    moved = {name: StoredTensor(Path("y"), t.dtype, t.shape, t.start + 8, t.size) for name, t in TENSORS.items()}
    ordered = dict(reversed(ORIGIN["content"].items()))
    assert Origin(**{**ORIGIN, "stored": moved, "content": ordered}).key == Origin(**ORIGIN).key


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (kept_structures, "version", lambda _: "5.99"),
        (torch, "__version__", "2.99"),
        (regmean_lab, "__version__", "9"),
        (kept_structures, "FORMAT", 99),
        (kept_structures, "_sources", lambda: "another state of the checkout"),
    ],
)
def test_the_key_has_each_version(owner: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Origin(**ORIGIN).key
    with monkeypatch.context() as changed:
        changed.setattr(owner, name, value)
        kept_structures._versions.cache_clear()
        after = Origin(**ORIGIN).key
    kept_structures._versions.cache_clear()
    assert before != after
    assert Origin(**ORIGIN).key == before


def test_a_changed_source_of_the_package_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regmean_lab, "__file__", str(tmp_path / "__init__.py"))
    states = [kept_structures._sources()]
    for text in ("x = 1", "x = 12"):
        (tmp_path / "part.py").write_text(text)
        states.append(kept_structures._sources())
    assert len(set(states)) == 3


def test_nothing_is_kept_where_versions_do_not_tell(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as developed:
        developed.setattr(kept_structures, "version", lambda _: "5.99.0.dev0")
        keep("0" * 64, {})
    from transformers import conversion_mapping
    from transformers.models.auto import tokenization_auto

    with monkeypatch.context() as registered:
        registered.setattr(conversion_mapping, "USER_REGISTERED_MAPPINGS", {"bert"})
        keep("0" * 64, {})
    for added in (tokenization_auto.TOKENIZER_MAPPING._extra_content, tokenization_auto.REGISTERED_TOKENIZER_CLASSES):
        with monkeypatch.context() as registered:
            registered.setitem(added, "Own", object)
            keep("0" * 64, {})
    assert not cache.exists()
    keep("0" * 64, {})
    assert kept("0" * 64) == {}


def test_the_base_of_an_adapter_is_made(tmp_path: Path, pico_cache: Path, cache: Path) -> None:
    save_classifier(tmp_path / "a", pico_cache, 0)
    found = read_architecture(tmp_path / "a", 100, Like(labels=7))
    assert found.origin is not None
    assert found.origin.key is None
    assert not cache.exists()


def test_a_model_that_is_wanted_is_made_as_it_was(tmp_path: Path, pico_cache: Path, cache: Path) -> None:
    save_classifier(tmp_path / "a", pico_cache, 0)
    tensors = stored_tensors(tmp_path / "a")
    made, known = (read_architecture(tmp_path / "a", len(tensors), stored=tensors) for _ in range(2))
    assert "model" in vars(made)
    assert "model" not in vars(known)
    assert known.labels == list(LABELS)
    assert vars(known.config) == vars(made.config)
    assert type(known.model) is type(made.model)
    assert not setting_changes(known.model.config, made.model.config)
    shapes = [{name: tensor.shape for name, tensor in one.model.state_dict().items()} for one in (made, known)]
    assert shapes[0] == shapes[1]


class TestTheWrittenConfiguration:
    CHANGES = Changes("BertModel", dtype=torch.float16, tokens={"pad_token_id": 1}, rows=9)

    @pytest.fixture
    def read(self, tmp_path: Path, pico_cache: Path, cache: Path) -> Callable[[], Architecture]:
        save_classifier(tmp_path / "a", pico_cache, 0)
        tensors = stored_tensors(tmp_path / "a")
        return lambda: read_architecture(tmp_path / "a", len(tensors), stored=tensors)

    def test_is_what_transformers_writes(self, read: Callable[[], Architecture], tmp_path: Path) -> None:
        config = AutoConfig.from_pretrained(tmp_path / "a")
        config.architectures, config.dtype = ["BertModel"], torch.float16
        config.pad_token_id, config.vocab_size = 1, 9
        config.save_pretrained(tmp_path / "expected")
        expected = (tmp_path / "expected" / "config.json").read_bytes()
        for made in (True, False):
            found = read()
            write_configuration(found, self.CHANGES, tmp_path)
            assert (tmp_path / "config.json").read_bytes() == expected
            assert found.has_config is made

    @pytest.mark.parametrize(
        "other",
        [
            {"architecture": "BertForMaskedLM"},
            {"untied": True},
            {"dtype": None},
            {"dtype": torch.bfloat16},
            {"tokens": {"pad_token_id": 2}},
            {"tokens": None},
            {"rows": 8},
            {"rows": None},
        ],
    )
    def test_of_other_changes_is_another(
        self, other: dict[str, Any], read: Callable[[], Architecture], tmp_path: Path
    ) -> None:
        texts = set()
        for changes in (self.CHANGES, replace(self.CHANGES, **other), self.CHANGES):
            write_configuration(read(), changes, tmp_path)
            texts.add((tmp_path / "config.json").read_text())
        assert len(texts) == 2

    def test_of_a_configuration_that_was_changed_is_neither_kept_nor_taken(
        self, read: Callable[[], Architecture], tmp_path: Path
    ) -> None:
        texts = []
        for value in ("a", None, "b", None):
            if (found := read()) and value is not None:
                found.config.new = value  # type: ignore[attr-defined]
            write_configuration(found, self.CHANGES, tmp_path)
            texts.append(json.loads((tmp_path / "config.json").read_text()).get("new"))
        assert texts == ["a", None, "b", None]

    def test_of_labels_in_another_order_is_another(
        self, read: Callable[[], Architecture], tmp_path: Path, cache: Path
    ) -> None:
        write_configuration(read(), self.CHANGES, tmp_path)
        known = files_in(cache)
        config = json.loads((tmp_path / "a" / "config.json").read_text())
        config["id2label"] = dict(reversed(config["id2label"].items()))
        (tmp_path / "a" / "config.json").write_text(json.dumps(config))
        write_configuration(read(), self.CHANGES, tmp_path)
        assert len(files_in(cache)) == len(known) + 1

    def test_is_made_anew_where_what_is_kept_makes_no_sense(
        self, read: Callable[[], Architecture], tmp_path: Path, cache: Path
    ) -> None:
        expected = vars(read().config)
        (path,) = files_in(cache)
        content = kept(path.stem)
        assert content is not None
        keep(path.stem, content | {"changes": {"parts": {"nowhere": {}}, "gone": ["nothing"], "set": {}}})
        found = read()
        assert not found.has_config
        assert vars(found.config) == expected


class TestSettings:
    def test_are_changed_as_they_were(self) -> None:
        before, after = PreTrainedConfig(), PreTrainedConfig()
        for config in (before, after):
            config.part, config.gone = PreTrainedConfig(), 3  # type: ignore[attr-defined]
        after.part.own, after.new, after.use = [1, {"x": 2.5}], None, True  # type: ignore[attr-defined]
        before.use = 1  # type: ignore[attr-defined]
        del after.gone  # type: ignore[attr-defined]
        changes = json.loads(json.dumps(setting_changes(before, after)))
        change_settings_(before, changes)
        assert not setting_changes(before, after)
        assert before.part.own == [1, {"x": 2.5}]  # type: ignore[attr-defined]
        assert before.use is True  # type: ignore[attr-defined]
        assert not hasattr(before, "gone")

    @pytest.mark.parametrize(
        "value", [(1, 2), torch.float32, {1: 2}, float("nan"), float("inf"), {1}, b"x", [object()]]
    )
    def test_that_json_does_not_tell_are_not_kept(self, value: object) -> None:
        with pytest.raises(NotPlainError):
            plain(value)
        after = PreTrainedConfig()
        after.new = value  # type: ignore[attr-defined]
        with pytest.raises(NotPlainError):
            setting_changes(PreTrainedConfig(), after)
