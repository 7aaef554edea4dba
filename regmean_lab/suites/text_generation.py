"""The suite of one's own texts to be written: by encoder-decoders after a source, or by decoders after a prompt."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from typing_extensions import override

from regmean_lab.suites.base import DataError, register_suite
from regmean_lab.suites.corpora import Choices
from regmean_lab.suites.own_data import OwnDataSettings, OwnDataSuite
from regmean_lab.suites.own_files import OwnCorpus
from regmean_lab.suites.tables.columns import Columns
from regmean_lab.suites.tables.table import Table

KEY_SCORES = ("exact_match", "token_accuracy")
FORMS = ("seq2seq", "causal")
"""What writes the texts, an encoder-decoder or a decoder; a task of texts has one of them as its only label."""


@dataclass
class TextGenerationSettings(OwnDataSettings):
    """Settings of the suite, besides those of every suite of one's own data.

    Attributes:
        form: ``seq2seq`` for encoder-decoders, which read the text and write the target; ``causal`` for decoders, which
            read the text as a prompt and write the target after it, or without a target learn the text itself.
        target: column of the text that is written; None: the obvious one (``seq2seq``), or none (``causal``).
        template: what is read, with columns in braces: ``"Summarise: {text}"``; None: the column ``text`` as it is.
        key_score: the metric that selects epochs and is reported: ``exact_match`` (texts that greedy decoding writes
            exactly) or ``token_accuracy`` (of the target's tokens, each given the right ones before it). Both and the
            perplexity are measured.
    """

    form: str = FORMS[0]
    target: str | None = None
    template: str | None = None
    key_score: str = KEY_SCORES[0]


@register_suite("text_generation")
class TextGenerationSuite(OwnDataSuite):
    """Texts to be written after other texts (``docs/own_data.md``), by encoder-decoders or decoders."""

    settings_type = TextGenerationSettings
    settings: TextGenerationSettings
    kind = "text"
    choices: ClassVar[Choices] = {"key_score": KEY_SCORES, "form": FORMS}

    @override
    def problems(self) -> list[str]:
        try:
            self._fields()
        except ValueError as error:  # without its columns, data cannot be read
            return [f"template: {error}, in {self.settings.template!r}"]
        return super().problems()

    @override
    def labels_of(self, seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        return (self.settings.form,)

    @override
    def seen_labels(self, table: Table, column: str) -> list[str]:
        return []

    @override
    def labelled(self, row: Mapping[str, Any], column: str, labels: Sequence[str]) -> Any:
        return row[column]

    @override
    def columns(self, corpus: OwnCorpus, table: Table) -> Columns:
        if absent := [name for name in self._fields() if name not in table.columns]:
            raise DataError(
                f"template: there is no column {', '.join(map(repr, absent))}; {table.name} has the columns "
                f"{', '.join(table.columns)}"
            )
        causal = self.settings.form == "causal"
        chosen = super().columns(corpus, table)
        return replace(chosen, target=corpus.target) if causal else chosen

    @override
    def prepared(self, table: Table, columns: Columns) -> Table:
        if (template := self.settings.template) is None:
            return table
        name = columns.text[0]
        return replace(table, rows=[{**row, name: template.format_map(row)} for row in table.rows])

    def _fields(self) -> list[str]:
        """The columns that the template names.

        Raises:
            ValueError: for a template that cannot be read.
        """
        try:
            parsed = list(string.Formatter().parse(self.settings.template or ""))
        except ValueError as error:
            raise ValueError(f"cannot be read ({error}); write literal braces as {{{{ and }}}}") from None
        names = [name for _, name, _, _ in parsed if name is not None]
        if strange := [name for name in names if not name or name.isdecimal()]:
            raise ValueError(f"expected the name of a column in braces, found {{{strange[0]}}}")
        return names
