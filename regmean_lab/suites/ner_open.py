"""The open NER suite: entity corpora that anyone may fetch and pass on (all CC BY 4.0).

WikiGold (Balasuriya et al., "Named Entity Recognition in Wikipedia", People's Web workshop 2009), sections a, b and g
of the Broad Twitter Corpus (Derczynski et al., COLING 2016), and WNUT-17 (Derczynski et al., "Results of the WNUT2017
Shared Task on Novel and Emerging Entity Recognition", W-NUT 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regmean_lab.suites.base import Split, register_suite
from regmean_lab.suites.entity_suite import EntitySuite


@register_suite("ner_open")
class OpenNerSuite(EntitySuite):
    """Named entities in openly licensed corpora (see the module's description).

    Files: ``<data_dir>/ner_open/{wikigold,btc_a,btc_b,btc_g,wnut17}/{train,dev,test}.conll``, as
    :func:`~regmean_lab.suites.conll.read_columns` takes them. A corpus that is not merged is out of domain.
    """

    folder_name = "ner_open"
    reference_order = ("wikigold", "btc_a", "btc_b", "btc_g", "wnut17")

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """The members that are not merged."""
        return tuple(corpus for corpus in self.reference_order if corpus not in merged)

    def path(self, corpus: str, split: Split) -> Path:
        """The file of one split."""
        return self.folder / corpus / f"{split}.conll"
