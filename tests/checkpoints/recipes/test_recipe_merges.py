"""Merges by recipes, against closed forms in float64 over what another library reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forks import Forks
from huggingface_hub import ModelCard
from llama_models import merge, save_models, tensors_of, write
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from regmean_lab.checkpoints.merge import prepare_merge
from regmean_lab.checkpoints.output import checksums, fingerprint, write_output
from regmean_lab.checkpoints.recipe.reading import read_recipe
from regmean_lab.checkpoints.recipe.request import lost_models, request_of_recipe
from regmean_lab.command.recipes import recipe_arguments
from regmean_lab.models.headers import CheckpointError
from regmean_lab.statistics import FisherStatistics, GramStatistics, linear_layers, save_fisher, save_gram

Weights = Mapping[str, Tensor]
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), torch.float32, hidden=16)


@pytest.fixture(scope="module")
def weights(models: Path) -> dict[str, dict[str, Tensor]]:
    read = {name: tensors_of(models / name) for name in ("base", "a", "b", "c")}
    return {name: {key: value.double() for key, value in tensors.items()} for name, tensors in read.items()}


def close(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6, msg=name)


def refused(recipe: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(request_of_recipe(read_recipe(recipe)))
    return caught.value.problems


def layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else None


def test_linear(tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    text = (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 3}}\n- {model: b, parameters: {weight: -1}}"
    )
    found = merge(write(tmp_path / "r.yml", text, models))
    close(found, {name: (3 * value - weights["b"][name]) / 2 for name, value in weights["a"].items()})
    found = merge(write(tmp_path / "r.yml", f"{text}\nparameters: {{normalize: false}}", models))
    close(found, {name: 3 * value - weights["b"][name] for name, value in weights["a"].items()})


def test_gradients_over_depth_and_filters(tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    text = """
merge_method: task_arithmetic
base_model: base
models:
- {model: a, parameters: {weight: [{filter: mlp, value: [0, 3]}, {filter: self_attn, value: 0.5}, {value: 1}]}}
- {model: b, parameters: {weight: [1, 0, 1]}}
parameters: {lambda: 0.5}
"""
    expected = {}
    for name, base in weights["base"].items():
        number = layer(name)
        depth = 0.0 if number is None else number / 3
        first = 3 * depth if "mlp" in name else 0.5 if "self_attn" in name else 1.0
        second = abs(1 - 2 * depth)
        change = first * (weights["a"][name] - base) + second * (weights["b"][name] - base)
        expected[name] = base + 0.5 * change
    close(merge(write(tmp_path / "r.yml", text, models)), expected)


@pytest.mark.parametrize("weight", [-1, 1.5])
def test_one_task_vector(tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]], weight: float) -> None:
    text = f"merge_method: task_arithmetic\nbase_model: base\nmodels: [{{model: a, parameters: {{weight: {weight}}}}}]"
    found = merge(write(tmp_path / "r.yml", text, models))
    close(found, {name: base + weight * (weights["a"][name] - base) for name, base in weights["base"].items()})


def test_slerp_has_another_place_in_each_layer(
    tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]]
) -> None:
    text = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: [0, 1]}"
    found = merge(write(tmp_path / "r.yml", text, models))
    for name, one in weights["a"].items():
        number, other = layer(name), weights["b"][name]
        share = 0.0 if number is None else number / 3
        cosine = (one * other).sum() / (one.norm() * other.norm())
        angle = cosine.clamp(-1, 1).arccos()
        expected = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin()
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6)


def trimmed(change: Tensor, density: float) -> Tensor:
    count = max(1, -int(-density * change.numel() // 1))
    threshold = change.abs().flatten().sort(descending=True).values[count - 1]
    return torch.where(change.abs() >= threshold, change, 0.0)


def elected(changes: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    weighted = torch.stack([weight * change for weight, change in zip(weights, changes, strict=True)])
    agrees = weighted * weighted.sum(0).sign() > 0
    total = (weighted * agrees).sum(0)
    if not normalize:
        return total
    parts = torch.tensor(weights, dtype=torch.float64).reshape(-1, *[1] * changes[0].dim()) * agrees
    divisor = parts.sum(0)
    return total / torch.where(divisor == 0, 1.0, divisor)


@pytest.mark.parametrize("normalize", [True, False])
def test_ties_with_a_density_and_a_weight_for_each_model(
    tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]], normalize: bool
) -> None:
    text = f"""
