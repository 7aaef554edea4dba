"""The same recipes through mergekit and through this package: ``python tests/checkpoints/recipes/parity.py``.

Prints a row of Markdown for each recipe: for three ways to compute, the share of elements that differ at all, and the
largest difference in units of the last digit of the largest weight of its tensor. The package computes in float32 in
all three; mergekit in its ``dtype``.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from llama_models import merge, save_models, tensors_of, write
from torch import Tensor

AB = """
models:
  - {model: a, parameters: {weight: 0.7}}
  - {model: b, parameters: {weight: 0.3}}
"""
ABC = """
base_model: base
models:
  - {model: a, parameters: {weight: 0.7}}
  - {model: b, parameters: {weight: -0.4}}
  - {model: c, parameters: {weight: 0.9}}
"""
TRIMMED = """
base_model: base
models:
  - {model: a, parameters: {weight: 0.7, density: 0.5}}
  - {model: b, parameters: {weight: 0.4, density: 0.3}}
  - {model: c, parameters: {weight: 0.9, density: 0.8}}
"""
GRADIENTS = """
base_model: base
models:
  - {model: a, parameters: {weight: [0, 0.3, 1], density: [1, 0.2]}}
  - {model: b, parameters: {weight: [{filter: self_attn, value: 0.5}, {filter: mlp, value: [1, 0]}, {value: 0.2}]}}
parameters: {density: 0.6, normalize: true, lambda: [1.5, 0.5]}
"""
PLAIN = """
base_model: base
models: [{model: a}, {model: b}, {model: c}]
"""

RECIPES = {
    "linear": "merge_method: linear" + AB,
    "linear, normalize: false": "merge_method: linear\nparameters: {normalize: false}" + AB,
    "slerp": "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3}",
    "slerp, t by filter and depth": "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\n"
    "parameters: {t: [{filter: self_attn, value: [0, 0.5, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]}",
    "nuslerp": "merge_method: nuslerp" + AB,
    "nuslerp, from the base, by row": "merge_method: nuslerp\nbase_model: base\nparameters: {nuslerp_flatten: false}"
    + AB,
    "multislerp": "merge_method: multislerp" + AB,
    "multislerp, from the base": "merge_method: multislerp" + ABC,
    "karcher": "merge_method: karcher" + PLAIN,
    "karcher, max_iter: 100, tol: 1e-9": "merge_method: karcher\nparameters: {max_iter: 100, tol: 1e-9}" + PLAIN,
    "task_arithmetic": "merge_method: task_arithmetic\nparameters: {lambda: 0.8}" + ABC,
    "task_arithmetic, normalize: true": "merge_method: task_arithmetic\nparameters: {normalize: true}" + ABC,
    "task_arithmetic, one negated": "merge_method: task_arithmetic\nbase_model: base\n"
    "models: [{model: a, parameters: {weight: -1}}]",
    "ties": "merge_method: ties" + TRIMMED,
    "ties, weights of any sign": "merge_method: ties\nparameters: {density: 0.5}" + ABC,
    "ties, gradients and filters": "merge_method: ties" + GRADIENTS,
    "dare_linear, density: 1": "merge_method: dare_linear\nparameters: {density: 1}" + ABC,
    "dare_ties, density: 1": "merge_method: dare_ties\nparameters: {density: 1}" + ABC,
    "della_linear, density: 1": "merge_method: della_linear\nparameters: {density: 1}" + ABC,
    "della, density: 1": "merge_method: della\nparameters: {density: 1}" + ABC,
    "breadcrumbs": "merge_method: breadcrumbs\nparameters: {gamma: 0.02}" + TRIMMED,
    "breadcrumbs_ties": "merge_method: breadcrumbs_ties\nparameters: {gamma: 0.02}" + TRIMMED,
    "model_stock": "merge_method: model_stock" + PLAIN,
    "model_stock, filter_wise: true": "merge_method: model_stock\nparameters: {filter_wise: true}" + PLAIN,
    "sce": "merge_method: sce\nparameters: {select_topk: 0.3}" + PLAIN,
}
"""Recipes of what both have; where random numbers decide, with nothing left to them."""


@dataclass(frozen=True)
class Difference:
    """How two merged models differ.

    Attributes:
        share: of the elements that differ at all.
        largest: difference.
        digits: the largest difference, in units of the last digit of the largest weight of its tensor.
    """

    share: float
    largest: float
    digits: float


def through_mergekit(recipe: Path, folder: Path) -> dict[str, Tensor]:
    """What mergekit makes of a recipe."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
    run_merge(config, str(folder), MergeOptions(quiet=True, copy_tokenizer=False))
    return tensors_of(folder)


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Difference:
    """Compare two models tensor by tensor."""
    assert ours.keys() == theirs.keys(), set(ours) ^ set(theirs)
    differing, total, largest, digits = 0, 0, 0.0, 0.0
    for name, one in ours.items():
        other = theirs[name]
        assert one.shape == other.shape and one.dtype == other.dtype, (name, one.dtype, other.dtype)
        apart = float((one.double() - other.double()).abs().max())
        differing += int((one != other).sum())
        total += one.numel()
        largest = max(largest, apart)
        digits = max(digits, apart / (float(other.double().abs().max()) * torch.finfo(one.dtype).eps))
    return Difference(differing / total, largest, digits)


def compared(name: str, models: Path, work: Path, extra: str = "") -> Difference:
    """One recipe, both ways."""
    recipe = write(work / "recipe.yml", f"{RECIPES[name]}\n{extra}", models)
    return difference(merge(recipe), through_mergekit(recipe, work / "theirs"))


WAYS = (
    ("float32", torch.float32, "dtype: float32"),
    ("bfloat16, computed in float32", torch.bfloat16, "dtype: float32\nout_dtype: bfloat16"),
    ("bfloat16", torch.bfloat16, "dtype: bfloat16"),
)
"""What a column is called, the dtype of the models, and what the recipe says."""


def main() -> None:
    """Print the table."""
    print(f"| recipe | {' | digits | '.join(name for name, _, _ in WAYS)} | digits |")
    print(f"|---|{'---:|' * 2 * len(WAYS)}")
    with tempfile.TemporaryDirectory() as root:
        models = {dtype: save_models(Path(root) / str(dtype), dtype) for _, dtype, _ in WAYS}
        for name in RECIPES:
            cells = []
            for _, dtype, says in WAYS:
                with tempfile.TemporaryDirectory() as work:
                    found = compared(name, models[dtype], Path(work), says)
                cells.append(f"{100 * found.share:.2g} % | {found.digits:.2g}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
