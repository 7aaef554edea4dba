"""The NER suite: six genres of OntoNotes as members, CoNLL-2003 and tweets out of domain.

The choice of corpora and labels is that of Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language
Models", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from regmean_lab.suites.base import Split, register_suite
from regmean_lab.suites.entity_suite import EntitySettings, EntitySuite

GENRES = ("bc", "mz", "tc", "nw", "bn", "wb")
"""OntoNotes' own names: broadcast conversation, magazine, telephone conversation, newswire, broadcast news, web."""
OUT_OF_DOMAIN = ("conll2003", "twitter")
ONTONOTES_SPLITS: dict[Split, str] = {"train": "train", "dev": "development", "test": "test"}


@dataclass
class NerSettings(EntitySettings):
    """Settings of the NER suite.

    Attributes:
        train_examples: keep at most so many training sentences (None: all).
        dev_examples: the same for the dev split.
        test_examples: the same for the test split, in domain and out of domain.
        sample_seed: determines which sentences the limits choose.
        key_score: the metric that selects epochs and is reported as the score: ``entity_f1`` (entities as the CoNLL
            evaluation script reads them) or ``entity_f1_published`` (as the code of the paper reads them). Both are
            measured.
        out_of_domain: corpora that every merge is evaluated on, unless they are merged.
    """

    out_of_domain: list[str] = field(default_factory=lambda: list(OUT_OF_DOMAIN))


@register_suite("ner")
class NerSuite(EntitySuite):
    """Named entities in OntoNotes, CoNLL-2003 and tweets (see the module's description).

    Files, all below ``<data_dir>/ner``: ``ontonotes/onto.{train,development,test}.{bc,mz,tc,nw,bn,wb}.ner`` and
    ``conll2003/{train,dev,test}.conll`` (:func:`~regmean_lab.suites.conll.read_columns`), and
    ``twitter/annotated.twitter-ner-20-21-tweet-{train,dev,test}-withcleaned.json``
    (:func:`~regmean_lab.suites.conll.read_json_lines`).

    The genres are the members unless others are named; the out-of-domain corpora can be members too, and have the
    numbers 6 and 7 for head initialisation.
    """

    folder_name = "ner"
    settings_type = NerSettings
    reference_order = GENRES
    settings: NerSettings

    @property
    def candidates(self) -> tuple[str, ...]:
        """The genres, and the two other corpora."""
        return GENRES + OUT_OF_DOMAIN

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        chosen = self.settings.out_of_domain
        unknown = [corpus for corpus in chosen if corpus not in self.candidates]
        found = super().problems()
        if unknown:
            found.append(f"out_of_domain: no corpus {', '.join(unknown)}; there are {', '.join(self.candidates)}")
        if len(set(chosen)) != len(chosen):
            found.append(f"out_of_domain: a corpus is named more than once in {list(chosen)}")
        return found

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """The corpora of the setting ``out_of_domain`` that are not merged."""
        return tuple(corpus for corpus in self.settings.out_of_domain if corpus not in merged)

    def path(self, corpus: str, split: Split) -> Path:
        """The file of one split."""
        if corpus == "conll2003":
            return self.folder / corpus / f"{split}.conll"
        if corpus == "twitter":
            return self.folder / corpus / f"annotated.twitter-ner-20-21-tweet-{split}-withcleaned.json"
        return self.folder / "ontonotes" / f"onto.{ONTONOTES_SPLITS[split]}.{corpus}.ner"

    def _missing_message(self, corpus: str, path: Path) -> str:
        message = super()._missing_message(corpus, path)
        if corpus in self.settings.out_of_domain:
            message += " A corpus that is only evaluated out of domain can also be left out of suite.out_of_domain."
        return message