merge_method: ties
base_model: base
models:
- {{model: base}}
- {{model: a, parameters: {{density: 0.25, weight: 0.8}}}}
- {{model: b, parameters: {{density: 0.5, weight: -0.5}}}}
- {{model: c}}
parameters: {{normalize: {str(normalize).lower()}, weight: 0.3, density: 1}}
"""
    found = merge(write(tmp_path / "r.yml", text, models))
    for name, base in weights["base"].items():
        parts = [trimmed(weights[key][name] - base, density) for key, density in (("a", 0.25), ("b", 0.5), ("c", 1.0))]
        expected = base + elected(parts, [0.8, -0.5, 0.3], normalize)
        # A sum of opposite changes may have another sign in float32.
        differing = (found[name].double() - expected).abs() > 1e-5
        assert float(differing.double().mean()) <= 0.01, name


@pytest.mark.parametrize(
    "name", ["dare_linear", "dare_ties", "della_linear", "della", "breadcrumbs", "breadcrumbs_ties"]
)
def test_a_density_of_one_keeps_everything(
    tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]], name: str
) -> None:
    text = f"merge_method: {name}\nbase_model: base\nmodels: [a, b]\nparameters: {{density: 1, normalize: false}}"
    text = text.replace("[a, b]", "[{model: a}, {model: b}]")
    found = merge(write(tmp_path / "r.yml", text, models))
    for key, base in weights["base"].items():
        parts = [weights[model][key] - base for model in ("a", "b")]
        expected = base + (
            sum(parts) if name.endswith("linear") or name == "breadcrumbs" else elected(parts, [1, 1], False)
        )
        torch.testing.assert_close(found[key].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_random_dropping_keeps_the_share_and_the_mean(
    tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]], name: str
) -> None:
    text = f"merge_method: {name}\nbase_model: base\nmodels: [{{model: a}}]\nparameters: {{density: 0.6}}"
    found = merge(write(tmp_path / "r.yml", text, models))
    key = "model.layers.0.mlp.up_proj.weight"
    change, whole = found[key].double() - weights["base"][key], weights["a"][key] - weights["base"][key]
    kept = change.abs() > 1e-7
    assert float(kept.double().mean()) == pytest.approx(0.6, abs=0.08)
    assert float((change / whole)[kept].mean()) == pytest.approx(1 / 0.6, rel=0.1)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("multislerp", ""), ("nuslerp", ""), ("model_stock", ""), ("sce", ", select_topk: 0.5"), ("karcher", "")],
)
def test_methods_with_a_base_are_those_of_the_same_name(tmp_path: Path, models: Path, name: str, extra: str) -> None:
    """Each is checked by itself elsewhere; here, that the base reaches it."""
    text = f"merge_method: {name}\nbase_model: base\nmodels: [{{model: a}}, {{model: b}}]"
    text += f"\nparameters: {{eps: 1e-8{extra}}}"
    method = request_of_recipe(read_recipe(write(tmp_path / "r.yml", text, models)))
    assert (method.base is not None) == (name != "karcher")
    assert method.method.needs_base == (name != "karcher")
    assert len(method.checkpoints) == (3 if name == "karcher" else 2)
    assert len(merge(tmp_path / "r.yml")) == 39


def test_out_dtype(tmp_path: Path, models: Path) -> None:
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\ndtype: float32\nout_dtype: bfloat16"
    assert {value.dtype for value in merge(write(tmp_path / "r.yml", text, models)).values()} == {torch.bfloat16}


def test_a_filter_that_is_in_no_name_is_told(tmp_path: Path, models: Path) -> None:
    text = (
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [{filter: selfattn, value: 1}]}"
    )
    (problem,) = refused(write(tmp_path / "r.yml", text, models))
    assert "parameters: weight: filter 'selfattn' is in no tensor's name; there are names such as" in problem


def test_a_value_that_makes_no_sense_in_one_layer_is_told(tmp_path: Path, models: Path) -> None:
    text = "merge_method: fisher\nmodels: [{model: a}, {model: b}]\nparameters: {epsilon: [1e-6, -1]}"
    problems = refused(write(tmp_path / "r.yml", text, models))
    assert any("parameters: epsilon: expected a positive number, got -0." in problem for problem in problems)


def test_a_checkpoint_of_another_base_is_told_by_what_differs(tmp_path: Path, models: Path) -> None:
    other = save_models(tmp_path / "other", torch.float32, hidden=32, layers=2)
    text = f"merge_method: linear\nmodels: [{{model: a}}, {{model: {other / 'b'}}}]"
    (problem, *_) = refused(write(tmp_path / "r.yml", text, models))
    assert "hidden_size" in problem and "num_hidden_layers" in problem


def test_regmean_by_a_recipe_wants_statistics(tmp_path: Path, models: Path) -> None:
    text = "merge_method: regmean\nmodels: [{model: a}, {model: b}]\nparameters: {off_diagonal: 0.5}"
    problems = refused(write(tmp_path / "r.yml", text, models))
    assert any("statistics" in problem for problem in problems)


def write_merged(recipe: Path, folder: Path) -> dict[str, Any]:
    prepared = prepare_merge(request_of_recipe(read_recipe(recipe)))
    write_output(prepared, folder, {"name": prepared.request.method.name, **vars(prepared.request.method)})
    record: dict[str, Any] = json.loads((folder / "merge.json").read_text())
    return record


def test_what_the_folder_tells(tmp_path: Path, models: Path) -> None:
    text = """
