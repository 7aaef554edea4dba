"""Pretrained models whose repository or folder has pickled weights only: found, converted, and used."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from stand_in_hub import StandInHub, files_of
from transformers import AutoModel

from regmean_lab.checkpoints.sources import find_sources, locate
from regmean_lab.config.groups import ModelConfig
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.experiment import run
from regmean_lab.models.convert_pickled import ConversionError, convert
from regmean_lab.models.converted_weights import RECORD_FILE
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub import find_on_hub
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pico_models import TEXT
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.prepare import model as prepare_models
from regmean_lab.prepare.base import PrepareError
from regmean_lab.prepare.model import prepare_model
from regmean_lab.sweeps.plan import make_plan


@pytest.fixture
def hub(new_hub: StandInHub) -> StandInHub:
    return new_hub


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "zoo" / ".models"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions take no process of their own, which takes seconds to start."""

    def run(folder: Path, target: Path) -> None:
        try:
            convert(folder, target)
        except ConversionError as error:
            raise PrepareError(f"not converted: {error}") from None

    monkeypatch.setattr(prepare_models, "convert_apart", run)


def find(reference: str, models: Path, **settings: object) -> Checkpoint:
    return find_checkpoint(ModelConfig("name", reference, **settings), models)  # type: ignore[arg-type]


