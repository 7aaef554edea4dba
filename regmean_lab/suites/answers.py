"""Text-to-text questions about texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from regmean_lab.suites.base import Example

Form = Literal["text_to_text", "causal"]
"""How a question is put: as the input of an encoder-decoder, or as a text that a decoder goes on with."""

FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Wording:
    """The words of a question with two answers, in one form.

    Attributes:
        form: the form.
        question: template of the question, with ``{text}`` and ``{subject}``.
        answers: the answers number 0 (no) and 1 (yes), as they are written.
    """

    form: Form
    question: str
    answers: tuple[str, str]

    def ask(self, text: str, subject: str) -> str:
        """The question about one text."""
        return self.question.format(text=text, subject=subject)


@dataclass(frozen=True)
class AnswerExample(Example):
    """One question about one text. ``label`` is the answer, 0 or 1, and the id of the label that is asked about.

    Attributes:
        subject: what is asked about, as the question names it.
        wordings: the forms in which the question may be put, alike for all examples of a corpus; of several, the
            encoding takes the one that suits the tokenizer.
    """

    label: tuple[int, int]
    subject: str = field(kw_only=True)
    wordings: tuple[Wording, ...] = field(kw_only=True)