merge_method: ties
base_model: base
models: [{model: a, parameters: {weight: [0, 1]}}, {model: b}]
parameters: {density: 0.5}
tokenizer_source: a
"""
    recipe = write(tmp_path / "r.yml", text, models)
    record = write_merged(recipe, tmp_path / "out")
    assert record["recipe"]["models"] == [{"weight": [0, 1]}, {}]
    assert record["command"] == "regmean-lab merge mergekit_config.yml"
    own = yaml.safe_load((tmp_path / "out" / "mergekit_config.yml").read_text())
    assert own == {**yaml.safe_load(text)}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- merge\n" in card and "merge_method: ties" in card
    assert str(models) not in card and str(models) not in json.dumps(record)


def test_another_weight_is_another_merge(tmp_path: Path, models: Path) -> None:
    prints = []
    for weight in ("[0, 1]", "[0, 2]", "[0, 1]"):
        text = f"merge_method: linear\nmodels: [{{model: a, parameters: {{weight: {weight}}}}}, {{model: b}}]"
        prepared = prepare_merge(request_of_recipe(read_recipe(write(tmp_path / "r.yml", text, models))))
        prints.append(fingerprint(prepared, {"name": "simple"}, checksums(prepared)))
    assert prints[0] == prints[2] != prints[1]


def test_chat_templates(tmp_path: Path, models: Path) -> None:
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nchat_template: "
    write_merged(write(tmp_path / "r.yml", f"{text}chatml", models), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    chat = [{"role": "user", "content": "hi"}]
    shown = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    write_merged(write(tmp_path / "r.yml", f"{text}'{{{{ messages }}}}'", models), tmp_path / "own")
    assert AutoTokenizer.from_pretrained(tmp_path / "own").chat_template == "{{ messages }}"
    (problem,) = refused(write(tmp_path / "r.yml", f"{text}vicuna", models))
    assert "chat_template: vicuna: expected auto, chatml, or the template itself" in problem


def test_the_template_of_most_models(tmp_path: Path) -> None:
    models = save_models(tmp_path / "models", torch.float32, hidden=16, layers=1)
    for name, template in (("a", "{{ 1 }}"), ("b", "{{ 2 }}"), ("c", "{{ 2 }}")):
        (models / name / "chat_template.jinja").write_text(template)
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}, {model: c}]\nchat_template: auto"
    write_merged(write(tmp_path / "r.yml", text, models), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ 2 }}"


def test_an_adapter_on_a_model_of_the_recipes_choice(
    tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]]
) -> None:
    """Its own configuration names another base."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(models / "b"), LoraConfig(r=2, target_modules=["q_proj"], lora_alpha=4)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "lora")
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "x/y"}))
    whole = {name: value.double() for name, value in model.merge_and_unload().state_dict().items()}
    text = f"merge_method: linear\nmodels: [{{model: a}}, {{model: {models / 'b'}+{tmp_path / 'lora'}}}]"
    found = merge(write(tmp_path / "r.yml", text, models))
    close(found, {name: (value + whole[name]) / 2 for name, value in weights["a"].items()})
    text = f"merge_method: linear\nmodels: [{{model: a}}, {{model: {models / 'b'}+{models / 'c'}}}]"
    assert "is a whole model; expected an adapter on" in refused(write(tmp_path / "r.yml", text, models))[0]


