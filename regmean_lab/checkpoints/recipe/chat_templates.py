"""The chat template of a merged model: one of the models' own, a known one by name, or one that is written out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from regmean_lab.models.folders import read_json_file
from regmean_lab.models.headers import CheckpointError

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
AUTO = "auto"

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
}
"""Templates by the names that recipes have for them."""


def template_problem(template: str) -> str | None:
    """Why a recipe's ``chat_template`` is none."""
    if template == AUTO or template in TEMPLATES or "{" in template:
        return None
    return (
        f"{template}: expected {AUTO}, {', '.join(TEMPLATES)}, or the template itself (Jinja), "
        "which other programs may know by this name"
    )


def chosen_template(wanted: str, folders: Sequence[Path]) -> str | None:
    """The text of a template.

    Args:
        wanted: ``auto`` (the one that most of the folders have, the first of several), a name, or the template.
        folders: of the tokenizers.

    Returns:
        None for ``auto`` when no tokenizer has one.
    """
    if wanted != AUTO:
        return TEMPLATES.get(wanted, wanted)
    counts = Counter(text for folder in folders if (text := template_of(folder)) is not None)
    return counts.most_common(1)[0][0] if counts else None


def template_of(folder: Path) -> str | None:
    """The chat template in a folder, or None."""
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8").strip() or None
    try:
        own = read_json_file(folder / TOKENIZER_CONFIG_FILE).get("chat_template")
    except CheckpointError:
        return None
    if isinstance(own, list):  # several, by name
        own = next((one.get("template") for one in own if isinstance(one, dict) and one.get("name") == "default"), None)
    return own.strip() or None if isinstance(own, str) else None
