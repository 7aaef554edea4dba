"""Methods that read text, in merges of folders: pseudo-text from published counts of tokens, or a file of texts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import LABELS, merge_into, randomise, save_classifier, tensors_of, tokenizer_of
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForTokenClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints.heads import load_with_head
from regmean_lab.checkpoints.lora.request import AdapterRequest
from regmean_lab.checkpoints.members import read_member
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.published_statistics import published_beside
from regmean_lab.checkpoints.recipe.reading import read_recipe
from regmean_lab.checkpoints.recipe.request import request_of_recipe
from regmean_lab.checkpoints.sources import Source
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.merging.simple import Simple
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pico import pico_folder
from regmean_lab.statistics import TokensConfig, TokensFile, TokenStatistics, collect_tokens, save_tokens
from regmean_lab.suites.pseudo_text import pseudo_loader, vocabulary_of

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]
SEQUENTIAL = RegMeanSequential(text="pseudo", start="simple", examples=40)
PLUSPLUS = RegMeanPlusPlus(text="pseudo", examples=40)
METHODS = [PLUSPLUS, SEQUENTIAL]


def sentences(seed: int, count: int = 60) -> list[str]:
    draw = random.Random(seed)
    words = WORDS[:6] if seed % 2 else WORDS[6:]
    return [" ".join(draw.choices(words, k=draw.randint(3, 9))) for _ in range(count)]


def publish(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Counts of tokens beside a model, as its owner publishes them."""
    tokenizer = tokenizer_of(folder)
    ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in sentences(seed)]
    counted = collect_tokens([{"input_ids": row} for row in ids], vocabulary_of(tokenizer), TokensConfig(**settings))
    path = folder / "statistics" / "tokens.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_tokens(path, counted, {"settings": {"minimum_count": 5}})
    return path


@pytest.fixture
def folders(tmp_path: Path, pico_cache: Path) -> list[Path]:
    found = [tmp_path / name for name in "ab"]
    for seed, folder in enumerate(found):
        save_classifier(folder, pico_cache, seed)
        publish(folder, seed)
    return found


def problems(folders: list[Path], method: MergeMethod, **settings: Any) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest([str(folder) for folder in folders], method, **settings))
    return caught.value.problems


