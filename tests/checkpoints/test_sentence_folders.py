"""Models of sentence-transformers: modules compared, weights merged, the whole folder out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import merge_into, save_classifier, sentence_folder, tensors_of, write_json
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.ties import Ties
from regmean_lab.models.headers import CheckpointError

TEXTS = ["the river was happy", "people and music in the village", "rain"]


def embeddings(root: Path) -> torch.Tensor:
    """What the modules compute of each text, one at a time, in float64."""
    transformer = root / json.loads((root / "modules.json").read_text())[0]["path"]
    model = AutoModel.from_pretrained(transformer).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(transformer)
    dense = {name: value.double() for name, value in load_file(root / "2_Dense" / "model.safetensors").items()}
    rows = []
    for text in TEXTS:
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        rows.append(torch.tanh(dense["linear.weight"] @ mean + dense["linear.bias"]))
    return torch.stack(rows)


def problems(*checkpoints: Path, **settings: Any) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest([str(path) for path in checkpoints], Simple(), **settings))
    return caught.value.problems


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_identical_members_give_the_same_embeddings(pico_cache: Path, tmp_path: Path, inner: str) -> None:
    one = sentence_folder(tmp_path / "one", pico_cache, 1, inner)
    two = sentence_folder(tmp_path / "two", pico_cache, 1, old=True)
    merged = merge_into(tmp_path / "merged", [one, two], Simple())
    torch.testing.assert_close(embeddings(merged), embeddings(one), rtol=0, atol=0)
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "config_sentence_transformers.json"):
        assert (merged / name).read_bytes() == (one / name).read_bytes()
    assert (merged / "sentence_bert_config.json").is_file()
    assert "library_name: sentence-transformers" in (merged / "README.md").read_text()
    record = json.loads((merged / "merge.json").read_text())
    assert "2_Dense/model.safetensors" in record["checkpoints"][0]["sha256"]


def test_sentence_transformers_loads_what_is_written(pico_cache: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    folders = [sentence_folder(tmp_path / name, pico_cache, n) for n, name in enumerate(("one", "two"))]
    merged = merge_into(tmp_path / "merged", folders, Simple())
    given = library.SentenceTransformer(str(merged), device="cpu").encode(TEXTS)
    torch.testing.assert_close(torch.tensor(given).double(), embeddings(merged), rtol=1e-4, atol=1e-5)


def test_modules_are_merged_as_the_transformer_is(pico_cache: Path, tmp_path: Path) -> None:
    folders = [sentence_folder(tmp_path / f"m{n}", pico_cache, n) for n in range(3)]
    merged = merge_into(tmp_path / "merged", folders[:2], Simple(coefficients=[0.25, 0.75]))
    dense = [load_file(folder / "2_Dense" / "model.safetensors") for folder in (*folders, merged)]
    for name in ("linear.weight", "linear.bias"):
        torch.testing.assert_close(dense[3][name], 0.25 * dense[0][name] + 0.75 * dense[1][name])
    based = merge_into(tmp_path / "based", folders[:2], Ties(density=1.0), base=str(folders[2]))
    own = load_file(based / "2_Dense" / "model.safetensors")
    changes = [dense[n]["linear.bias"] - dense[2]["linear.bias"] for n in (0, 1)]
    sign = sum(changes).sign()  # type: ignore[union-attr]
    agreeing = [torch.where(change.sign() == sign, change, 0) for change in changes]
    count = sum((change != 0).float() for change in agreeing)
    expected = dense[2]["linear.bias"] + sum(agreeing) / count
    torch.testing.assert_close(own["linear.bias"], expected, rtol=1e-4, atol=1e-5)


def edit(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "cls"}, "1_Pooling/config.json: pooling_mode is ['cls']"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.linear.Identity"}, "activation_function is"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is True, not False"),
        ("config_sentence_transformers.json", {"prompts": {"query": "q: "}}, "prompts is {'query': 'q: '}, not None"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "dot"}, "similarity_fn_name is dot, not cosine"),
    ],
)
def test_a_difference_is_refused_by_its_name(
    pico_cache: Path, tmp_path: Path, file: str, values: dict[str, Any], said: str
) -> None:
    one, two = (sentence_folder(tmp_path / name, pico_cache, 0) for name in ("one", "two"))
    edit(two / file, **values)
    (found,) = problems(one, two)
    assert said in found
    assert "heads=drop" in found
    merged = merge_into(tmp_path / "merged", [one, two], Simple(), heads="drop")
    assert not (merged / "modules.json").exists()
    assert set(tensors_of(merged)) == set(tensors_of(one))


def test_other_modules_are_refused(pico_cache: Path, tmp_path: Path) -> None:
    one, two, plain = (sentence_folder(tmp_path / name, pico_cache, 0) for name in ("one", "two", "plain"))
    listed = json.loads((two / "modules.json").read_text())
    write_json(two / "modules.json", listed[:2])
    assert "modules Transformer, 1_Pooling (Pooling), not" in problems(one, two)[0]
    (plain / "modules.json").unlink()
    assert "plain is none (no modules.json)" in problems(one, plain)[0]
    listed[1]["path"] = "../elsewhere"
    listed[2]["type"] = "custom_st.Own"
    write_json(two / "modules.json", listed)
    found = "\n".join(problems(one, two))
    assert "is not the name of a folder" in found
    assert "custom_st.Own needs code of its own, which is never run" in found


def test_pickled_weights_of_a_module_are_refused(pico_cache: Path, tmp_path: Path) -> None:
    one, two = (sentence_folder(tmp_path / name, pico_cache, 0) for name in ("one", "two"))
    (two / "2_Dense" / "model.safetensors").rename(two / "2_Dense" / "pytorch_model.bin")
    assert "pytorch_model.bin, which is not read" in problems(one, two)[0]


def test_a_transformer_saved_with_a_head_is_read_without(pico_cache: Path, tmp_path: Path) -> None:
    one, two = (sentence_folder(tmp_path / name, pico_cache, n) for n, name in enumerate(("one", "two")))
    state = load_file(two / "model.safetensors")
    named = {f"bert.{name}": value for name, value in state.items()} | {"cls.predictions.bias": torch.zeros(7)}
    save_file(named, two / "model.safetensors", metadata={"format": "pt"})
    edit(two / "config.json", architectures=["BertForMaskedLM"])
    merged = merge_into(tmp_path / "merged", [two, one], Simple())
    assert json.loads((merged / "config.json").read_text())["architectures"] == ["BertModel"]
    for name, value in load_file(merged / "model.safetensors").items():
        torch.testing.assert_close(value, (state[name] + load_file(one / "model.safetensors")[name]) / 2)


def test_with_heads_apart_other_models_have_no_modules(pico_cache: Path, tmp_path: Path) -> None:
    one = sentence_folder(tmp_path / "one", pico_cache, 1)
    save_classifier(tmp_path / "two", pico_cache, 2)
    prepared = prepare_merge(MergeRequest([str(one), str(tmp_path / "two")], Simple(), heads="keep"))
    assert any("modules of one are left out" in note for note in prepared.agreement.notes)


def test_regmean_needs_statistics_of_the_transformer(pico_cache: Path, tmp_path: Path) -> None:
    one, two = (sentence_folder(tmp_path / name, pico_cache, n) for n, name in enumerate(("one", "two")))
    with pytest.raises(CheckpointError, match="has no gram statistics"):
        prepare_merge(MergeRequest([str(one), str(two)], RegMean()))