def as_pickle(folder: Path, shards: int = 1, legacy: bool = False) -> dict[str, torch.Tensor]:
    """Write a folder's weights as ``pytorch_model.bin``, or several with an index; returns them."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        return weights
    names = sorted(weights)
    files = {name: f"pytorch_model-{1 + place % shards:05}-of-{shards:05}.bin" for place, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: weights[name] for name in names if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return weights


@pytest.fixture
def folder(tmp_path: Path, pico_cache: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(pico_folder("bert", pico_cache), tmp_path / "model"))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class TestConverter:
    @pytest.mark.parametrize(("shards", "legacy"), [(1, False), (1, True), (3, False)])
    def test_keeps_every_tensor(self, folder: Path, tmp_path: Path, shards: int, legacy: bool) -> None:
        weights = as_pickle(folder, shards, legacy)
        (tmp_path / "new").mkdir()
        convert(folder, tmp_path / "new")
        assert_equal(stored(tmp_path / "new"), weights)
        assert len(list((tmp_path / "new").glob("*.safetensors"))) == shards

    def test_tensors_that_share_memory_and_other_dtypes(self, tmp_path: Path) -> None:
        table = torch.arange(12.0).reshape(3, 4)
        weights = {
            "shared": table,
            "tied": table,
            "part": table[1:],
            "transposed": table.t(),
            "half": torch.ones(2, dtype=torch.bfloat16),
            "positions": torch.arange(3),
            "parameter": torch.nn.Parameter(torch.zeros(1)),
        }
        torch.save(weights, tmp_path / "pytorch_model.bin")
        (tmp_path / "new").mkdir()
        convert(tmp_path, tmp_path / "new")
        found = stored(tmp_path / "new")
        assert_equal(found, {name: value.detach() for name, value in weights.items()})
        assert found["half"].dtype == torch.bfloat16

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(tmp_path / "sprung"),)

        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ConversionError, match=r"pytorch_model\.bin"):
            convert(tmp_path, tmp_path)
        torch.save({"a": Trap()}, tmp_path / "pytorch_model.bin")
        with pytest.raises(ConversionError, match=r"is not a file of plain tensors \(unsupported GLOBAL posix\.mkdir"):
            convert(tmp_path, tmp_path)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ({"model": {"a": torch.zeros(1)}}, "'?model'? is something else"),
            ([torch.zeros(1)], "expected tensors by name, got list"),
            ({"a": torch.zeros(2).to_sparse()}, "a is something else"),
        ],
    )
    def test_what_is_no_plain_weights_is_refused(self, tmp_path: Path, content: object, expected: str) -> None:
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(ConversionError, match=expected):
            convert(tmp_path, tmp_path)

    def test_an_index_must_fit_and_stay_in_its_folder(self, folder: Path, tmp_path: Path) -> None:
        as_pickle(folder, 2)
        index = folder / "pytorch_model.bin.index.json"
        names = json.loads(index.read_text())["weight_map"]
        index.write_text(json.dumps({"weight_map": {**names, "more": "pytorch_model-00001-of-00002.bin"}}))
        with pytest.raises(ConversionError, match="more in only one of them"):
            convert(folder, tmp_path)
        index.write_text(json.dumps({"weight_map": {**names, "more": "../pytorch_model.bin"}}))
        with pytest.raises(ConversionError, match="not the plain name of a file"):
            convert(folder, tmp_path)


@pytest.mark.usefixtures("in_this_process")
class TestFolder:
    def test_is_refused_until_it_is_converted(self, folder: Path, models: Path) -> None:
        weights = as_pickle(folder)
        (folder / "pytorch_model.generator.bin").write_bytes(b"of another model")
        command = f"python -m regmean_lab.prepare model={folder} zoo_dir={models.parent}"
        with pytest.raises(ModelError) as refused:
            find(str(folder), models)
        assert command in str(refused.value)
        with pytest.raises(CheckpointError) as refused_merge:
            find_sources([str(folder)], models)
        assert command in str(refused_merge.value)
        assert "it is converted" in prepare_model(str(folder), models)
        checkpoint = find(str(folder), models)
        assert (checkpoint.source, checkpoint.revision) == (str(folder), None)
        assert_equal(dict(checkpoint.load(AutoModel).state_dict()), weights)
        (source,) = find_sources([str(folder)], models)
        assert_equal(stored(source.folder), weights)
        assert (source.statistics_from, source.public_reference) == (folder, "model")
        assert "converted before" in prepare_model(str(folder), models)

    def test_an_adapter_is_converted_too(self, tmp_path: Path, models: Path) -> None:
        adapter, weights = tmp_path / "adapter", {"base_model.model.x.lora_A.weight": torch.ones(2, 3)}
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        torch.save(weights, adapter / "adapter_model.bin")
        with pytest.raises(CheckpointError, match=r"adapter_model\.bin.* python -m regmean_lab\.prepare model="):
            locate(str(adapter), models)
        assert "it is converted" in prepare_model(str(adapter), models)
        (source,) = find_sources([str(adapter)], models)
        assert source.is_adapter
        assert_equal(stored(source.folder), weights)

    def test_is_converted_again_when_its_files_change(self, folder: Path, models: Path) -> None:
        as_pickle(folder)
        prepare_model(str(folder), models)
        before = find(str(folder), models)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.25}))
        with pytest.raises(ModelError, match=r"regmean_lab\.prepare"):
            find(str(folder), models)
        prepare_model(str(folder), models)
        after = find(str(folder), models)
        assert after.fingerprint != before.fingerprint
        assert after.config().hidden_dropout_prob == 0.25

    def test_what_was_damaged_is_made_again(self, folder: Path, models: Path) -> None:
        weights = as_pickle(folder)
        prepare_model(str(folder), models)
        (made,) = models.glob("converted-*")
        record = json.loads((made / RECORD_FILE).read_text())
        assert set(record["read"]) == {"pytorch_model.bin"}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(record["written"])
        save_file({"other": torch.zeros(1)}, made / "model.safetensors")
        prepare_model(str(folder), models)
        assert_equal(stored(made), weights)

    def test_nothing_is_left_of_a_failed_conversion(self, folder: Path, models: Path) -> None:
        as_pickle(folder)
        (folder / "pytorch_model.bin").write_bytes(b"PK nothing")
        with pytest.raises(
            PrepareError,
            match=r"not converted: .*pytorch_model\.bin: is not a file of plain tensors .*and is not loaded",
        ):
            prepare_model(str(folder), models)
        assert not [path for path in models.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.usefixtures("in_this_process")
class TestHub:
    def test_weights_at_the_commit_are_taken(self, hub: StandInHub, folder: Path, models: Path) -> None:
        repository = hub.add("someone/plain", folder)
        checkpoint = find("someone/plain", models)
        commit = repository.references["main"]
        assert (checkpoint.fingerprint, checkpoint.revision) == (f"someone/plain@{commit}", commit)
        assert (checkpoint.folder, checkpoint.weights_revision) == (None, None)

    @pytest.mark.parametrize("shards", [1, 2])
    def test_pickled_weights_are_converted_once(
        self,
        hub: StandInHub,
        folder: Path,
        models: Path,
        shards: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        weights = as_pickle(folder, shards)
        name = f"someone/pickled{shards}"
        commit = hub.add(name, folder).references["main"]
        with pytest.raises(ModelError) as refused:
            find(name, models)
        assert f"python -m regmean_lab.prepare model={name} zoo_dir={models.parent}" in str(refused.value)
        assert not [entry for entry in hub.asked if "resolve" in entry]  # nothing was fetched
        prepare_model(name, models)
        checkpoint = find(name, models)
        assert (checkpoint.source, checkpoint.revision, checkpoint.fingerprint) == (name, commit, f"{name}@{commit}")
        assert_equal(dict(checkpoint.load(AutoModel).state_dict()), weights)
        (made,) = models.glob("converted-*/")
        record = json.loads((made / RECORD_FILE).read_text())
        assert record["source"] == {"name": name, "commit": commit}
        assert len(record["compared_with_the_hub"]) == shards
        path, found = locate(name, models)
        assert found == commit
        assert_equal(stored(path), weights)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert find(name, models) == checkpoint

    def test_the_conversion_of_the_hub_is_taken_at_its_commit(
        self, hub: StandInHub, folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        safe = (folder / "model.safetensors").read_bytes()
        weights = as_pickle(folder)
        repository = hub.add("someone/converted", folder)
        repository.propose({"model.safetensors": b"of somebody else"}, author="someone")
        repository.propose({"model.safetensors": b"another change"}, title="better weights")
        repository.propose({"model.safetensors": b"refused by its owner"}, status="closed")
        conversion = repository.propose({"model.safetensors": safe, "config.json": b"{}"})
        commit = repository.commit({**files_of(folder), "README.md": b"more"})  # the weights are still the same
        checkpoint = find("someone/converted", models)
        assert checkpoint.fingerprint == f"someone/converted@{commit}"
        assert (checkpoint.revision, checkpoint.weights_revision, checkpoint.folder) == (commit, conversion, None)
        path, _ = locate("someone/converted", models)
        assert_equal(stored(path), weights)
        assert json.loads((path / "config.json").read_text())["model_type"] == "bert"  # that of the commit
        prepare_model("someone/converted", models)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert find("someone/converted", models) == checkpoint
        assert_equal(stored(locate("someone/converted", models)[0]), weights)

    def test_a_conversion_of_other_weights_is_not_taken(self, hub: StandInHub, folder: Path, models: Path) -> None:
        safe = (folder / "model.safetensors").read_bytes()
        as_pickle(folder)
        repository = hub.add("someone/moved", folder)
        repository.propose({"model.safetensors": safe})
        torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
        repository.commit(files_of(folder))
        with pytest.raises(ModelError, match=r"regmean_lab\.prepare"):
            find("someone/moved", models)

    def test_without_discussions_the_commits_tell(self, hub: StandInHub, folder: Path, models: Path) -> None:
        safe = (folder / "model.safetensors").read_bytes()
        as_pickle(folder)
        repository = hub.add("someone/quiet", folder)
        repository.propose({"model.safetensors": b"of somebody else"}, author="someone")
        conversion = repository.propose({"model.safetensors": safe})
        hub.without_discussions.add("someone/quiet")
        assert find("someone/quiet", models).weights_revision == conversion

    def test_a_damaged_download_is_not_converted(
        self, hub: StandInHub, folder: Path, models: Path, tmp_path: Path
    ) -> None:
        as_pickle(folder)
        hub.add("someone/damaged", folder)
        find_on_hub("someone/damaged", None)
        commit = hub.repositories["someone/damaged"].references["main"]
        prepare_model("someone/damaged", models)
        cached = tmp_path / "cache" / "models--someone--damaged" / "snapshots" / commit / "pytorch_model.bin"
        torch.save({"a": torch.zeros(1)}, cached.resolve())
        with pytest.raises(PrepareError, match=r"SHA-256 is .*, the hub says"):
            prepare_model("someone/damaged", models, force=True)

    def test_weights_of_another_framework_alone(self, hub: StandInHub, folder: Path, models: Path) -> None:
        (folder / "model.safetensors").rename(folder / "tf_model.h5")
        hub.add("someone/h5", folder)
        with pytest.raises(
            ModelError, match=r"no safetensors weights of someone/h5 are there, nor a pytorch_model\.bin"
        ):
            find("someone/h5", models)
        with pytest.raises(PrepareError, match="no safetensors weights"):
            prepare_model("someone/h5", models)


class TestNames:
    def test_without_owner_renamed_and_at_a_revision(self, hub: StandInHub, folder: Path, models: Path) -> None:
        repository = hub.add("google-bert/bert-base-uncased", folder)
        first = repository.references["main"]
        second = repository.commit({**files_of(folder), "README.md": b"more"})
        repository.references["old"] = first
        hub.renamed["bert-base-uncased"] = "google-bert/bert-base-uncased"
        name = "bert-base-uncased"
        assert find(name, models).revision == second
        assert find(f"{name}@old", models).fingerprint == f"{name}@{first}"
        assert find(f"{name}@{first}", models) == find(name, models, revision=first)
        path, commit = locate(name, models)
        assert (commit, (path / "README.md").exists()) == (second, False)
        assert locate(f"{name}@old", models)[1] == first
        sources = find_sources([name, f"{name}@old"], models)
        assert [source.name for source in sources] == [name, f"{name}_old"]
        with pytest.raises(ModelError, match=r"model\.revision: .* names another one"):
            find(f"{name}@old", models, revision="main")
        for find_it in (find, locate):
            with pytest.raises((ModelError, CheckpointError), match="at revision 'none'"):
                find_it(f"{name}@none", models)

    def test_a_folder_goes_before_a_model_of_the_hub(
        self, hub: StandInHub, folder: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.add("gpt2", folder)
        monkeypatch.chdir(tmp_path)
        for name in ("gpt2", "gpt2@main"):
            shutil.copytree(folder, tmp_path / name)
            assert locate(name, models) == (Path(name), None)
            assert find(name, models).revision is None

    def test_an_adapter_names_its_base_with_a_revision(self, tmp_path: Path) -> None:
        from regmean_lab.checkpoints.adapters import adapter_base

        def base(**settings: object) -> str | None:
            (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
            return adapter_base(tmp_path)

        assert base(base_model_name_or_path="gpt2", revision="old") == "gpt2@old"
        assert base(base_model_name_or_path="gpt2", revision=None) == "gpt2"
        assert base(base_model_name_or_path=str(tmp_path), revision="old") == str(tmp_path)

    def test_all_that_a_tokenizer_consists_of_is_fetched(self, hub: StandInHub, folder: Path, models: Path) -> None:
        wanted = {
            "chat_template.jinja": b"{{ messages }}",
            "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
            "generation_config.json": b"{}",
            "spiece.model": b"pieces",
            "source.spm": b"pieces",
            "bpe.codes": b"codes",
        }
        left = {"onnx/config.json": b"{}", "onnx/model.safetensors": b"", "pytorch_model.bin": b"", "README.md": b""}
        hub.add("someone/chat", {**files_of(folder), **wanted, **left})
        path, _ = locate("someone/chat", models)
        found = files_of(path)
        assert {name: found[name] for name in wanted} == wanted
        assert not set(left) & set(found)


def sentence_pieces(path: Path, special: tuple[str, ...], unknown: str) -> None:
    """A sentencepiece model with the words of the pico models' text."""
    model = sentencepiece_model_pb2.ModelProto()
    words = sorted({f"▁{word}" for word in [*TEXT.split(), "does", "the", "sentence", "express", "yes", "no"]})
    characters = sorted(set("".join(words)))
    pieces = [*special, *words, *(one for one in characters if one not in words)]
    for piece in pieces:
        kind = 2 if piece == unknown else 3 if piece in special else 1
        score = 0.0 if piece in special else -5.0 if len(piece) > 1 else -20.0
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = 1
    model.trainer_spec.unk_id = special.index(unknown)
    model.normalizer_spec.add_dummy_prefix = True
    path.write_bytes(model.SerializeToString())


