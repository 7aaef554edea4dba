"""Recipes that are right, and everything that can be wrong with one: key, line, nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmean_lab.checkpoints.recipe.methods import KNOWN, method_of
from regmean_lab.checkpoints.recipe.reading import Recipe, Reference, read_recipe
from regmean_lab.checkpoints.recipe.translation import translated
from regmean_lab.merging import method_types
from regmean_lab.merging.depth import depths
from regmean_lab.models.headers import CheckpointError

GOOD = """\
merge_method: ties
base_model: base
models:
  - model: base
  - model: a
    parameters:
      density: 0.5
      weight: [0, 1]
  - model: owner/b@v1+owner/lora
    parameters: {weight: -2}
parameters:
  normalize: true
  lambda: 1e-1
dtype: float32
out_dtype: bfloat16
"""


def read(folder: Path, text: str) -> Recipe:
    (folder / "r.yml").write_text(text, encoding="utf-8")
    return read_recipe(folder / "r.yml")


def refused(folder: Path, text: str) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        read(folder, text)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_a_recipe_is_read(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    assert recipe.method == method_of("ties")
    assert recipe.base == Reference("base")
    assert [model.reference for model in recipe.models] == [Reference("a"), Reference("owner/b@v1", "owner/lora")]
    assert recipe.dtype == "bfloat16"
    assert recipe.settings["lambda"].at("any", 0) == 0.1


def test_models_may_be_names_alone(tmp_path: Path) -> None:
    recipe = read(tmp_path, "merge_method: linear\nmodels: [a, b]\n")
    assert [model.reference.model for model in recipe.models] == ["a", "b"]


def test_references_as_mergekit_writes_them_out(tmp_path: Path) -> None:
    text = (
        "merge_method: linear\nmodels:\n- model:\n    model: {path: owner/a, revision: v2}\n    lora: {path: l}\n- b\n"
    )
    assert read(tmp_path, text).models[0].reference == Reference("owner/a@v2", "l")


def test_a_folder_with_a_plus_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a+b").mkdir()
    recipe = read(tmp_path, f"merge_method: linear\nmodels: ['{tmp_path}/a+b', c]\n")
    assert recipe.models[0].reference == Reference(f"{tmp_path}/a+b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("merge_metod: ties\nmodels: [a]\n", "r.yml:1: merge_metod: unknown key; did you mean merge_method?"),
        ("merge_method: tise\nmodels: [a]\n", "r.yml:1: merge_method: tise: unknown method; did you mean ties"),
        (
            "merge_method: linear\nmodels:\n- model: a\n  weight: 1\n",
            "r.yml:4: models: weight: unknown key; it belongs",
        ),
        (
            "merge_method: linear\nmodels:\n- model: a\n  parameters:\n    wieght: 1\n",
            "r.yml:5: parameters: wieght: linear has no such parameter; did you mean weight",
        ),
        (
            "merge_method: linear\nmodels:\n- model: a\n  parameters: {density: 1}\n",
            "r.yml:4: parameters: density: linear has no such parameter",
        ),
        ("merge_method: passthrough\nmodels: [a]\n", "r.yml:1: merge_method: passthrough is not supported"),
        ("merge_method: linear\nslices: []\n", "r.yml:2: slices: not supported: layers of models"),
        ("merge_method: linear\nmodules: {}\n", "r.yml:2: modules: not supported"),
        ("base_model: b\nexperts: []\ngate_mode: hidden\n", "r.yml:2: experts: not supported: mixtures of experts"),
        ("merge_method: ties\nmodels: [a]\n", "r.yml:2: base_model: ties needs one, and none is given"),
        ("merge_method: linear\nbase_model: c\nmodels: [a, b]\n", "r.yml:2: base_model: linear merges the models that"),
        ("merge_method: slerp\nbase_model: a\nmodels: [a, b, c]\n", "r.yml:3: models: slerp merges base_model and one"),
        ("merge_method: nuslerp\nmodels: [a, b, c]\n", "r.yml:2: models: nuslerp needs 2, got 3"),
        ("merge_method: linear\nmodels: [a, b]\ndtype: float8\n", "r.yml:3: dtype: expected one of float32, bfloat16"),
        ("merge_method: linear\nmodels: [a, b]\nmodels: [c]\n", "r.yml:3: models: given twice, first in line 2"),
        ("merge_method: linear\nmodels: [a, b\n", "r.yml:3: not plain YAML"),
        ("- a\n", "r.yml:1: expected keys such as merge_method and models, got a list"),
        ("", "r.yml: empty"),
        ("merge_method: linear\nmodels: a\n", "r.yml:2: models: expected a list of models, got 'a'"),
        ("merge_method: linear\n", "r.yml:1: models: required, but not given"),
        (
            "merge_method: linear\nmodels: [a, b]\ntokenizer_source: base\n",
            "r.yml:3: tokenizer_source: base, but there",
        ),
        (
            "merge_method: linear\nmodels: [a, b]\ntokenizer:\n  source: union\n  tokens: {}\n",
            "r.yml:5: tokenizer: tokens: not supported",
        ),
        (
            "merge_method: linear\nmodels: [a, b]\nparameters:\n  normalize: maybe\n",
            "r.yml:4: parameters: normalize: expected true or false, got 'maybe'",
        ),
        (
            "merge_method: linear\nmodels: [a, b]\nparameters:\n  weight:\n  - fliter: x\n    value: 1\n",
            "r.yml:5: parameters: weight: fliter: unknown key; did you mean filter?",
        ),
        (
            "merge_method: ties\nbase_model: b\nmodels: [a]\nparameters:\n  density: [0.5, 1.5]\n",
            "r.yml:5: parameters: density: expected a number from 0 to 1, got 1.5",
        ),
        (
            "merge_method: ties\nbase_model: b\nmodels:\n- model: a\n  parameters: {lambda: 2}\n",
            "r.yml:5: parameters: lambda: it is one for all models",
        ),
        (
            "merge_method: ties\nbase_model: b\nmodels: [a]\nparameters: {rescale: true}\n",
            "r.yml:4: parameters: rescale: expected False, anything else is not supported for ties",
        ),
        (
            "merge_method: fisher\nmodels: [a, b]\nparameters: {weight: -1}\n",
            "r.yml:3: parameters: weight: expected a number of at least 0, got -1",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    problems = refused(tmp_path, text)
    assert any(problem.startswith(expected) for problem in problems), problems


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "merge_method: ties\nbase_model: b\nmodle: 1\nmodels:\n- model: a\n  parameters: {dens: 1}\ndtype: x\n"
    assert [problem.split(":")[1] for problem in refused(tmp_path, text)] == ["3", "6", "7"]


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert refused(tmp_path, "\n".join(lines)) == ["r.yml: too large or without end, by its aliases"]


def test_python_objects_are_not_made(tmp_path: Path) -> None:
    for value in ("!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd ''", "!!python/object:os.x {}"):
        problem = refused(tmp_path, f"merge_method: {value}\nmodels: [a]\n")[0]
        assert problem.startswith("r.yml:1: ") and "python/" in problem


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("off_diagonal: 2", "parameters: off_diagonal: expected"),
        ("diagonal: 0.5", "parameters: diagonal: expected true or false, got 0.5"),
        ("regularization: x", "parameters: regularization: expected one of"),
    ],
)
def test_settings_of_our_methods_are_checked(tmp_path: Path, parameters: str, expected: str) -> None:
    recipe = read(tmp_path, f"merge_method: regmean\nmodels: [a, b]\nparameters:\n  {parameters}\n")
    _, _, problems = translated(recipe)
    assert problems[0].removeprefix(f"{recipe.path}:4: ").startswith(expected)


def test_our_methods_go_by_their_names(tmp_path: Path) -> None:
    text = "merge_method: regmean\nmodels:\n- {model: a, parameters: {weight: 3}}\n- model: b\n"
    recipe = read(tmp_path, text + "parameters: {off_diagonal: 0.5, exclude_layers: ['*.mlp.*', lm_head], weight: 1}\n")
    method, settings, problems = translated(recipe)
    assert problems == [] and settings is None
    assert method == method_types()["regmean"](
        off_diagonal=0.5, exclude_layers=["*.mlp.*", "lm_head"], coefficients=[0.75, 0.25]
    )


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_method_of_the_table_is_one_of_ours(name: str) -> None:
    known = method_of(name)
    assert known is not None
    settings = set(vars(method_types()[known.method]()))
    assert {*known.fixed, *known.shared.values(), *known.per_model.values()} - {"t"} <= settings


def test_depth_is_that_of_the_block_in_its_stack() -> None:
    names = ["embed", "encoder.block.0.w", "encoder.block.2.w", "encoder.block.1.w", "decoder.block.0.w", "head"]
    assert list(depths(names).values()) == [0.0, 0.0, 1.0, 0.5, 1.0, 0.0]


def test_gradients_and_filters(tmp_path: Path) -> None:
    text = "merge_method: linear\nmodels: [a, b]\nparameters:\n  weight:\n"
    text += "  - {filter: mlp, value: [0, 1, 4]}\n  - value: 7\n"
    setting = read(tmp_path, text).settings["weight"]
    assert [setting.at("x.mlp.y", depth) for depth in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 2.5, 4]
    assert setting.at("x.attention.y", 0.3) == 7


def test_whole_numbers(tmp_path: Path) -> None:
    text = "merge_method: karcher\nmodels: [a, b]\nparameters: {max_iter: 1e2, tol: 1e-9}\n"
    method, settings, problems = translated(read(tmp_path, text))
    assert problems == [] and settings is None
    assert method == method_types()["karcher"](iterations=100, tolerance=1e-9)
    recipe = read(tmp_path, text.replace("1e2", "[1, 10]"))
    _, settings, problems = translated(recipe)
    assert settings is not None and problems == []
    with pytest.raises(CheckpointError, match=r"r\.yml:3: parameters: max_iter: expected a whole number, got 5\.5"):
        settings.of(["x.0.w", "x.1.w", "x.2.w"])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("{scope: [model, parameter]}", "r.yml:4: parameters: scope: it is one for all tensors"),
        (
            "{scope: model, density: [0.2, 0.4]}",
            "r.yml:4: parameters: density: with scope: model all tensors and models",
        ),
    ],
)
def test_what_concerns_the_whole_model_is_one_for_all_tensors(tmp_path: Path, parameters: str, expected: str) -> None:
    recipe = read(tmp_path, f"merge_method: ties\nbase_model: b\nmodels: [a, c]\nparameters: {parameters}\n")
    assert translated(recipe)[2][0].removeprefix(f"{tmp_path}/").startswith(expected)


def test_the_whole_models_largest_changes_by_a_recipe(tmp_path: Path) -> None:
    text = "merge_method: ties\nbase_model: b\nmodels: [a, c]\nparameters: {scope: model, density: 0.2}\n"
    method, settings, problems = translated(read(tmp_path, text))
    assert problems == [] and settings is None
    assert method == method_types()["ties"](scope="model", density=0.2, weights=[1.0, 1.0], normalize=True)
