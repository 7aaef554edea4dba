"""Statistics of models whose labels are not needed, from texts alone; merges by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import merge_into, randomise, sentence_folder, write_json
from naive_grams import naive_grams
from omegaconf import DictConfig
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertModel,
    T5EncoderModel,
)

from regmean_lab.checkpoints.collect_command import check, run
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.merging.regmean import RegMean
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.models.sentence_layers import pooled
from regmean_lab.statistics import GramFile, WeightedGramFile
from regmean_lab.suites.base import DataError

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]
ROWS = [
    {"context": " ".join(WORDS[n % 5 : n % 5 + 3 + n % 3]), "choices": [WORDS[n % 12], f"the {WORDS[(n + 5) % 12]}"]}
    for n in range(40)
]
PAIRS = [(row["context"], " ".join(row["choices"])) for row in ROWS]


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """The same texts, as each model reads them."""
    tables = {
        "texts": [{"text": first} for first, _ in PAIRS],
        "apart": [{"query": first, "passage": second} for first, second in PAIRS],
        "qa": [{"question": first, "context": second} for first, second in PAIRS],
        "rerank": [{"query": first, "document": second} for first, second in PAIRS],
        "choices": ROWS,
    }
    paths = {name: tmp_path / f"{name}.jsonl" for name in tables}
    for name, rows in tables.items():
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


def save(model_class: Any, folder: Path, cache: Path, architecture: str = "bert", seed: int = 0, **config: Any) -> Path:
    with quiet_transformers():
        source = pico_folder(architecture, cache)
        torch.manual_seed(seed)
        model = model_class.from_pretrained(source, **config)
        randomise(model, seed)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


CASES: dict[str, tuple[Any, str, str, dict[str, Any]]] = {
    "encoder": (BertModel, "texts", "bert", {}),
    "encoder, two columns": (BertModel, "apart", "bert", {}),
    "masked_lm": (BertForMaskedLM, "texts", "bert", {}),
    "question_answering": (BertForQuestionAnswering, "qa", "bert", {}),
    "multiple_choice": (BertForMultipleChoice, "choices", "bert", {}),
    "reranker": (AutoModelForSequenceClassification, "rerank", "bert", {"num_labels": 1}),
    "encoder of t5": (T5EncoderModel, "texts", "t5", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_matrices_are_those_of_the_inputs(
    pico_cache: Path, tmp_path: Path, compose: Callable[..., DictConfig], data: dict[str, Path], case: str
) -> None:
    model_class, form, architecture, settings = CASES[case]
    folder = save(model_class, tmp_path / "model", pico_cache, architecture, **settings)
    run(compose(f"checkpoint={folder}", f"data={data[form]}", "allow_few_rows=true"), tmp_path / "job")
    with quiet_transformers():
        model = model_class.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts: list[tuple[str, ...]] = [pair if form in ("qa", "rerank") else pair[:1] for pair in PAIRS]
    if form == "apart":
        texts = [(text,) for pair in PAIRS for text in pair]
    inputs = [dict(tokenizer(*text, return_tensors="pt")) for text in texts]
    if form == "choices":
        every = [tokenizer([row["context"]] * 2, row["choices"], padding=False) for row in ROWS]
        # One by one: transformers pads the choices of a question, and padding does not count.
        inputs = [
            {name: torch.tensor(values[number])[None, None] for name, values in encoded.items()}
            for encoded in every
            for number in range(2)
        ]
    file = GramFile(folder / "statistics" / "gram.safetensors")
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert file.layers == layers
    for layer, expected in naive_grams(model, layers, inputs).items():
        torch.testing.assert_close(file.matrix(layer).double(), expected, rtol=1e-4, atol=1e-5, msg=layer)


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_dense_modules_are_measured_and_merged(
    pico_cache: Path, tmp_path: Path, compose: Callable[..., DictConfig], data: dict[str, Path], inner: str
) -> None:
    folders = [sentence_folder(tmp_path / f"m{n}", pico_cache, n, inner) for n in range(2)]
    forms = ("texts", "apart")
    for folder, form in zip(folders, forms, strict=True):
        run(compose(f"checkpoint={folder}", f"data={data[form]}", "allow_few_rows=true"), tmp_path / f"job-{form}")
    weights, grams = [], []
    for folder, form in zip(folders, forms, strict=True):
        model = AutoModel.from_pretrained(folder / inner).double().eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / inner)
        texts = [pair[0] for pair in PAIRS] if form == "texts" else [text for pair in PAIRS for text in pair]
        with torch.no_grad():
            rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
        every = torch.stack(rows)
        grams.append(every.T @ every / len(every))
        file = GramFile(folder / "statistics" / "gram.safetensors")
        torch.testing.assert_close(file.matrix("2_Dense.linear").double(), grams[-1], rtol=1e-4, atol=1e-5)
        assert file.rows["2_Dense.linear"] == len(texts)
        weights.append(load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"].double())
    method = RegMean(off_diagonal=0.9)
    output = tmp_path / "merged"
    merge_into(output, folders, method)
    scaled = [0.9 * gram + 0.1 * torch.diag(gram.diagonal()) for gram in grams]
    right = sum(gram @ weight.T for gram, weight in zip(scaled, weights, strict=True))
    expected = torch.linalg.solve(sum(scaled), right).T  # type: ignore[arg-type]
    merged = load_file(output / "2_Dense" / "model.safetensors")
    torch.testing.assert_close(merged["linear.weight"].double(), expected, rtol=1e-3, atol=1e-4)
    transformer = load_file(output / "model.safetensors")
    own = [load_file(folder / inner / "model.safetensors") for folder in folders]
    layer = "encoder.layer.0.attention.self.query"
    files = [GramFile(folder / "statistics" / "gram.safetensors") for folder in folders]
    scaled = [file.matrix(layer).double() for file in files]
    scaled = [0.9 * gram + 0.1 * torch.diag(gram.diagonal()) for gram in scaled]
    right = sum(gram @ state[f"{layer}.weight"].double().T for gram, state in zip(scaled, own, strict=True))
    expected = torch.linalg.solve(sum(scaled), right).T  # type: ignore[arg-type]
    torch.testing.assert_close(transformer[f"{layer}.weight"].double(), expected, rtol=1e-3, atol=1e-4)
    excluded = RegMean(exclude_layers=["2_Dense.linear"])
    write_output(
        prepare_merge(MergeRequest([str(folder) for folder in folders], excluded)),
        tmp_path / "mean",
        {"name": "regmean"},
    )
    dense = load_file(tmp_path / "mean" / "2_Dense" / "model.safetensors")["linear.weight"]
    torch.testing.assert_close(dense.double(), (weights[0] + weights[1]) / 2)


def test_statistics_of_the_transformer_alone_average_the_modules(
    pico_cache: Path, tmp_path: Path, compose: Callable[..., DictConfig], data: dict[str, Path]
) -> None:
    folders = [sentence_folder(tmp_path / f"m{n}", pico_cache, n) for n in range(2)]
    for folder in folders:
        overrides = [f"checkpoint={folder}", f"data={data['texts']}", "allow_few_rows=true"]
        run(compose(*overrides, "exclude_layers=[2_Dense.linear]"), tmp_path / f"job-{folder.name}")
    prepared = prepare_merge(MergeRequest([str(folder) for folder in folders], RegMean()))
    assert any("2_Dense.linear: no statistics" in note for note in prepared.agreement.notes)
    write_output(prepared, tmp_path / "merged", {"name": "regmean"})
    dense = [load_file(path / "2_Dense" / "model.safetensors") for path in (*folders, tmp_path / "merged")]
    torch.testing.assert_close(dense[2]["linear.weight"], (dense[0]["linear.weight"] + dense[1]["linear.weight"]) / 2)


def test_what_cannot_be_measured_is_told_before_any_work(
    pico_cache: Path, tmp_path: Path, compose: Callable[..., DictConfig], data: dict[str, Path]
) -> None:
    folder = save(BertForQuestionAnswering, tmp_path / "model", pico_cache)
    with pytest.raises(ConfigurationError, match="kinds: fisher needs labels, and of question_answering models only"):
        check(compose(f"checkpoint={folder}", f"data={data['qa']}", "kinds=[gram,fisher]"))
    with pytest.raises(DataError, match=r"expected two columns for this model \(question and context\), got text"):
        run(compose(f"checkpoint={folder}", f"data={data['texts']}"), tmp_path / "job")
    choice = save(BertForMultipleChoice, tmp_path / "choice", pico_cache)
    with pytest.raises(DataError, match=r"context: expected a list of choices, found"):
        run(compose(f"checkpoint={choice}", f"data={data['qa']}", "text=[question,context]"), tmp_path / "job")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "architectures": ["BertForNextSentencePrediction"]})
    with pytest.raises(ConfigurationError, match=r"BertForNextSentencePrediction.*question_answering, multiple_choice"):
        check(compose(f"checkpoint={folder}", f"data={data['qa']}"))


@pytest.mark.parametrize("left", [False, True])
def test_poolings_are_those_of_a_loop(left: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    mask = torch.zeros(3, 5, dtype=torch.long)
    for row, length in enumerate((5, 2, 3)):
        mask[row, 5 - length if left else 0 : 5 if left else length] = 1
    modes = ["cls", "max", "mean", "mean_sqrt_len_tokens", "lasttoken"]
    expected = []
    for row in range(3):
        real = tokens[row][mask[row] == 1]
        expected.append(
            torch.cat([real[0], real.max(0).values, real.mean(0), real.sum(0) / len(real) ** 0.5, real[-1]])
        )
    torch.testing.assert_close(pooled(tokens, mask, modes), torch.stack(expected))


def test_loss_weighted_matrices_need_no_labels_either(
    pico_cache: Path, tmp_path: Path, compose: Callable[..., DictConfig], data: dict[str, Path]
) -> None:
    folder = save(BertForQuestionAnswering, tmp_path / "model", pico_cache)
    settings = ["kinds=[weighted_gram]", "allow_few_rows=true", "statistics.weighted_gram.plain_share=1"]
    run(compose(f"checkpoint={folder}", f"data={data['qa']}", "allow_few_rows=true"), tmp_path / "gram")
    run(compose(f"checkpoint={folder}", f"data={data['qa']}", *settings), tmp_path / "weighted")
    plain = GramFile(folder / "statistics" / "gram.safetensors")
    with WeightedGramFile(folder / "statistics" / "weighted_gram.safetensors") as file:
        assert file.layers == plain.layers
        for layer in file.layers:  # κ = 1 is the plain matrix
            torch.testing.assert_close(file.matrix(layer), plain.matrix(layer), rtol=1e-4, atol=1e-6)
            assert file.metadata["effective_rows"][layer] <= file.rows[layer]
        assert min(file.metadata["effective_rows"].values()) < 0.9 * max(file.rows.values())
