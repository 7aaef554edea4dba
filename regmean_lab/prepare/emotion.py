"""The emotion corpora: from the one file of the unified corpus to three splits a corpus."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from regmean_lab.prepare.base import PrepareError, Preparer, Request, register_preparer, run_all
from regmean_lab.prepare.splits import SHARES_TEXT, dev_share, random_splits
from regmean_lab.prepare.writing import wanted, write_notice, write_together
from regmean_lab.suites.base import SPLITS, Split
from regmean_lab.suites.emotion import DIMENSIONS, EMOTIONS, IN_DOMAIN, OUT_OF_DOMAIN, EmotionSettings, read_emotions
from regmean_lab.suites.reading import json_object, parse_lines

FILE_NAME = "unified-dataset.jsonl"
FOLDER = "emotion_splits"
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trial"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What corpora call their splits."""
CHANGES = (
    f"one folder a source of {FILE_NAME}. A corpus all of whose rows name a split, with train and test among them, "
    "keeps it; without dev, 10 % of its training texts, drawn at random, are dev. Every other corpus is divided at "
    f"random into {SHARES_TEXT} of its different texts."
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One line of the unified corpus.

    Attributes:
        source: its corpus.
        text: the sentence.
        split: the split that the corpus itself puts it in, if any.
        record: the object as JSON, without the split.
    """

    source: str
    text: str
    split: Split | None
    record: str


@register_preparer("emotion")
class EmotionPreparer(Preparer):
    """Divides ``unified-dataset.jsonl`` into corpora, and each corpus into train, dev and test."""

    suites = ("emotion", "emotion_text")
    options = ("from", "seed")
    needs = f"from= {FILE_NAME}, which the scripts of github.com/sarnthil/unify-emotion-datasets make"
    arguments = f"suite=emotion from={FILE_NAME}"
    notice = """\
Emotion corpora in the unified format of L. A. M. Bostan and R. Klinger, "An Analysis of Annotated Corpora for Emotion
Classification in Text", COLING 2018 (https://github.com/sarnthil/unify-emotion-datasets). Every corpus has terms of
its own, most of them for research only; the scripts there show them. Cite the corpora you use:
  dailydialog: Li et al. 2017.  crowdflower: CrowdFlower 2016.  tec: Mohammad 2012.  isear: Scherer, Wallbott 1994.
  tales-emotion: Alm, Roth, Sproat 2005.  emoint: Mohammad, Bravo-Marquez 2017.  ssec: Schuff et al. 2017.
  electoraltweets: Mohammad et al. 2015.  grounded_emotions: Liu, Banea, Mihalcea 2017.
  affectivetext: Strapparava, Mihalcea 2007.
"""

    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """``emotion_splits/<corpus>/{train,dev,test}.jsonl`` of the ten corpora that the suite names."""
        return {corpus: _paths(data_dir, corpus) for corpus in IN_DOMAIN + OUT_OF_DOMAIN}

    def prepare(self, request: Request) -> None:
        """Write every corpus in the file, also those that the suite does not name: any folder can be a member."""
        rows = read_unified(_source(request.source))
        by_source: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_source[row.source].append(row)
        if absent := [corpus for corpus in IN_DOMAIN + OUT_OF_DOMAIN if corpus not in by_source]:
            _logger.warning("emotion: the file has no sentence of %s", ", ".join(absent))
        run_all({corpus: partial(self._write, corpus, by_source[corpus], request) for corpus in sorted(by_source)})

    def _write(self, corpus: str, rows: Sequence[Row], request: Request) -> None:
        paths = _paths(request.data_dir, corpus)
        read = partial(read_emotions, positive_threshold=EmotionSettings().positive_threshold)
        if not wanted(corpus, paths, read, request.force):
            return
        try:
            splits, how = split_rows(rows, request.seed)
        except ValueError as error:
            raise PrepareError(str(error)) from None
        contents = {
            path: "".join(_line(row, split) for row, own in zip(rows, splits, strict=True) if own == split).encode()
            for split, path in zip(SPLITS, paths, strict=True)
        }
        write_together(contents)
        write_notice(request.data_dir / FOLDER, self.notice, CHANGES)
        counts = " / ".join(str(splits.count(split)) for split in SPLITS)
        _logger.info("%s: %s sentences (train / dev / test), %s", corpus, counts, how)


def _paths(data_dir: Path, corpus: str) -> tuple[Path, ...]:
    return tuple(data_dir / FOLDER / corpus / f"{split}.jsonl" for split in SPLITS)


def _source(given: Path | None) -> Path:
    if given is None:
        raise PrepareError(f"it cannot be downloaded in one piece: give {EmotionPreparer.needs}")
    path = given / FILE_NAME if given.is_dir() else given
    if not path.is_file():
        raise PrepareError(f"{path} is not there; give from= the file that create_unified_dataset.py wrote")
    return path


def _line(row: Row, split: Split) -> str:
    return f'{row.record[:-1]}, "split": "{split}"}}\n'


def split_rows(rows: Sequence[Row], seed: int) -> tuple[list[Split], str]:
    """The split of each row of one corpus, and in words where it comes from.

    Raises:
        ValueError: if there are too few different texts.
    """
    texts = [row.text for row in rows]
    given = {row.split for row in rows}
    if None in given or not {"train", "test"} <= given:
        some = "its own splits are incomplete, " if given - {None} else ""
        return random_splits(texts, seed), f"{some}divided at random with seed {seed}"
    splits = [row.split for row in rows if row.split is not None]
    if "dev" in given:
        return splits, "its own splits"
    drawn = iter(dev_share([text for text, split in zip(texts, splits, strict=True) if split == "train"], seed))
    return [
        next(drawn) if split == "train" else split for split in splits
    ], f"its own splits, dev drawn with seed {seed}"


def read_unified(path: Path) -> list[Row]:
    """Read the unified corpus: a JSON object a line, with ``source``, ``text``, ``emotions`` and perhaps more.

    Raises:
        DataError: naming up to ten malformed lines, or if there is no line.
    """
    with tqdm(desc=path.name, unit="line", disable=None) as bar:

        def parse(line: str) -> Row:
            bar.update()
            return _parse_line(line)

        return parse_lines(path, parse)


def _parse_line(line: str) -> Row:
    row = json_object(line)
    for key in ("source", "text"):
        if not isinstance(row.get(key), str):
            raise ValueError(f'"{key}" must be a string, found {json.dumps(row.get(key))[:60]}')
    if not _NAME.fullmatch(row["source"]):
        raise ValueError(f'"source" cannot be the name of a folder: {row["source"]!r}')
    split = _split(row.pop("split", None))
    row["emotions"] = _numbers(row.get("emotions"), "emotions", EMOTIONS)
    row["VAD"] = _numbers(row.get("VAD") or {}, "VAD", DIMENSIONS)
    return Row(row["source"], row["text"], split, json.dumps(row))


def _split(value: object) -> Split | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[value.lower()]
    raise ValueError(f'"split" must be one of {", ".join(SPLIT_NAMES)}, or null; found {json.dumps(value)[:60]}')


def _numbers(group: Any, key: str, names: Sequence[str]) -> Mapping[str, float | None]:
    """The values of all ``names``; null for those that are absent, numbers for those that are written as strings."""
    if not isinstance(group, dict):
        raise ValueError(f'"{key}" must be an object, found {json.dumps(group)[:60]}')
    if unknown := [name for name in group if name not in names]:
        raise ValueError(f'"{key}" has an unknown label {unknown[0]!r}; known are {", ".join(names)}')
    return {name: _number(group.get(name), f'"{key}": {name}') for name in names}


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"{what} must be a finite number or null, found {json.dumps(value)[:60]}")
    return number
