"""What the published system does differently: our setting against its formula, and what the setting changes.

``python -m benchmarks.fidelity --pico`` takes seconds; without ``--pico`` MiniLM is trained on emotion and NER data
(``--data``) for some minutes. The table is that of docs/fidelity.md. Each difference is a function that returns a
:class:`Row`; :data:`ROWS` lists them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from benchmarks.baseline import Batch, TextbookGram, textbook_fisher
from benchmarks.fidelity_members import (
    EMOTION_MEMBERS,
    NER_MEMBERS,
    OUTSIDE,
    Member,
    Workplace,
)
from benchmarks.published import (
    _answer_twice,
    _values,
    naive_answers,
    naive_hard,
    naive_loss,
    naive_macro_f1,
    naive_published_f1,
    naive_reweighted,
    naive_tags,
)
from regmean_lab.config.baselines import TIES
from regmean_lab.merging import Layout, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.metrics.ensemble import ensemble_predictions
from regmean_lab.metrics.metrics import predictions, score, score_predictions
from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import WrittenAnswers
from regmean_lab.modules.reweighting import sqrt_weights
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.statistics import FisherStatistics, GramStatistics, collect_fisher, collect_gram
from regmean_lab.suites.base import IGNORED
from regmean_lab.suites.emotion import LABELS
from regmean_lab.suites.emotion_text import EmotionTextSettings, EmotionTextSuite
from regmean_lab.suites.glue_data import TASKS

GOAL = 1e-6
"""Largest relative difference between a setting and its formula, in float64."""

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
    total = torch.stack([logits * torch.tensor(row) for logits, row in zip(predicted, known, strict=True)]).sum(0)
    count = torch.tensor(known).double().sum(0)
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
            loss.backward()
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
        rows.append(torch.stack(theirs).mean(0) if theirs else torch.zeros_like(weights[0][label]))
    plain = {
        f"{layer}.weight": torch.stack(rows),
        f"{layer}.bias": torch.stack([member.weights[f"{layer}.bias"].detach() for member in members]).mean(0),
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


def _answer_grams(
    module: TaskModule, batches: Sequence[Mapping[str, Any]], *, count_padding: bool = False
) -> GramStatistics:
    return collect_gram(
        module.model,
        batches,
        forward=lambda _, batch: module.gram_pass(batch),
        mask=module.gram_mask,
        count_padding=count_padding,
        dtype=torch.float64,
    )


def _forward(module: TaskModule) -> Callable[[torch.nn.Module, Mapping[str, Any]], Any]:
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