def inputs_of(model: PreTrainedModel, batches: Any, forward: Callable[[Any], Any]) -> dict[str, torch.Tensor]:
    """What each linear layer is fed at real tokens, all batches together, float64."""
    rows: dict[str, list[torch.Tensor]] = {}
    mask: list[torch.Tensor] = []

    def hook(name: str) -> Any:
        def keep(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            fed = args[0]
            real = fed[mask[0].bool()] if fed.shape[:2] == mask[0].shape else fed.flatten(0, -2)
            rows.setdefault(name, []).append(real.double())

        return keep

    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    handles = [part.register_forward_pre_hook(hook(name)) for name, part in layers.items()]
    with torch.no_grad():
        for batch in batches:
            mask[:] = [batch["attention_mask"]]
            forward(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in rows.items()}


def test_the_merge_is_what_its_own_inputs_on_pseudo_text_say(folders: list[Path], tmp_path: Path) -> None:
    """A regression mean of each layer, solved again from what the finished model is fed."""
    output = merge_into(tmp_path / "merged", folders, PLUSPLUS)
    merged, tokenizer = AutoModelForSequenceClassification.from_pretrained(output).eval(), tokenizer_of(folders[0])
    members = [AutoModelForSequenceClassification.from_pretrained(folder).eval() for folder in folders]
    fed = []
    for folder in folders:
        counts = TokensFile(folder / "statistics" / "tokens.safetensors").counts
        batches = list(pseudo_loader(counts, tokenizer, seed=0, examples=40, batch_size=8))
        fed.append(inputs_of(merged, batches, lambda batch: merged(**batch)))
    assert set(fed[0]) == {name for name, part in merged.named_modules() if isinstance(part, nn.Linear)}
    for name in fed[0]:
        grams = [0.9 * rows[name].T @ rows[name] / len(rows[name]) for rows in fed]
        grams = [gram + gram.diagonal().diag() * (1 / 0.9 - 1) for gram in grams]
        weights = [member.get_submodule(name).weight.detach().double().T for member in members]
        mean = (weights[0] + weights[1]) / 2
        right = sum(gram @ (weight - mean) for gram, weight in zip(grams, weights, strict=True))
        expected = mean + torch.linalg.pinv(grams[0] + grams[1], hermitian=True) @ right
        torch.testing.assert_close(
            merged.get_submodule(name).weight.detach().double().T, expected, rtol=2e-3, atol=2e-3
        )


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_folders_with_weights_and_counts_alone_give_a_model_that_classifies(
    method: Any, folders: list[Path], tmp_path: Path
) -> None:
    output = merge_into(tmp_path / "merged", folders, method)
    model = AutoModelForSequenceClassification.from_pretrained(output)
    tokens = AutoTokenizer.from_pretrained(output)("the river was happy", return_tensors="pt")
    assert model.config.id2label[int(model(**tokens).logits.argmax())] in LABELS
    record = json.loads((output / "merge.json").read_text())
    assert record["method"]["name"] == method.name
    counted = [len(TokensFile(folder / "statistics" / "tokens.safetensors").counts.tokens) for folder in folders]
    assert [note for note in record["notes"] if "pseudo-text of so few" in note] == [
        f"{name}: counts of {count} tokens; pseudo-text of so few can bring a merge further from its members than "
        "their mean is"
        for name, count in zip("ab", counted, strict=True)
    ]
    again = tensors_of(merge_into(tmp_path / "again", folders, method))
    different = tensors_of(merge_into(tmp_path / "other", folders, replace(method, text_seed=1)))
    backwards = tensors_of(merge_into(tmp_path / "backwards", folders[::-1], method))
    for name, value in tensors_of(output).items():
        assert torch.equal(value, again[name])
        torch.testing.assert_close(value, backwards[name], rtol=1e-3, atol=1e-3)
    assert any(not torch.equal(value, different[name]) for name, value in again.items())


def test_pseudo_text_brings_the_merge_nearer_to_its_members(folders: list[Path], tmp_path: Path) -> None:
    """On the members' own sentences, which nobody has shown: outputs of a mean are further away."""
    outputs = {
        "simple": merge_into(tmp_path / "simple", folders, Simple()),
        "pseudo": merge_into(tmp_path / "pseudo", folders, replace(SEQUENTIAL, examples=400)),
    }
    distances = {}
    for name, output in outputs.items():
        merged, total = AutoModelForSequenceClassification.from_pretrained(output).eval(), 0.0
        for seed, folder in enumerate(folders):
            member = AutoModelForSequenceClassification.from_pretrained(folder).eval()
            batch = tokenizer_of(folder)(sentences(seed), padding=True, return_tensors="pt")
            with torch.no_grad():
                total += float((merged(**batch).logits - member(**batch).logits).square().mean())
        distances[name] = total
    assert distances["pseudo"] < 0.8 * distances["simple"]


def test_heads_stay_each_members_own(folders: list[Path], tmp_path: Path, pico_cache: Path) -> None:
    save_classifier(tmp_path / "other", pico_cache, 4, labels=("x", "y"))
    publish(tmp_path / "other", 4)
    folders = [*folders, tmp_path / "other"]
    output = merge_into(tmp_path / "merged", folders, SEQUENTIAL, heads="keep")
    for folder in folders:
        own = AutoModelForSequenceClassification.from_pretrained(folder)
        found: Any = load_with_head(output, folder.name)
        assert torch.equal(found.classifier.weight, own.classifier.weight)
        name = "bert.encoder.layer.0.output.dense.weight"
        assert not torch.equal(found.get_parameter(name), own.get_parameter(name))


def test_heads_of_no_use_are_dropped(folders: list[Path], tmp_path: Path) -> None:
    output = merge_into(tmp_path / "merged", folders, SEQUENTIAL, heads="drop")
    assert not any("classifier" in name for name in tensors_of(output))
    assert all(bool(torch.isfinite(value).all()) for value in tensors_of(output).values())


def test_a_member_with_more_tokens_reads_in_the_merged_vocabulary(
    tmp_path: Path, pico_cache: Path, folders: list[Path]
) -> None:
    save_classifier(tmp_path / "more", pico_cache, 3, tokens=["zyx", "qqq"])
    publish(tmp_path / "more", 3)
    output = merge_into(tmp_path / "merged", [folders[0], tmp_path / "more"], SEQUENTIAL)
    assert "zyx" in tokenizer_of(output).get_vocab()


FORMS: dict[str, tuple[str, Any]] = {
    "tagger": ("bert", BertForTokenClassification),
    "answers": ("bert", BertForQuestionAnswering),
    "t5": ("t5", T5ForConditionalGeneration),
    "gpt2": ("gpt2", GPT2LMHeadModel),
}


def two_of_a_form(kind: str, root: Path, cache: Path) -> tuple[Any, list[Path]]:
    """A class of models, and two folders with weights and counts of tokens."""
    architecture, model_class = FORMS[kind]
    source = pico_folder(architecture, cache)
    folders = [root / name for name in "ab"]
    for seed, folder in enumerate(folders):
        randomise(model_class(AutoConfig.from_pretrained(source)), seed).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        publish(folder, seed)
    return model_class, folders


@pytest.mark.parametrize("kind", ["tagger", "t5", "gpt2"])
def test_taggers_and_models_that_write(kind: str, tmp_path: Path, pico_cache: Path) -> None:
    model_class, folders = two_of_a_form(kind, tmp_path, pico_cache)
    output = merge_into(tmp_path / "merged", folders, replace(SEQUENTIAL, examples=12))
    before, after = tensors_of(merge_into(tmp_path / "mean", folders, Simple())), tensors_of(output)
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    layers = {"tagger": 13, "t5": 20, "gpt2": 8}
    assert len({name.rpartition(".")[0] for name in changed}) >= layers[kind]
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    model_class.from_pretrained(output)


def test_a_file_of_texts_is_read_by_every_member(folders: list[Path], tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text\n" + "\n".join(sentences(5)), encoding="utf-8")
    method = RegMeanSequential(text=str(texts), start="simple", examples=30)
    output = merge_into(tmp_path / "merged", folders, method)
    assert "and the texts of texts.csv" in (output / "README.md").read_text(encoding="utf-8")
    record = json.loads((output / "merge.json").read_text())
    texts.write_text("text\n" + "\n".join(sentences(6)), encoding="utf-8")
    other = merge_into(tmp_path / "merged", folders, method)
    assert json.loads((other / "merge.json").read_text())["fingerprint"] != record["fingerprint"]


@pytest.mark.parametrize(
    "method", [RegMeanPlusPlus(), RegMeanSequential(start="simple")], ids=lambda method: method.name
)
def test_own_text_is_refused(method: MergeMethod, folders: list[Path]) -> None:
    assert problems(folders, method) == [
        f"method.text: {method.name} reads text while it merges, and checkpoints come without their own; expected "
        "pseudo, drawn from the counts of tokens that were published beside them (collect kinds=[tokens]), or a file "
        "of texts"
    ]


def test_all_members_without_counts_are_named_with_the_command(folders: list[Path]) -> None:
    for folder in folders:
        (folder / "statistics" / "tokens.safetensors").unlink()
    found = problems(folders, SEQUENTIAL)
    assert found == [
        f"{name} has no tokens statistics, which regmean_sequential needs. Whoever has its data makes them: python -m "
        f"regmean_lab experiment=collect_statistics checkpoint={folder} kinds=[tokens] data=FILE"
        for name, folder in zip("ab", folders, strict=True)
    ]
    (without, _) = problems(folders, RegMeanSequential(text="pseudo"))
    ways = "method.start=simple, or method.gram_from=auto and base=FOLDER_OR_NAME"
    assert without.endswith(f"kinds=[gram,tokens] data=FILE; without them: {ways}")


def test_counts_of_another_tokenizer_are_refused_by_name_and_number(
    folders: list[Path], tmp_path: Path, pico_cache: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pico_folder("gpt2", pico_cache))
    ids = [{"input_ids": torch.tensor([tokenizer(text)["input_ids"]])} for text in sentences(1)]
    path = folders[1] / "statistics" / "tokens.safetensors"
    save_tokens(path, collect_tokens(ids, vocabulary_of(tokenizer)), {})
    (found,) = problems(folders, SEQUENTIAL)
    assert found.startswith(f"{path}: counted with another tokenizer (BPE, ")
    assert "which marks words otherwise (Ġ, and ##); count again with the model's" in found


def test_other_refusals_come_all_at_once(folders: list[Path], tmp_path: Path) -> None:
    missing = tmp_path / "none.txt"
    assert problems(folders, RegMeanPlusPlus(text=str(missing))) == [f"method.text: no such file: {missing}"]
    (tmp_path / "empty.txt").write_text("\n\n")
    assert problems(folders, RegMeanPlusPlus(text=str(tmp_path / "empty.txt")))
    path = folders[0] / "statistics" / "tokens.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert "are not within the" in problems(folders, SEQUENTIAL)[0]


def test_a_recipe_may_ask_for_pseudo_text_but_not_with_settings_of_single_tensors(
    folders: list[Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    models = "".join(f"  - model: {folder}\n" for folder in folders)
    text = f"merge_method: regmean_plusplus\nmodels:\n{models}parameters:\n  text: pseudo\n"
    recipe.write_text(text)
    assert prepare_merge(request_of_recipe(read_recipe(recipe))).text is not None
    recipe.write_text(f"{text}  off_diagonal:\n  - filter: attention\n    value: 0.5\n  - value: 0.9\n")
    with pytest.raises(CheckpointError, match="refits layer after layer, all with the same settings: not in a recipe"):
        prepare_merge(request_of_recipe(read_recipe(recipe)))


def test_an_adapter_is_extracted_afterwards(folders: list[Path]) -> None:
    found = problems(folders, PLUSPLUS, adapter=AdapterRequest(4), base=str(folders[0]))
    assert found[0].startswith("adapter.rank: regmean_plusplus writes whole models; merge without it, and then extract")


def test_counts_beside_a_member_of_a_suite_are_checked_against_its_tokenizer(folders: list[Path]) -> None:
    member = read_member(Source("a", str(folders[0]), folders[0]), None)
    assert published_beside(member).whole.keys() == {"tokens"}
    path = folders[0] / "statistics" / "tokens.safetensors"
    counted = TokensFile(path)
    other = replace(counted.counts, tokens=(*counted.counts.tokens[1:], "other"))
    save_tokens(path, TokenStatistics(other, 60, 60, {}), {"settings": {}})
    (problem,) = published_beside(member).problems
    assert problem == f"{path}: counts of 'other', which the tokenizer they name does not have"
