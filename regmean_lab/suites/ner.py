"""The NER suite: six genres of OntoNotes as members, CoNLL-2003 and tweets out of domain.

The choice of corpora and labels is that of Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language
Models", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from regmean_lab.suites.base import Split, register_suite
from regmean_lab.suites.entity_suite import EntitySettings, EntitySuite

GENRES = ("bc", "mz", "tc", "nw", "bn", "wb")
"""OntoNotes' own names: broadcast conversation, magazine, telephone conversation, newswire, broadcast news, web."""
OUT_OF_DOMAIN = ("conll2003", "twitter")
ONTONOTES_SPLITS: dict[Split, str] = {"train": "train", "dev": "development", "test": "test"}


@dataclass
class NerSettings(EntitySettings):
    """Settings of the NER suite, with its own out-of-domain corpora.

    Attributes:
        include_other_members: evaluate out of domain also on those of the six genres that are not merged.
    """

    out_of_domain: list[str] | None = field(default_factory=lambda: list(OUT_OF_DOMAIN))
    include_other_members: bool = False


@register_suite("ner")
class NerSuite(EntitySuite):
    """Named entities in OntoNotes, CoNLL-2003 and tweets (see the module's description).

    Files, all below ``<data_dir>/ner``: ``ontonotes/onto.{train,development,test}.{bc,mz,tc,nw,bn,wb}.ner`` and
    ``<corpus>/{train,dev,test}.conll`` for CoNLL-2003 and any other corpus
    (:func:`~regmean_lab.suites.conll.read_columns`), and
    ``twitter/annotated.twitter-ner-20-21-tweet-{train,dev,test}-withcleaned.json``
    (:func:`~regmean_lab.suites.conll.read_json_lines`).

    The genres are the members unless others are named; the out-of-domain corpora can be members too, and have the
    numbers 6 and 7 for head initialisation. After them come other folders, in alphabetical order.
    """

    settings_type = NerSettings
    reference_order = GENRES
    released_members = ("bc", "mz", "tc", "nw", "bn", "wb", "conll2003", "twitter")
    more_corpora = OUT_OF_DOMAIN
    no_corpora = ("ontonotes",)
    layout = "ner/{corpus}/{split}.conll"
    layouts: ClassVar[Mapping[str, str]] = {
        "twitter": "ner/twitter/annotated.twitter-ner-20-21-tweet-{split}-withcleaned.json"
    }
    brought_by = ""

    def path(self, corpus: str, split: Split) -> Path:
        """The file of one split; the genres lie together, and their splits have OntoNotes' names."""
        if corpus not in GENRES:
            return super().path(corpus, split)
        return self.folder / "ontonotes" / f"onto.{ONTONOTES_SPLITS[split]}.{corpus}.ner"