def published(architecture: str, folder: Path, cache: Path) -> Path:
    """A pico model as DeBERTa-v3 and T5-v1.1 are published: pickled weights, and a sentencepiece model alone."""
    shutil.copytree(pico_folder(architecture, cache), folder)
    for path in folder.glob("*token*"):
        path.unlink()
    as_pickle(folder, legacy=architecture != "t5")
    if architecture == "t5":
        sentence_pieces(folder / "spiece.model", ("<pad>", "</s>", "<unk>"), "<unk>")
        settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    else:
        (folder / "pytorch_model.generator.bin").write_bytes(b"the weights of its generator")
        sentence_pieces(folder / "spm.model", ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), "[UNK]")
        settings = {"do_lower_case": False, "vocab_type": "spm"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("model", "name", "architecture", "experiment", "own_process"),
    [
        ("deberta_v3_large", "microsoft/deberta-v3-large", "deberta_v2", "emotion_pairwise", False),
        ("t5_v1_1_base", "google/t5-v1_1-base", "t5", "emotion_text_pairwise", True),
    ],
)
def test_an_experiment_of_the_paper_from_a_repository_without_safetensors(
    hub: StandInHub,
    write_emotions: Callable[[Path], Path],
    compose_job: Callable[..., DictConfig],
    pico_cache: Path,
    tmp_path: Path,
    models: Path,
    in_this_process: None,
    model: str,
    name: str,
    architecture: str,
    experiment: str,
    own_process: bool,
) -> None:
    """Planned, refused with the command that helps, converted by it, and run."""
    repository = hub.add(name, published(architecture, tmp_path / "published", pico_cache))
    write_emotions(tmp_path / "data")
    overrides = [
        f"experiment={experiment}",
        f"model={model}",
        "members=[tec,isear]",
        "suite.out_of_domain=[emoint]",
        "method=simple",
        "suite.train_examples=8",
        "suite.dev_examples=4",
        "suite.test_examples=4",
        "training.steps=1",
        "trainer=cpu",
        "trainer.progress_bar=false",
        "logger=none",
        *(
            f"paths.{key}_dir={tmp_path / value}"
            for key, value in (("data", "data"), ("zoo", "zoo"), ("output", "out"))
        ),
    ]
    config = compose_job(*overrides)
    command = f"python -m regmean_lab.prepare model={model} zoo_dir={tmp_path / 'zoo'}"
    (problem,) = make_plan([(overrides, config)]).problems
    assert command in problem
    with pytest.raises(ConfigurationError) as refused:
        run(config, tmp_path / "out" / "job", overrides)
    assert refused.value.problems == [problem]
    if own_process:  # as a person gives it
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        environment["HF_HUB_CACHE"] = str(tmp_path / "cache")
        finished = subprocess.run(
            [sys.executable, *command.split()[1:]], env=environment, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "cannot be loaded" not in finished.stdout
    else:
        prepare_model(model, models)
    assert make_plan([(overrides, config)]).problems == []
    result, computed = run(config, tmp_path / "out" / "job", overrides)
    assert result is not None
    assert computed
    assert result.model_fingerprint == f"{name}@{repository.references['main']}"
