"""Checkpoints and corpora for tests of members that were fine-tuned elsewhere."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import quiet_transformers

LABELS = ("bad", "good")
WORDS = {"bad": ("terrible", "worse"), "good": ("happy", "best")}


def write_corpus(path: Path, seed: int, count: int = 60) -> Path:
    """A file of texts, each with a word that tells its label."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        label = LABELS[number % 2]
        filler = generator.choices(("the", "film", "was", "music", "people", "food"), k=generator.randint(2, 6))
        rows.append({"text": " ".join([*filler, generator.choice(WORDS[label]), str(number)]), "label": label})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_classifier_of(
    folder: Path, cache: Path, seed: int, labels: tuple[str, ...] = LABELS, kind: str = "bert"
) -> Any:
    """A classifier near the pico model of a kind, as somebody would have fine-tuned it."""
    with quiet_transformers():
        source = pico_folder(kind, cache)
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(labels), **names).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return model
