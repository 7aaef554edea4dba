"""OntoNotes 5: from the column files of CoNLL-2012 to one file a split and genre."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from regmean_lab.prepare.base import PrepareError, Preparer, Request, register_preparer, run_all
from regmean_lab.prepare.tagged import END, file_content, rename, sentences_of
from regmean_lab.prepare.writing import wanted, write_notice, write_together
from regmean_lab.suites.base import DataError
from regmean_lab.suites.conll import OUTSIDE, TokenExample, read_columns
from regmean_lab.suites.ner import GENRES, ONTONOTES_SPLITS
from regmean_lab.suites.reading import SHOWN_ERRORS, parse_lines

WORD_COLUMN, ENTITY_COLUMN = 3, 10
"""Columns of the CoNLL-2012 format, from 0."""
LEAST_COLUMNS = ENTITY_COLUMN + 2
"""The columns up to the entity, and the coreference, which is always last."""
TYPES = {"person": "PER", "org": "ORG", "gpe": "LOC", "loc": "LOC"}
PLACEHOLDER = "[WORD]"
CHANGES = (
    "one word a line with entity tag and genre, from the English *_gold_conll files; spans to BIO; PERSON to PER, ORG "
    "to ORG, GPE and LOC to LOC, all other types to O."
)

_PLACE = re.compile(r"/(train|development|test)/data/english/annotations/([a-z]+)/")
_ENTITY = re.compile(r"(?:\((?P<type>[A-Z_]+)\*?|\*)(?P<closes>\))?")

_logger = logging.getLogger(__name__)


@register_preparer("ontonotes")
class OntoNotesPreparer(Preparer):
    """Six genres of OntoNotes 5 from the files of the CoNLL-2012 shared task."""

    suites = ("ner",)
    options = ("from",)
    needs = "from= a folder of CoNLL-2012: data/{train,development,test}/data/english/annotations/…/*_gold_conll"
    arguments = "suite=ontonotes from=FOLDER"
    notice = """\
