"""CoNLL-2003 English: from the shared task's column files (IOB1) to BIO without MISC."""

from __future__ import annotations

import logging
from pathlib import Path

from regmean_lab.prepare.base import PrepareError, Preparer, Request, register_preparer
from regmean_lab.prepare.tagged import converted, file_content, read_columns_of
from regmean_lab.prepare.writing import wanted, write_notice, write_together
from regmean_lab.suites.base import SPLITS
from regmean_lab.suites.conll import read_columns

NAMES = {"train": ("eng.train", "train.txt"), "dev": ("eng.testa", "valid.txt"), "test": ("eng.testb", "test.txt")}
"""File names by split: the shared task's, and those under which the same files are often kept."""
COLUMNS = 4
"""Word, part of speech, chunk, entity."""
TYPES = {"per": "PER", "loc": "LOC", "org": "ORG"}

_logger = logging.getLogger(__name__)


@register_preparer("conll2003")
class Conll2003Preparer(Preparer):
    """CoNLL-2003 from a folder of column files."""

    suites = ("ner",)
    options = ("from",)
    needs = "from= a folder with eng.train, eng.testa and eng.testb"
    arguments = "suite=conll2003 from=FOLDER"
    notice = """\
CoNLL-2003, English: Reuters news stories with named entities. The stories belong to the Reuters Corpus (RCV1), which
NIST gives out for research under an agreement (https://trec.nist.gov/data/reuters/reuters.html); they may not be passed
on. Cite:
  E. F. Tjong Kim Sang, F. De Meulder. Introduction to the CoNLL-2003 Shared Task: Language-Independent Named Entity
    Recognition. CoNLL 2003.
"""

    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """``ner/conll2003/{train,dev,test}.conll``."""
        return {"conll2003": tuple(data_dir / "ner" / "conll2003" / f"{split}.conll" for split in SPLITS)}

    def prepare(self, request: Request) -> None:
        """Convert the three files: IOB1 (or BIO) to BIO, MISC to O, without document marks."""
        paths = self.files(request.data_dir)["conll2003"]
        if not wanted("conll2003", paths, read_columns, request.force):
            return
        sources = _sources(request.source)
        contents = {}
        for split, path in zip(SPLITS, paths, strict=True):
            sentences = converted(read_columns_of(sources[split], COLUMNS, None), TYPES)
            contents[path] = file_content(sentences, "conll2003")
            _logger.info("conll2003: %s: %d sentences from %s", split, len(sentences), sources[split])
        write_together(contents)
        write_notice(
            paths[0].parent,
            self.notice,
            "one word a line with entity tag and corpus; tags rewritten to BIO; MISC to O; document marks left out.",
        )


def _sources(folder: Path | None) -> dict[str, Path]:
    if folder is None:
        raise PrepareError(f"it cannot be downloaded: give {Conll2003Preparer.needs}")
    if not folder.is_dir():
        raise PrepareError(f"from={folder} is a file; expected a folder with eng.train, eng.testa and eng.testb")
    found = {}
    for split, names in NAMES.items():
        there = [folder / name for name in names if (folder / name).is_file()]
        if there:
            found[split] = there[0]
    if absent := [" (or ".join(names) + ")" for split, names in NAMES.items() if split not in found]:
        raise PrepareError(f"{folder} has no {', no '.join(absent)}; put the files of the shared task there")
    return found
