"""The open NER suite: entity corpora that anyone may fetch and pass on (all CC BY 4.0).

WikiGold (Balasuriya et al., "Named Entity Recognition in Wikipedia", People's Web workshop 2009), sections a, b and g
of the Broad Twitter Corpus (Derczynski et al., COLING 2016), and WNUT-17 (Derczynski et al., "Results of the WNUT2017
Shared Task on Novel and Emerging Entity Recognition", W-NUT 2017).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from regmean_lab.suites.base import register_suite
from regmean_lab.suites.entity_suite import EntitySettings, EntitySuite

CORPORA = ("wikigold", "btc_a", "btc_b", "btc_g", "wnut17")


@dataclass
class OpenNerSettings(EntitySettings):
    """Settings of the open NER suite, all of whose corpora are evaluated out of domain where they are not merged."""

    out_of_domain: list[str] | None = field(default_factory=lambda: list(CORPORA))


@register_suite("ner_open")
class OpenNerSuite(EntitySuite):
    """Named entities in openly licensed corpora (see the module's description), or in any other.

    Files: ``<data_dir>/ner_open/<corpus>/{train,dev,test}.conll``, as :func:`~regmean_lab.suites.conll.read_columns`
    takes them. A folder of another name is a corpus that can be a member, or be named in ``out_of_domain``.
    """

    settings_type = OpenNerSettings
    reference_order = CORPORA
    no_corpora = ("upstream",)
    layout = "ner_open/{corpus}/{split}.conll"
    brought_by = "suite=ner_open"
