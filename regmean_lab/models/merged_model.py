"""A merged model as a Hugging Face folder with tokenizer and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.results import Result, unknown_text
from regmean_lab.utils.files import CARD_FILE, new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARD_FRONT_MATTER = """\
---
library_name: transformers
tags:
- model-merging
- regmean_lab
---
"""


def write_merged_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str, folder: Path) -> None:
    """Write model, tokenizer and card (``README.md``) into a folder, whole or not at all; replaces an earlier one."""
    with new_folder(folder, "the merged model") as temporary:
        with quiet_transformers():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")


def model_card(result: Result, settings: Mapping[str, Any], checkpoint: str) -> str:
    """Model card of a merged model: members, method, settings, scores, and the command that makes it again.

    Args:
        result: what was measured.
        settings: the method's settings.
        checkpoint: the pretrained model that the members were trained from.
    """
    members = "\n".join(f"| {member} | `{result.zoo.get(member, 'trained jointly')}` |" for member in result.members)
    rows = [
        f"| {corpus} | {domain.replace('_', ' ')} | {score:.2f} |"
        for domain, scores in result.scores.items()
        for corpus, score in scores.items()
    ]
    rows.append(f"| **mean** | in domain | {result.mean_in_domain:.2f} |")
    if result.mean_out_of_domain is not None:
        rows.append(f"| **mean** | out of domain | {result.mean_out_of_domain:.2f} |")
    unknown = ""
    if result.unknown_labels:
        unknown = f"\nNot predicted, as no member was trained on them: {unknown_text(result.unknown_labels)}.\n"
    notes = "".join(f"\n- {note}" for note in result.notes) + ("\n" if result.notes else "")
    if result.choice is not None:
        lines = [f"| {_words(row)} | {row['figure']:.4g} | {row['gain']:.4g} |" for row in result.choice["candidates"]]
        table = "\n".join(["| tried | figure | gain |", "|---|---:|---:|", *lines])
        notes += f"\nChosen by {result.choice['by']}, less of which is better:\n\n{table}\n"
    versions = ", ".join(f"{name} {value}" for name, value in result.environment["versions"].items())
    return f"""\
{CARD_FRONT_MATTER}
# {"+".join(result.members)}, merged by {result.method}

Merged from models that were fine-tuned from `{checkpoint}` on one corpus each, seed {result.seed}, with the same head
initialisation: {"yes" if result.head_init == "same" else "no"}.

| member | address in the zoo |
|---|---|
{members}

Method `{result.method}`, settings:

```json
{json.dumps(settings, indent=2)}
```
{notes}
## Scores

Key score of each corpus, times 100.

| corpus | domain | score |
|---|---|---|
{chr(10).join(rows)}
{unknown}
## Made by

```
{result.environment["command"]}
```

{versions}; device {result.environment["device"]}; configuration {result.fingerprint[:16]}.
"""


def _words(candidate: Mapping[str, Any]) -> str:
    """A candidate of a choice in a few words."""
    settings = [f"{key}={value}" for key, value in candidate["settings"].items()]
    return " ".join([candidate["method"], *settings, *([f"mix={candidate['mix']}"] if candidate["mix"] else [])])
