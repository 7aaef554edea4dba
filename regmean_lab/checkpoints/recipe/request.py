"""A recipe as a merge of checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from regmean_lab.checkpoints.lora.request import AdapterRequest
from regmean_lab.checkpoints.merge import MergeRequest
from regmean_lab.checkpoints.recipe.chat_templates import template_problem
from regmean_lab.checkpoints.recipe.methods import BASE, BASE_IF_GIVEN
from regmean_lab.checkpoints.recipe.reading import OF_BASE, UNION, Recipe, Reference
from regmean_lab.checkpoints.recipe.translation import translated
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.models.converted_weights import DEFAULT_MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError


def request_of_recipe(
    recipe: Recipe,
    *,
    heads: str = "merge",
    dtype: torch.dtype | None = None,
    max_shard_size: int = 5 * 10**9,
    models_folder: Path = DEFAULT_MODELS_FOLDER,
    adapter: AdapterRequest | None = None,
) -> MergeRequest:
    """The merge that a recipe asks for.

    Args:
        recipe: the recipe.
        heads: what becomes of the parameters on top of the encoder.
        dtype: of the merged weights, in place of the recipe's.
        max_shard_size: most bytes in a file.
        models_folder: where converted models are kept.
        adapter: the LoRA adapter that the merged model is written as; it is one to the recipe's ``base_model``.

    Raises:
        CheckpointError: with all values that make no sense.
    """
    method, settings, found = translated(recipe)
    if recipe.chat_template is not None and (problem := template_problem(recipe.chat_template)) is not None:
        found.append(f"{recipe.place('chat_template')}: {problem}")
    references = [model.reference for model in recipe.models]
    is_base = adapter is not None or recipe.method.base in (BASE, BASE_IF_GIVEN)
    if is_base and recipe.base is not None and recipe.base.adapter is not None:
        found.append(f"{recipe.place('base_model')}: {recipe.base}: a base with an adapter is not supported")
    tokenizer = _tokenizer(recipe, references, found)
    found += [problem.replace("members:", "models:", 1) for problem in method.count_problems(len(references))]
    if found:
        raise CheckpointError(found)
    if dtype is None and recipe.dtype is not None:
        dtype = getattr(torch, recipe.dtype)
    return MergeRequest(
        [reference.adapter or reference.model for reference in references],
        method,
        recipe.base.model if is_base and recipe.base is not None else None,
        heads,
        dtype,
        max_shard_size,
        models_folder,
        [reference.model if reference.adapter else None for reference in references],
        settings,
        tokenizer,
        recipe.chat_template,
        recipe,
        adapter,
    )


def lost_models(recipe: Recipe, models_folder: Path = DEFAULT_MODELS_FOLDER) -> list[str]:
    """Which models of a recipe cannot be had, with the line that names each."""
    asked = [(f"{recipe.path}:{model.line}: model", model.reference) for model in recipe.models]
    if recipe.base is not None:
        asked.append((recipe.place("base_model"), recipe.base))
    places = {part: place for place, one in reversed(asked) for part in (one.model, one.adapter) if part is not None}
    found = []
    for reference, place in places.items():
        try:
            find_sources([reference], models_folder)
        except CheckpointError as error:
            found += [f"{place}: {problem}" for problem in error.problems]
    return found


def _tokenizer(recipe: Recipe, references: list[Reference], found: list[str]) -> str | None:
    """The checkpoint or base, as the merge calls it, whose tokenizer is taken; ``union``, or None."""
    source = recipe.tokenizer_source
    if source is None or source == UNION:
        return source
    wanted = str(recipe.base) if source == OF_BASE else source
    for reference in references:
        if str(reference) == wanted:
            return reference.adapter or reference.model
    if recipe.base is not None and wanted in (str(recipe.base), recipe.base.model):
        return recipe.base.model
    found.append(
        f"{recipe.path}:{recipe.lines.get('tokenizer_source', recipe.lines.get('tokenizer', 1))}: tokenizer_source: "
        f"{source}: expected union, base or one of the models that are merged"
    )
    return None
