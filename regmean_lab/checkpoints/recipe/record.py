"""The record of its recipe in a merged folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from regmean_lab.checkpoints.recipe.reading import Recipe

RECIPE_FILE = "mergekit_config.yml"


def public_name(reference: str) -> str:
    """How others may be told which model is meant: of a local folder, the last part of its path."""
    path = Path(reference).expanduser()
    return path.resolve().name if path.exists() else reference


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML, with no more of local paths than their last part."""

    class Dumper(yaml.SafeDumper):
        """Numbers of a gradient stand in one line, and nothing is abbreviated by anchors."""

        def ignore_aliases(self, data: Any) -> bool:
            """Always."""
            return True

    def represent(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
        flow = all(isinstance(entry, int | float) for entry in data)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)

    Dumper.add_representer(list, represent)
    content: dict[str, Any] = copy.deepcopy(dict(recipe.content))
    listed = []
    for entry in content["models"]:
        own = {"model": entry} if isinstance(entry, str) else dict(entry)
        listed.append({**own, "model": _public(own["model"])})
    content["models"] = listed
    for key in ("base_model", "tokenizer_source"):
        if content.get(key) not in (None, "union", "base"):
            content[key] = _public(content[key])
    if isinstance(content.get("tokenizer"), dict) and content["tokenizer"].get("source") not in (None, "union", "base"):
        content["tokenizer"] = {**content["tokenizer"], "source": _public(content["tokenizer"]["source"])}
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _public(reference: Any) -> Any:
    if isinstance(reference, dict):
        return {key: _public(value) if key in ("model", "lora", "path") else value for key, value in reference.items()}
    if not isinstance(reference, str):
        return reference
    if Path(reference).expanduser().exists():
        return public_name(reference)
    return "+".join(public_name(part) for part in reference.split("+"))
