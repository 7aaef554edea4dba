"""The emotion suite for generative models: one question with the answer yes or no for each annotated label.

The wording is that of Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023; the
corpora are those of :mod:`regmean_lab.suites.emotion`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, cast

from regmean_lab.suites.answers import FORMS, AnswerExample, Wording
from regmean_lab.suites.base import IGNORED, DataError, Example, Split, Task, register_suite
from regmean_lab.suites.corpora import Choices
from regmean_lab.suites.emotion import LABELS, EmotionCorpora, EmotionDataSettings
from regmean_lab.utils.files import json_sha256

ANSWERED_BY = ("scoring", "generation")
LABELS_ASKED = ("all", "first_member")
WORDINGS = (
    Wording(
        "text_to_text",
        "does the sentence express {subject}? <extra_id_0> {text}",
        ("<extra_id_0> no", "<extra_id_0> yes"),
    ),
    Wording("causal", "{text} The sentence expresses {subject}.", (" no", " yes")),
)


@dataclass
class EmotionTextSettings(EmotionDataSettings):
    """Settings of the emotion suite for generative models. All limits count sentences, not questions.

    Attributes:
        form: how questions are put: ``text_to_text`` ("does the sentence express joy? <extra_id_0> …", answered
            "<extra_id_0> yes") or ``causal`` ("… The sentence expresses joy.", continued " yes"). None: text to text
            for tokenizers that have the token <extra_id_0> (T5's), causal for all others (GPT-2's).
        answer_by: the answer is the one to which the model gives the higher probability (``scoring``), or the model
            writes it, greedily (``generation``; a pass of the decoder for each token of an answer instead of one).
        out_of_domain_labels: out of domain ``all`` annotated labels are asked about, or only those that the training
            data of the ``first_member`` annotates (as published).
    """

    form: str | None = None
    answer_by: str = "scoring"
    out_of_domain_labels: str = "all"


@register_suite("emotion_text")
class EmotionTextSuite(EmotionCorpora):
    """Which emotions a sentence has, asked one label at a time and answered in words.

    Files, members and rules for out-of-domain corpora are those of the suite ``emotion``. Every sentence gives one
    example for each label that it annotates, in the labels' order. Of the training examples of a label, all positive
    ones are kept, and each negative one with a probability that is the square root of the share of positive ones among
    the corpus's training sentences that annotate the label. Dev, test and out-of-domain examples are all kept.
    """

    settings_type = EmotionTextSettings
    settings: EmotionTextSettings
    choices: ClassVar[Choices] = {
        "form": (*FORMS, None),
        "answer_by": ANSWERED_BY,
        "out_of_domain_labels": LABELS_ASKED,
    }

    def task(self, corpus: str) -> Task:
        """Sixteen labels to ask about: the same for every corpus."""
        answer_by = cast(Literal["scoring", "generation"], self.settings.answer_by)
        return Task("answers", LABELS, "macro_f1", answer_by=answer_by)

    def examples(self, corpus: str, split: Split) -> list[AnswerExample]:
        """Questions of one split, sentence by sentence; in training without most of the negative ones."""
        sentences = self.sentences(corpus, split)
        if split != "train":
            return self._questions(sentences)
        kept = kept_questions(sentences, f"{self.settings.sample_seed} {corpus}")
        return self._questions(sentences, kept)

    def out_of_domain_examples(self, corpus: str) -> list[AnswerExample]:
        """All questions about the sentences on which a corpus is evaluated when it is out of domain."""
        return self._questions(self.out_of_domain_sentences(corpus))

    def evaluated_out_of_domain(self, corpus: str, merged: Sequence[str]) -> list[AnswerExample]:
        """All questions about a corpus, or those about labels that the first of ``merged`` was trained on.

        Raises:
            DataError: if there are none.
        """
        questions = self.out_of_domain_examples(corpus)
        if self.settings.out_of_domain_labels == "all":
            return questions
        known = self.annotated_labels(merged[0])
        asked = [question for question in questions if known[question.label[1]]]
        if not asked:
            raise DataError(
                f"{self.name}: {corpus} annotates none of the labels that {merged[0]}, the first member, was trained "
                "on, and suite.out_of_domain_labels=first_member asks about no others; leave it out of "
                "suite.out_of_domain, or set suite.out_of_domain_labels=all"
            )
        return asked

    def fingerprint(self, corpus: str) -> str:
        """Hash of the sentences' fingerprint (which holds the seed that chooses negatives) and of the wording."""
        content = {"sentences": super().fingerprint(corpus), "wordings": [asdict(part) for part in self._wordings]}
        return json_sha256(content)

    @property
    def _wordings(self) -> tuple[Wording, ...]:
        return tuple(wording for wording in WORDINGS if self.settings.form in (None, wording.form))

    def _questions(
        self, sentences: Sequence[Example], kept: Sequence[Sequence[bool]] | None = None
    ) -> list[AnswerExample]:
        wordings = self._wordings
        return [
            AnswerExample(sentence.text, (value, number), subject=name, wordings=wordings)
            for row, sentence in enumerate(sentences)
            for number, (name, value) in enumerate(zip(LABELS, _values(sentence), strict=True))
            if value != IGNORED and (kept is None or kept[row][number])
        ]


def kept_questions(sentences: Sequence[Example], seed: int | str) -> list[list[bool]]:
    """Which questions training keeps: of a label's negative ones, each with probability √(share of positive ones).

    Args:
        sentences: sentences with all their labels.
        seed: determines the choice; that of a label does not depend on the other labels.

    Returns:
        For each sentence and label whether its question is kept; False where the label is not annotated.
    """
    columns = []
    for name, values in zip(LABELS, zip(*map(_values, sentences), strict=True), strict=True):
        annotated = sum(value != IGNORED for value in values)
        probability = math.sqrt(sum(value == 1 for value in values) / annotated) if annotated else 0.0
        generator = random.Random(f"negatives {seed} {name}")
        draws = [generator.random() for _ in values]
        columns.append(
            [value == 1 or (value == 0 and draw < probability) for value, draw in zip(values, draws, strict=True)]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _values(sentence: Example) -> tuple[int, ...]:
    return cast(tuple[int, ...], sentence.label)