def test_arguments_of_the_command() -> None:
    assert recipe_arguments(["r.yml", "out", "trainer=cpu"]) == ["recipe='r.yml'", "output='out'", "trainer=cpu"]
    assert recipe_arguments(["a b/it's.yaml", "force=true"]) == ["recipe='a b/it\\'s.yaml'", "force=true"]
    assert recipe_arguments(["checkpoints=[a,b]", "output=x.yml"]) == ["checkpoints=[a,b]", "output=x.yml"]


@pytest.fixture
def command(forks: Forks, tmp_path: Path) -> Command:
    """Runs the verb; returns its exit status and what it printed."""
    return lambda *arguments: forks.run(["merge", *map(str, arguments), "trainer=cpu"], tmp_path / "log")


def test_the_command(command: Command, tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    recipe = write(tmp_path / "my recipe.yml", "merge_method: linear\nmodels: [{model: a}, {model: b}]", models)
    output = tmp_path / "out put"
    status, printed = command(recipe, output, f"paths.output_dir={tmp_path / 'jobs'}")
    assert status == 0, printed
    close(tensors_of(output), {name: (value + weights["b"][name]) / 2 for name, value in weights["a"].items()})


def test_a_merge_without_output_lies_in_a_folder_of_the_recipes_name(
    command: Command, tmp_path: Path, models: Path
) -> None:
    text = "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 0.5}"
    recipe = write(tmp_path / "two of us.yml", text, models)
    for _ in range(2):  # the second time it is found
        status, printed = command(recipe, f"paths.output_dir={tmp_path / 'jobs'}")
        assert status == 0, printed
    (folder,) = (tmp_path / "jobs" / "merge_checkpoints").iterdir()
    assert folder.name.startswith("two_of_us-") and (folder / "merged" / "mergekit_config.yml").is_file()
    assert "found the finished merge" in printed


def test_the_command_tells_what_is_wrong(command: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yml"
    recipe.write_text("merge_methode: linear\nmodels: [a, b]\n")
    status, printed = command(recipe, "base=x", f"paths.output_dir={tmp_path / 'jobs'}")
    assert status == 2
    assert f"{recipe}:1: merge_methode: unknown key; did you mean merge_method or" in printed
    assert "base: given beside a recipe" in printed
    assert printed.count("\n  - ") == 2


def with_tokens(models: Path, folder: Path, tokens: Sequence[str], seed: int) -> Path:
    """A copy of the base with more tokens, whose rows are drawn anew."""
    torch.manual_seed(seed)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(models / "base"),
        AutoTokenizer.from_pretrained(models / "a"),
    )
    tokenizer.add_tokens(list(tokens))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


EMBEDDING = "model.embed_tokens.weight"


def test_the_tokenizer_of_the_base(tmp_path: Path, models: Path) -> None:
    """Rows of tokens that the base lacks are left out."""
    more = with_tokens(models, tmp_path / "more", ["<x>", "<y>"], 1)
    base, text = tensors_of(models / "base"), "merge_method: task_arithmetic\nbase_model: base\nmodels: "
    listed = f"[{{model: {more}, parameters: {{weight: 0.5}}}}, {{model: a, parameters: {{weight: 0.25}}}}]"
    recipe = write(tmp_path / "r.yml", f"{text}{listed}\ntokenizer_source: base", models)
    write_merged(recipe, tmp_path / "out")
    found, own, other = tensors_of(tmp_path / "out"), tensors_of(more), tensors_of(models / "a")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(base[EMBEDDING])
    start = base[EMBEDDING]
    expected = start + 0.5 * (own[EMBEDDING][: len(start)] - start) + 0.25 * (other[EMBEDDING] - start)
    torch.testing.assert_close(found[EMBEDDING], expected, rtol=1e-5, atol=1e-6)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == len(start)


def test_the_tokenizer_of_a_model(tmp_path: Path, models: Path) -> None:
    more = with_tokens(models, tmp_path / "more", ["<x>"], 1)
    text = f"merge_method: linear\nmodels: [{{model: {more}}}, {{model: a}}]\ntokenizer_source: "
    rows = len(tensors_of(models / "a")[EMBEDDING])
    for source, expected in (("a", rows), (str(more), rows + 1), ("union", rows + 1)):
        found = merge(write(tmp_path / "r.yml", f"{text}{source}", models))
        assert len(found[EMBEDDING]) == expected, source
    (problem,) = refused(write(tmp_path / "r.yml", f"{text}c", models))
    assert "expected union, base or one of the models that are merged" in problem


def test_a_union_of_tokenizers_of_which_none_has_all(tmp_path: Path, models: Path) -> None:
    """Rows that one model alone has are taken from it as they are; the others are merged by token."""
    one = with_tokens(models, tmp_path / "one", ["<x>", "<both>"], 1)
    two = with_tokens(models, tmp_path / "two", ["<both>", "<y>", "<z>"], 2)
    text = f"merge_method: linear\nmodels: [{{model: {one}}}, {{model: {two}, parameters: {{weight: 3}}}}]"
    assert "lacks" in refused(write(tmp_path / "r.yml", text, models))[0]
    write_merged(write(tmp_path / "r.yml", f"{text}\ntokenizer_source: union", models), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    found, first, second = (tensors_of(folder) for folder in (tmp_path / "out", one, two))
    ids = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (one, two)]
    merged = tokenizer.get_vocab()
    assert set(merged) == {*ids[0], *ids[1]}
    for name in (EMBEDDING, "lm_head.weight"):
        assert len(found[name]) == len(merged)
        for token, row in merged.items():
            parts = [(1, first[name][ids[0][token]])] if token in ids[0] else []
            parts += [(3, second[name][ids[1][token]])] if token in ids[1] else []
            mean = sum(weight * part for weight, part in parts) / sum(weight for weight, _ in parts)
            torch.testing.assert_close(found[name][row], mean, rtol=1e-5, atol=1e-6)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(merged)
    assert tokenizer.tokenize("a<z>b")[-2:] == ["<z>", "b"]
    assert str(tmp_path) not in (tmp_path / "out" / "merge.json").read_text()


def statistics_beside(folder: Path, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random Gram matrices and Fisher information, published beside a model."""
    model, generator = AutoModelForCausalLM.from_pretrained(folder), torch.Generator().manual_seed(seed)
    grams = {}
    for name, module in linear_layers(model).items():
        rows = torch.randn(2 * module.in_features, module.in_features, generator=generator)
        grams[name] = rows.T @ rows / len(rows)
    fisher = {name: torch.rand(value.shape, generator=generator) for name, value in model.named_parameters()}
    same = {name: name for name in grams}
    counts = dict.fromkeys(grams, 100)
    save_gram(folder / "statistics" / "gram.safetensors", GramStatistics(grams, same, counts, 10, 1), {})
    own = {name: name for name in fisher}
    save_fisher(
        folder / "statistics" / "fisher.safetensors", FisherStatistics(fisher, own, 10, 1, "true", "single_label"), {}
    )
    return grams, fisher


def test_regmean_and_fisher_with_another_weight_in_each_layer(tmp_path: Path) -> None:
    models = save_models(tmp_path / "models", torch.float32, hidden=16, layers=2)
    read = {name: tensors_of(models / name) for name in ("a", "b")}
    statistics = {name: statistics_beside(models / name, seed) for seed, name in enumerate("ab")}
    text = "models: [{model: a, parameters: {weight: [1, 3]}}, {model: b}]\nmerge_method: "
    found = merge(write(tmp_path / "r.yml", f"{text}regmean\nparameters: {{off_diagonal: [1, 0.5]}}", models))
    for number, (weight, factor) in enumerate(((1, 1.0), (3, 0.5))):
        name = f"model.layers.{number}.mlp.up_proj"
        left, right = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, 40, dtype=torch.float64)
        for model, share in (("a", weight / (weight + 1)), ("b", 1 / (weight + 1))):
            gram = statistics[model][0][name].double()
            gram = factor * gram + (1 - factor) * gram.diagonal().diag()
            left += share * gram
            right += share * gram @ read[model][f"{name}.weight"].double().T
        expected = torch.linalg.solve(left, right).T
        torch.testing.assert_close(found[f"{name}.weight"].double(), expected, rtol=1e-4, atol=1e-5)
    found = merge(write(tmp_path / "r.yml", f"{text}fisher", models))
    name = "model.layers.1.self_attn.k_proj.weight"
    one, two = 3 * statistics["a"][1][name], statistics["b"][1][name]
    expected = (one * read["a"][name] + two * read["b"][name]) / (one + two)
    torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_the_card_names_the_models_of_the_hub(tmp_path: Path, models: Path) -> None:
    text = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]"
    prepared = prepare_merge(request_of_recipe(read_recipe(write(tmp_path / "r.yml", text, models))))
    assert prepared.base is not None
    for member, name in ((prepared.members[0], "owner/a@v1"), (prepared.base, "owner/base")):
        member.source = replace(member.source, reference=name, revision="0123abc")
    write_output(prepared, tmp_path / "out", {"name": "ties"})
    data = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert data["base_model"] == ["owner/a", "owner/base"]
    assert data["base_model_relation"] == "merge"
    assert data["tags"] == ["merge", "model-merging", "regmean_lab"]


def test_weights_that_add_up_to_nothing(tmp_path: Path, models: Path) -> None:
    text = (
        "merge_method: {}\nmodels: [{{model: a, parameters: {{weight: {}}}}}, {{model: b, parameters: {{weight: {}}}}}]"
    )
    for weights in (("1", "-1"), ("[1, 2]", "[-1, 2]")):
        problems = refused(write(tmp_path / "r.yml", text.format("linear", *weights), models))
        assert "parameters: weight: they add up to 0, by which the sum would be divided" in problems[0]
    problems = refused(write(tmp_path / "r.yml", text.format("regmean", 0, 0), models))
    assert problems[0].endswith("parameters: weight: all are 0")


def test_models_that_are_not_there_are_told_with_their_lines(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yml"
    recipe.write_text("merge_method: ties\nbase_model: ./base\nmodels:\n- model: ./first\n- model: ./second+./third\n")
    problems = lost_models(read_recipe(recipe))
    places = [problem.removeprefix(f"{recipe}:").split(":")[0] for problem in problems]
    assert sorted(places) == ["2", "4", "5", "5"]
    assert all("neither a folder nor the name of a model" in problem for problem in problems)


def test_steps_follow_any_method(tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    """Also one that needs no base by itself."""
    text = """
merge_method: linear
base_model: base
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
parameters: {followed_by: [{lines: {alpha: 0.25, beta: 0.75}}]}
"""
    expected = {}
    for name, base in weights["base"].items():
        number = layer(name)
        factor = 0.25 + 0.75 * (0.0 if number is None else number / 3)
        mean = (weights["a"][name] + weights["b"][name]) / 2
        expected[name] = base + factor * (mean - base)
    recipe = write(tmp_path / "r.yml", text, models)
    close(merge(recipe), expected)
    found = refused(write(tmp_path / "s.yml", text.replace("lines", "liness"), models))
    assert len(found) == 1 and "'liness' is no step after a merge; did you mean lines?" in found[0]
    found = refused(write(tmp_path / "t.yml", text.replace("base_model: base\n", ""), models))
    assert found == [
        "base: method.followed_by needs the model that the checkpoints were trained from, and none is given; set "
        "base=FOLDER_OR_NAME"
    ]


def test_gram_matrices_may_be_estimated(tmp_path: Path, models: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    models_of_both = "base_model: base\nmodels: [{model: a}, {model: b}]"
    text = f"merge_method: regmean\n{models_of_both}\nparameters: {{gram_from: estimated, off_diagonal: 1}}"
    found = merge(write(tmp_path / "r.yml", text, models))
    same = merge(
        write(tmp_path / "s.yml", "merge_method: actmat\nbase_model: base\nmodels: [{model: a}, {model: b}]", models)
    )
    assert all(torch.equal(value, same[name]) for name, value in found.items())
    name = "model.layers.1.mlp.down_proj.weight"
    changes = [weights[model][name] - weights["base"][name] for model in "ab"]
    grams = [change.T @ change for change in changes]
    right = sum(change @ gram for change, gram in zip(changes, grams, strict=True))
    assert isinstance(right, Tensor)
    expected = weights["base"][name] + right @ torch.linalg.pinv(grams[0] + grams[1], hermitian=True)
    torch.testing.assert_close(found[name].double(), expected, rtol=1e-4, atol=1e-5)
