"""``regmean-lab merge recipe.yml [FOLDER]``: a recipe and an output folder as overrides."""

from __future__ import annotations

from collections.abc import Sequence

ENDINGS = (".yml", ".yaml")


def recipe_arguments(arguments: Sequence[str]) -> list[str]:
    """Overrides instead of the file of a recipe, and of the folder that may follow it.

    Args:
        arguments: what the verb ``merge`` was given.
    """
    if not arguments or not _is_recipe(arguments[0]):
        return list(arguments)
    recipe, *others = arguments
    found = [f"recipe={_quoted(recipe)}"]
    if others and "=" not in others[0] and not others[0].startswith(("-", "~", "+")):
        found.append(f"output={_quoted(others.pop(0))}")
    return [*found, *others]


def _is_recipe(argument: str) -> bool:
    return argument.lower().endswith(ENDINGS) and "=" not in argument.split("/")[0]


def _quoted(text: str) -> str:
    """A text as Hydra's grammar reads it, whatever its marks."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${") + "'"