OntoNotes 5.0 (LDC2013T19, https://catalog.ldc.upenn.edu/LDC2013T19) in the layout of the CoNLL-2012 shared task. It is
given out by the Linguistic Data Consortium under its licence agreement and may not be passed on. Cite:
  R. Weischedel et al. OntoNotes Release 5.0. Linguistic Data Consortium, 2013.
  S. Pradhan, A. Moschitti, N. Xue, O. Uryupina, Y. Zhang. CoNLL-2012 Shared Task: Modeling Multilingual Unrestricted
    Coreference in OntoNotes. CoNLL 2012.
"""

    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """``ner/ontonotes/onto.{train,development,test}.<genre>.ner``."""
        folder = data_dir / "ner" / "ontonotes"
        return {
            genre: tuple(folder / f"onto.{split}.{genre}.ner" for split in ONTONOTES_SPLITS.values())
            for genre in GENRES
        }

    def prepare(self, request: Request) -> None:
        """Convert genre by genre: PERSON to PER, ORG to ORG, GPE and LOC to LOC, all other types to O."""
        paths = self.files(request.data_dir)
        to_do: list[str] = []

        def check(genre: str) -> None:
            if wanted(genre, paths[genre], read_columns, request.force):
                to_do.append(genre)

        run_all({genre: partial(check, genre) for genre in GENRES})
        if not to_do:
            return
        found = find_files(request.source)
        run_all({genre: partial(self._convert, genre, found, paths[genre]) for genre in to_do})

    def _convert(self, genre: str, found: Mapping[tuple[str, str], Sequence[Path]], paths: Sequence[Path]) -> None:
        if absent := [split for split in ONTONOTES_SPLITS.values() if not found.get((split, genre))]:
            places = " or ".join(f"{split}/data/english/annotations/{genre}" for split in absent)
            raise PrepareError(f"no *_gold_conll file in {places}")
        contents, counts, problems = {}, [], []
        for split, path in zip(ONTONOTES_SPLITS.values(), paths, strict=True):
            sentences: list[TokenExample] = []
            for source in tqdm(found[split, genre], desc=f"{genre} {split}", unit="file", disable=None):
                try:
                    sentences += read_gold(source)
                except DataError as error:
                    problems.append(str(error))
            contents[path] = file_content(sentences, genre)
            counts.append(str(len(sentences)))
        if problems:
            more = [f"... and {len(problems) - SHOWN_ERRORS} more malformed files"]
            raise DataError("\n".join(problems[:SHOWN_ERRORS] + (more if len(problems) > SHOWN_ERRORS else [])))
        write_together(contents)
        write_notice(paths[0].parent, self.notice, CHANGES)
        _logger.info("%s: %s sentences (train / development / test) in %s", genre, " / ".join(counts), paths[0].parent)


def find_files(folder: Path | None) -> dict[tuple[str, str], list[Path]]:
    """The English ``*_gold_conll`` files below a folder, in order of their paths, by split and genre.

    Raises:
        PrepareError: if there is none.
    """
    if folder is None:
        raise PrepareError(f"it cannot be downloaded: give {OntoNotesPreparer.needs}")
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*_gold_conll")):
        if place := _PLACE.search(path.resolve().as_posix()):
            found[place[1], place[2]].append(path)
    if found:
        return found
    message = f"no file {folder}/…/{{train,development,test}}/data/english/annotations/GENRE/…/*_gold_conll"
    if next(folder.rglob("*_gold_skel"), None):
        message += "; there are *_gold_skel files, which lack the words: make *_gold_conll of them with the shared "
        message += "task's script skeleton2conll.sh and LDC2013T19"
    raise PrepareError(message)


def read_gold(path: Path) -> list[TokenExample]:
    """Read one file: words as they stand there, entities as BIO with this project's types.

    Raises:
        DataError: naming file and line of malformed lines, of brackets that do not match, or if there is no word.
    """
    # One row for every line, so that a row's place is its line number.
    rows = parse_lines(path, _parse_line, blank=END)
    errors = []
    tagged = []
    current, opened = "", 0
    for number, (word, entity) in enumerate([*rows, END], start=1):
        if not word:
            if current:
                errors.append(f"{path}:{opened}: the entity ({current} is not closed within its sentence")
            current = ""
            tagged.append(END)
            continue
        match = _ENTITY.fullmatch(entity)
        assert match is not None  # _parse_line has seen to it
        if match["type"]:
            if current:
                errors.append(f"{path}:{number}: an entity begins inside that of line {opened}")
            current, opened = match["type"], number
            tagged.append((word, f"B-{current}"))
        else:
            if match["closes"] and not current:
                errors.append(f"{path}:{number}: a bracket closes no entity")
            tagged.append((word, f"I-{current}" if current else OUTSIDE))
        if match["closes"]:
            current = ""
    if errors:
        raise DataError("\n".join(errors[:SHOWN_ERRORS]))
    return [TokenExample(sentence.tokens, tuple(rename(sentence.tags, TYPES))) for sentence in sentences_of(tagged)]


def _parse_line(line: str) -> tuple[str, str]:
    if line.startswith("#"):  # "#begin document" and "#end document"; a word is never first in its line
        return END
    fields = line.split()
    if len(fields) < LEAST_COLUMNS:
        raise ValueError(f"expected at least {LEAST_COLUMNS} columns, found {len(fields)}")
    word, entity = fields[WORD_COLUMN], fields[ENTITY_COLUMN]
    if word == PLACEHOLDER:
        raise ValueError(f"the word is the placeholder {PLACEHOLDER}: put the words in with skeleton2conll.sh")
    if not _ENTITY.fullmatch(entity):
        raise ValueError(f"column {ENTITY_COLUMN + 1} must be like *, (ORG*, *) or (ORG), found {entity!r}")
    return word, entity
