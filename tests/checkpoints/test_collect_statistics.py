"""Statistics of models of every task, from text files to files that others can merge with."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from naive_grams import naive_grams
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2LMHeadModel,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints import collect_command
from regmean_lab.checkpoints.collect_command import RECORD_FILE, check, run
from regmean_lab.checkpoints.publishing import collect as collecting
from regmean_lab.checkpoints.publishing import measuring
from regmean_lab.checkpoints.publishing.card import BEGIN
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import ModelError, quiet_transformers
from regmean_lab.statistics import FisherFile, GradientGramFile, GramFile, StatisticsError
from regmean_lab.suites.base import DataError

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]
LABELS = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
Make = Callable[[str, str], Path]


def sentences(count: int = 60, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(4, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def make(pico_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a fresh folder of a pico model of an architecture with a head."""

    def make_model(architecture: str, task: str) -> Path:
        with quiet_transformers():
            source = pico_folder(architecture, pico_cache)
            torch.manual_seed(0)
            classes: dict[str, tuple[type[Any], dict[str, Any]]] = {
                "sequence": (AutoModelForSequenceClassification, LABELS),
                "token": (AutoModelForTokenClassification, {"num_labels": 3}),
                "seq2seq": (T5ForConditionalGeneration, {}),
                "causal": (GPT2LMHeadModel, {}),
            }
            auto_class, settings = classes[task]
            tokenizer = AutoTokenizer.from_pretrained(source)
            if tokenizer.pad_token is None:
                settings = {**settings, "pad_token_id": tokenizer.eos_token_id}
            model: PreTrainedModel = auto_class.from_pretrained(source, **settings)
            folder = tmp_path_factory.mktemp(f"{architecture}-{task}")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return make_model


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences()), encoding="utf-8")
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.jsonl"
    rows = [{"text": text, "label": ("neg", "pos")[number % 2]} for number, text in enumerate(sentences(20))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_classifiers_matrices_are_those_of_its_inputs(
    make: Make, compose: Callable[..., DictConfig], texts: Path, tmp_path: Path
) -> None:
    folder = make("bert", "sequence")
    run(compose(f"checkpoint={folder}", f"data={texts}"), tmp_path / "job")
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = [dict(tokenizer(text, return_tensors="pt")) for text in sentences()]
    file = GramFile(folder / "statistics" / "gram.safetensors")
    assert (file.form, file.examples) == ("packed", 60)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert file.layers == linear
    for layer, expected in naive_grams(model, linear, inputs).items():
        torch.testing.assert_close(file.matrix(layer).double(), expected, rtol=1e-4, atol=1e-5)
    assert file.rows["classifier"] == 60
    assert sum(len(arguments["input_ids"][0]) for arguments in inputs) in file.rows.values()
    record = json.loads((tmp_path / "job" / RECORD_FILE).read_text())
    assert record["done"] == {"gram": "collected"}
    assert BEGIN in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("moment", ["checksums are made", "the model is loaded", "texts are read"])
def test_a_model_that_changes_while_it_is_read(
    make: Make,
    compose: Callable[..., DictConfig],
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    moment: str,
) -> None:
    """Statistics of one state would be written with the checksums of another."""
    folder = tmp_path / "model"
    shutil.copytree(make("bert", "sequence"), folder)
    where, function = {
        "checksums are made": (collect_command, "identity_of"),
        "the model is loaded": (measuring, "load_module"),
        "texts are read": (collecting, "measure"),
    }[moment]
    original = getattr(where, function)

    def and_change(*arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named)
        (folder / name).write_bytes((folder / name).read_bytes())
        return found

    monkeypatch.setattr(where, function, and_change)
    config = compose(f"checkpoint={folder}", f"data={texts}", "kinds=[gram,tokens]", f"output={tmp_path / 'out'}")
    with pytest.raises(StatisticsError, match=f"{name}: changed while it was read, so that the statistics may be of"):
        run(config, tmp_path / "job")
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    monkeypatch.setattr(where, function, original)
    run(config, tmp_path / "job")
    assert (tmp_path / "out" / "statistics" / "gram.safetensors").is_file()


def test_a_language_model_counts_each_token_that_another_follows(
    make: Make, compose: Callable[..., DictConfig], texts: Path, tmp_path: Path
) -> None:
    folder = make("gpt2", "causal")
    run(compose(f"checkpoint={folder}", f"data={texts}", "form=full"), tmp_path / "job")
    with quiet_transformers():
        model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = [{"input_ids": tokenizer(text, return_tensors="pt")["input_ids"]} for text in sentences()]
    file = GramFile(folder / "statistics" / "gram.safetensors")
    tokens = sum(arguments["input_ids"].shape[1] - 1 for arguments in inputs)
    assert set(file.rows.values()) == {tokens}
    layers = ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj")
    for layer, expected in naive_grams(model, layers, inputs, slice(None, -1)).items():
        torch.testing.assert_close(file.matrix(layer).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_language_model_reads_conversations_by_its_chat_template(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder, data = make("gpt2", "causal"), tmp_path / "chats.jsonl"
    pairs = list(zip(sentences(20, 1), sentences(20, 2), strict=True))
    chats = [[{"role": "user", "content": one}, {"role": "assistant", "content": two}] for one, two in pairs]
    data.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")
    overrides = [f"checkpoint={folder}", f"data={data}", "form=full", "allow_few_rows=true"]
    with pytest.raises(DataError, match="the model's tokenizer has no chat template"):
        run(compose(*overrides), tmp_path / "job")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"
    tokenizer.save_pretrained(folder)
    run(compose(*overrides), tmp_path / "job")
    with quiet_transformers():
        model = GPT2LMHeadModel.from_pretrained(folder).eval()
    texts = [f"user: {one}<|endoftext|>assistant: {two}<|endoftext|>" for one, two in pairs]
    inputs = [{"input_ids": tokenizer(text, return_tensors="pt")["input_ids"]} for text in texts]
    file = GramFile(folder / "statistics" / "gram.safetensors")
    assert file.metadata["settings"]["text"] == ["messages"]
    layers = ("transformer.h.0.attn.c_attn", "lm_head")
    for layer, expected in naive_grams(model, layers, inputs, slice(None, -1)).items():
        torch.testing.assert_close(file.matrix(layer).double(), expected, rtol=1e-4, atol=1e-5)


def test_an_encoder_decoder_counts_what_each_side_reads(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder = make("t5", "seq2seq")
    pairs = list(zip(sentences(40, 1), sentences(40, 2), strict=True))
    data = tmp_path / "pairs.csv"
    data.write_text("document,summary\n" + "".join(f"{one},{two}\n" for one, two in pairs), encoding="utf-8")
    run(compose(f"checkpoint={folder}", f"data={data}"), tmp_path / "job")
    with quiet_transformers():
        model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = [
        {
            "input_ids": tokenizer(one, return_tensors="pt")["input_ids"],
            "labels": tokenizer(text_target=two, return_tensors="pt")["input_ids"],
        }
        for one, two in pairs
    ]
    file = GramFile(folder / "statistics" / "gram.safetensors")
    read = sum(arguments["input_ids"].shape[1] for arguments in inputs)
    written = sum(arguments["labels"].shape[1] for arguments in inputs)
    assert file.rows["encoder.block.0.layer.0.SelfAttention.q"] == read
    assert file.rows["decoder.block.0.layer.0.SelfAttention.q"] == written
    layers = ("encoder.block.0.layer.0.SelfAttention.q", "decoder.block.1.layer.1.EncDecAttention.q", "lm_head")
    for layer, expected in naive_grams(model, layers, inputs).items():
        torch.testing.assert_close(file.matrix(layer).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_tagger_reads_words_and_all_kinds_lie_side_by_side(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder, data = make("roberta", "token"), tmp_path / "words.json"
    rows = [{"tokens": text.split(), "ner_tags": [len(word) % 3 for word in text.split()]} for text in sentences(30)]
    data.write_text(json.dumps(rows), encoding="utf-8")
    sources = ["statistics.fisher.labels_from='true'", "statistics.gradient_gram.labels_from='true'"]
    overrides = [f"checkpoint={folder}", f"data={data}", "kinds=[gram,fisher,gradient_gram]"]
    # A matrix of gradients is as wide as its layer's output, and all tokens make its rows.
    run(compose(*overrides, *sources, "minimum_rows_per_column=1"), tmp_path / "job")
    statistics = folder / "statistics"
    assert GramFile(statistics / "gram.safetensors").examples == 30
    fisher = FisherFile(statistics / "fisher.safetensors")
    assert fisher.metadata["labels_from"] == "true"
    assert "classifier.weight" in fisher.parameters
    assert GradientGramFile(statistics / "gradient_gram.safetensors").form == "packed"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.count("| `statistics/") == 3
    assert all(f"method={method}" in text for method in ("regmean", "fisher", "mats"))
    with pytest.raises(ConfigurationError, match="expectation costs a pass for each token and label"):
        check(compose(*overrides))


def test_labels_change_what_needs_them_and_nothing_else(
    make: Make, compose: Callable[..., DictConfig], labelled: Path, tmp_path: Path
) -> None:
    folder = make("distilbert", "sequence")
    shared = [f"checkpoint={folder}", f"data={labelled}", "kinds=[fisher]", "card=false", "allow_few_rows=true"]
    diagonals = []
    for source, label in (
        *(("'true'", "neg"), ("'true'", "pos"), ("expectation", "pos"), ("expectation", "neg")),
        *(("batch_hard", "pos"), ("batch_hard", "neg"), ("batch_loss", "pos"), ("batch_loss", "neg")),
    ):
        rows = [{"text": text, "label": label} for text in sentences(20)]
        labelled.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        run(compose(*shared, f"statistics.fisher.labels_from={source}", "force=true"), tmp_path / "job")
        diagonals.append(FisherFile(folder / "statistics" / "fisher.safetensors").diagonal("classifier.weight"))
    neg, pos, expectation, again, hard, hard_again, one, other = diagonals
    assert not torch.allclose(neg, pos)
    assert torch.equal(expectation, again)
    assert torch.equal(hard, hard_again)
    assert not torch.allclose(one, other)
    labelled.write_text('{"text": "the sun"}\n')
    for source in ("'true'", "batch_loss"):
        with pytest.raises(DataError, match="label: which column holds the labels"):
            run(compose(*shared, f"statistics.fisher.labels_from={source}"), tmp_path / "job")
    run(compose(*shared, "statistics.fisher.labels_from=batch_hard"), tmp_path / "job")


def test_a_language_model_has_the_same_loss_in_batches_under_both_names(
    make: Make, compose: Callable[..., DictConfig], texts: Path, tmp_path: Path
) -> None:
    folder, diagonals = make("gpt2", "causal"), []
    shared = [f"checkpoint={folder}", f"data={texts}", "kinds=[fisher]", "card=false", "allow_few_rows=true"]
    for source in ("batch_mean", "batch_loss"):
        run(compose(*shared, f"statistics.fisher.labels_from={source}", "batch_size=100"), tmp_path / "job")
        diagonals.append(FisherFile(folder / "statistics" / "fisher.safetensors").diagonal("transformer.wte.weight"))
    torch.testing.assert_close(*diagonals, rtol=1e-4, atol=1e-12)
    assert float(diagonals[0].max()) > 0
    with pytest.raises(ConfigurationError, match="batch_hard takes one label for each text"):
        check(compose(*shared, "statistics.fisher.labels_from=batch_hard"))


def test_what_is_there_is_found_and_another_form_is_made_of_it(
    make: Make,
    compose: Callable[..., DictConfig],
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make("bert", "sequence")
    path = folder / "statistics" / "gram.safetensors"

    def done(*overrides: str) -> str:
        run(compose(f"checkpoint={folder}", f"data={texts}", *overrides), tmp_path / "job")
        state: str = json.loads((tmp_path / "job" / RECORD_FILE).read_text())["done"]["gram"]
        return state

    assert done() == "collected"
    before, matrix = path.read_bytes(), GramFile(path).matrix("classifier")
    assert done() == "found"
    assert path.read_bytes() == before
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(texts.read_bytes())
    assert done(f"data={moved}") == "found"
    with monkeypatch.context() as context:
        context.setattr("regmean_lab.checkpoints.publishing.collect.measure", None)
        assert done("form=full") == "written again"
        assert done("form=low_rank", "rank=3") == "written again"
    assert GramFile(path).metadata["rank"] == 3
    assert torch.equal(GramFile(path).matrix("classifier").diagonal(), matrix.diagonal())
    assert done("form=diagonal") == "collected"  # the low rank has lost what the matrices were
    assert done("form=diagonal", "statistics.gram.examples=40") == "collected"
    assert GramFile(path).examples == 40
    assert done("force=true", "statistics.gram.examples=40") == "collected"
    assert done("statistics.gram.examples=40") == "found"
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert done("statistics.gram.examples=40") == "collected"
    path.write_bytes(b"cut off")
    assert done("statistics.gram.examples=40") == "collected"


def test_too_few_rows_are_refused_before_the_pass_and_after_it(
    make: Make,
    compose: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, data = make("bert", "sequence"), tmp_path / "few.txt"
    data.write_text("\n".join(sentences(20)), encoding="utf-8")
    shared = [f"checkpoint={folder}", f"data={data}"]
    with monkeypatch.context() as context:
        context.setattr("regmean_lab.checkpoints.publishing.collect.measure", None)
        with pytest.raises(StatisticsError, match=r"nothing was measured(.|\n)*classifier: at most 20 rows for 16 col"):
            run(compose(*shared), tmp_path / "job")
        context.setattr("regmean_lab.checkpoints.publishing.collect._foreseen", lambda *arguments: [])
        with pytest.raises(TypeError):  # goes on to measure
            run(compose(*shared), tmp_path / "job")
    with monkeypatch.context() as context:
        context.setattr("regmean_lab.checkpoints.publishing.collect._foreseen", lambda *arguments: [])
        with pytest.raises(StatisticsError, match=r"nothing was written(.|\n)*classifier: 20 rows for 16 columns"):
            run(compose(*shared), tmp_path / "job")
    assert not (folder / "statistics").exists()
    often = tmp_path / "often.txt"
    often.write_text("\n".join(sentences(20) * 20), encoding="utf-8")
    with pytest.raises(StatisticsError, match=r"5\.0% of the texts are different(.|\n)*classifier: at most 20 rows"):
        run(compose(f"checkpoint={folder}", f"data={often}"), tmp_path / "job")
    assert not (folder / "statistics").exists()
    run(compose(*shared, "exclude_layers=[classifier,*.pooler.*]"), tmp_path / "job")
    layers = GramFile(folder / "statistics" / "gram.safetensors").layers
    assert layers and not {"classifier", "bert.pooler.dense"} & set(layers)
    assert "method.exclude_layers=[*.pooler.*,classifier]" in (folder / "README.md").read_text(encoding="utf-8")
    run(compose(*shared, "allow_few_rows=true"), tmp_path / "job")
    assert "classifier" in GramFile(folder / "statistics" / "gram.safetensors").layers
    with pytest.raises(ConfigurationError, match="exclude_layers: no linear layer matches head"):
        run(compose(*shared, "exclude_layers=[head]"), tmp_path / "job")


def test_fisher_information_of_few_rows_is_refused_before_it_is_measured(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = make("bert", "sequence"), tmp_path / "texts.txt"
    data.write_text("\n".join(sentences(40)), encoding="utf-8")
    shared = [f"checkpoint={folder}", f"data={data}", "kinds=[fisher]", "card=false"]
    with monkeypatch.context() as context:
        context.setattr("regmean_lab.checkpoints.publishing.collect.measure", None)
        with pytest.raises(StatisticsError, match=r"^fisher: (.|\n)*classifier: at most 31 rows for 16 columns"):
            run(compose(*shared, "statistics.fisher.examples=31"), tmp_path / "job")
    run(compose(*shared, "statistics.fisher.examples=32"), tmp_path / "job")
    assert FisherFile(folder / "statistics" / "fisher.safetensors").examples == 32


def test_a_model_that_is_no_folder_gets_its_statistics_in_the_jobs_folder(
    make: Make, compose: Callable[..., DictConfig], texts: Path, tmp_path: Path
) -> None:
    run(compose("checkpoint=pico:gpt2", f"data={texts}"), tmp_path / "job")
    assert (tmp_path / "job" / "statistics" / "gram.safetensors").is_file()
    assert (tmp_path / "job" / "README.md").is_file()
    run(compose("checkpoint=pico:gpt2", f"data={texts}", f"output={tmp_path / 'named'}"), tmp_path / "other")
    assert (tmp_path / "named" / "statistics" / "gram.safetensors").is_file()


def test_everything_wrong_with_a_configuration_is_told_at_once(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    wrong = ["form=zip", "kinds=[grams]", "batch_size=0", "text=[a,b,c]", "statistics.gram.generation=true"]
    wrong += ["trainer.devices=2", "blocks=true"]
    with pytest.raises(ConfigurationError) as raised:
        check(compose(f"checkpoint={tmp_path / 'none'}", f"data={tmp_path}/x.csv", *wrong, "statistics.storage=packed"))
    keys = [problem.partition(":")[0] for problem in raised.value.problems]
    expected = ["form", "kinds", "text", "batch_size", "blocks", "blocks", "statistics.gram.generation"]
    assert keys == [*expected, "statistics.storage", "data", "checkpoint"]
    with pytest.raises(ConfigurationError, match="rank: required with form=low_rank"):
        check(compose("checkpoint=pico:gpt2", "data=glue", "form=low_rank"))
    with pytest.raises(ConfigurationError, match=r"checkpoint: required(.|\n)*data: required"):
        check(compose())


def test_code_that_comes_with_a_model_is_never_run(
    make: Make, compose: Callable[..., DictConfig], texts: Path, tmp_path: Path
) -> None:
    folder = make("bert", "sequence")
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="of_its_own", auto_map={"AutoConfig": "code.Config"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigurationError, match=r"configuration or tokenizer of .* cannot be used"):
        check(compose(f"checkpoint={folder}", f"data={texts}"))
    assert not (tmp_path / "ran").exists()


def test_a_model_without_its_head_is_refused(
    make: Make, compose: Callable[..., DictConfig], texts: Path, tmp_path: Path
) -> None:
    folder = make("bert", "sequence")
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights of BertForSequenceClassification \(classifier\.weight\)"):
        run(compose(f"checkpoint={folder}", f"data={texts}"), tmp_path / "job")


def test_the_command_writes_nothing_outside_the_places_it_was_given(
    forks: Forks, make: Make, texts: Path, tmp_path: Path
) -> None:
    folder, work = make("distilbert", "sequence"), tmp_path / "work"
    work.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
    command = ["experiment=collect_statistics", f"checkpoint={folder}", f"data={texts}"]
    command += [f"paths.output_dir={tmp_path / 'out'}", "trainer=cpu", "trainer.progress_bar=false"]
    status, printed = forks.run(command, tmp_path / "log", work)
    assert status == 0, printed
    assert f"gram: collected, {folder}/statistics/gram.safetensors" in printed
    assert list(work.iterdir()) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["collect_statistics"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: mit\ntags:\n- regmean-statistics\n---\n# Mine\n")
    assert f"checkpoint={folder.name} data=texts.txt`" in text
    assert str(tmp_path) not in text


def published(folder: Path) -> bytes:
    """Everything that is published: cards, and names and metadata of the tensors."""
    files = [folder / "README.md", *sorted((folder / "statistics").iterdir())]
    return b"\n".join(path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("content", "overrides"),
    [
        ("{0}\n{1}\n{2}\n", ["header=false"]),
        ("{0}\n{1}\n{2}\n", ["header=true"]),
        ("{0},1\n{1},0\n{2},1\n", ["header=false", "text=column_1"]),
        ("{0},{1}\n{1},{2}\n{2},{0}\n", ["header=true", "text='{0}'"]),
        ("{0},label\n{1},1\n{2},0\n", ["text='{0}'", "kinds=[fisher]", "label=label"]),
    ],
)
def test_no_text_of_the_data_is_published(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path, content: str, overrides: list[str]
) -> None:
    folder, data = make("bert", "sequence"), tmp_path / "data.csv"
    texts = ["zebra crossing ahead", "quick brown fox", "lazy dog sleeps"]
    data.write_text(content.format(*texts), encoding="utf-8")
    shared = [f"checkpoint={folder}", f"data={data}", "allow_few_rows=true"]
    run(compose(*shared, *(part.format(*texts) for part in overrides)), tmp_path / "job")
    found = published(folder)
    assert b"column_1" in found
    for text in texts:
        for word in text.split():
            assert word.encode() not in found, word


def test_a_first_line_that_may_be_a_text_is_asked_about_and_nothing_written(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder, data = make("bert", "sequence"), tmp_path / "data.csv"
    data.write_text("zebra crossing ahead\nquick brown fox\n")
    with pytest.raises(DataError, match="set header=true, or header=false"):
        run(compose(f"checkpoint={folder}", f"data={data}", "allow_few_rows=true"), tmp_path / "job")
    assert not (folder / "statistics").exists()


def test_the_names_that_version_0_1_recorded_stay(
    make: Make, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder, data = make("bert", "sequence"), tmp_path / "data.csv"
    data.write_text("utterance,intent\n" + "".join(f"{text},1\n" for text in sentences(8)))
    run(compose(f"checkpoint={folder}", f"data={data}", "allow_few_rows=true", "text=utterance"), tmp_path / "job")
    metadata = GramFile(folder / "statistics" / "gram.safetensors").metadata
    assert metadata["settings"]["text"] == ["utterance"]
    assert metadata["collected"]["command"].endswith("text=utterance allow_few_rows=true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["header=maybe"], "header: expected auto, true or false, got 'maybe'"),
        (["header=1"], "header: expected auto, true or false, got 1"),
        (["header=true", "data={data}.jsonl"], r"header: is for files named \.csv and \.tsv, not for"),
        (["header=true"], r"header: is for files named \.csv and \.tsv, not for .*txt"),
    ],
)
def test_what_is_wrong_with_header(
    make: Make,
    compose: Callable[..., DictConfig],
    texts: Path,
    overrides: list[str],
    message: str,
) -> None:
    texts.with_suffix(".txt.jsonl").write_text("{}")
    folder = make("bert", "sequence")
    overrides = [part.format(data=texts) for part in overrides]
    with pytest.raises(ConfigurationError, match=message):
        check(compose(f"checkpoint={folder}", f"data={texts}", *overrides))
    check(compose(f"checkpoint={folder}", f"data={texts}", "header=false"))
