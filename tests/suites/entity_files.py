"""NER data for tests: files in the layouts of data/README.md."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

PLACES, PEOPLE = ("London", "Paris", "New York"), ("Thank", "Maria Editor")


def write_entities(folder: Path, genres: Sequence[str] = ("bn", "nw")) -> None:
    """NER corpora of both suites, and some genres of OntoNotes: sentences of two names and a few words."""
    names = [
        f"ner/ontonotes/onto.{split}.{genre}.ner" for genre in genres for split in ("train", "development", "test")
    ]
    names += [f"ner/conll2003/{split}.conll" for split in ("train", "dev", "test")]
    names += [
        f"ner_open/{corpus}/{split}.conll"
        for corpus in ("wikigold", "btc_a", "btc_b", "btc_g", "wnut17")
        for split in ("train", "dev", "test")
    ]
    names += [
        f"ner/twitter/annotated.twitter-ner-20-21-tweet-{split}-withcleaned.json" for split in ("train", "dev", "test")
    ]
    for name in names:
        generator = random.Random(name)
        sentences = []
        for _ in range(12):
            sentence = [("the", "O")]
            for entity, choices in (("PER", PEOPLE), ("LOC", PLACES)):
                words = generator.choice(choices).split()
                sentence += [(word, f"{'I' if place else 'B'}-{entity}") for place, word in enumerate(words)]
                sentence += [(generator.choice(("river", "film", "music")), "O")]
            sentences.append(sentence)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            rows = [json.dumps({"tokens": [w for w, _ in s], "labels": [t for _, t in s]}) + "\n" for s in sentences]
        else:
            rows = ["".join(f"{word} {tag} x\n" for word, tag in sentence) + "\n" for sentence in sentences]
        path.write_text("".join(rows), encoding="utf-8")
