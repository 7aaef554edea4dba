"""The sentiment suite: sentences of four domains, each rated by at least 20 people.

Tweets, movie reviews, Amazon product reviews and New York Times editorials with mean ratings from −4 (extremely
negative) to 4 (extremely positive), from Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment
Analysis of Social Media Text", ICWSM 2014. The data is MIT-licensed and travels in the source distribution of the
Python package vaderSentiment 3.3.2, from which :meth:`SentimentSuite.prepare` extracts it.
"""

from __future__ import annotations

import html
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from typing_extensions import override

from regmean_lab.suites.base import DataError, Example, MissingDataError, Split, Task, register_suite
from regmean_lab.suites.corpora import Choices, CorpusSuite
from regmean_lab.suites.reading import parse_lines
from regmean_lab.suites.sampling import seeded_permutation
from regmean_lab.utils.download import (
    DownloadError,
    SourceDistribution,
    archive_member,
    checked,
    download_source_distribution,
    read_source_distribution,
)
from regmean_lab.utils.files import file_sha256, write_bytes

_logger = logging.getLogger(__name__)

SOURCE = SourceDistribution(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
)
DATA_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
DATA_ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
LICENSE_FILE = "vaderSentiment-3.3.2/LICENSE.txt"

SHARES: dict[Split, float] = {"train": 0.7, "dev": 0.1, "test": 0.2}
"""Share of the documents (not of the sentences) in each split."""
LOWEST, HIGHEST = -4.0, 4.0
TARGETS = ("binary", "regression")

NOTICE = """\
{files}: sentences with their mean sentiment rating, tab-separated
(id, rating from -4 to 4, text), unchanged from hutto_ICWSM_2014.tar.gz in the source distribution of the Python package
vaderSentiment 3.3.2 (https://pypi.org/project/vaderSentiment/3.3.2/). If you use them, cite:

  Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
  Text. Eighth International Conference on Weblogs and Social Media (ICWSM-14). Ann Arbor, MI, June 2014.

Licence of that distribution:

"""


@dataclass(frozen=True)
class Domain:
    """One domain's file.

    Attributes:
        published: its name in the data archive.
        sha256: SHA-256 of its contents.
        has_documents: whether ids are ``document_sentence``; otherwise each sentence is a document of its own.
    """

    published: str
    sha256: str
    has_documents: bool


DOMAINS = {
    "tweets": Domain(
        "hutto_ICWSM_2014/tweets_GroundTruth.txt",
        "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
        has_documents=False,
    ),
    "movie": Domain(
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
        "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        has_documents=False,
    ),
    "amazon": Domain(
        "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
        "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
        has_documents=True,
    ),
    "nyt": Domain(
        "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
        "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
        has_documents=True,
    ),
}


@dataclass
class SentimentSettings:
    """Settings of the sentiment suite.

    Attributes:
        target: ``binary`` (is the sentence negative or positive) or ``regression`` (on the rating, all sentences kept).
        minimum_score: with ``binary``, sentences whose rating is nearer to 0 than this are left out.
        split_seed: determines the splits and which examples the limits choose.
        train_examples: keep at most this many training examples (None: all).
        dev_examples: the same for the dev split.
        test_examples: the same for the test split, in domain and out of domain.
        out_of_domain: domains on which every merge is evaluated unless they are merged; None is all four.
    """

    target: str = "binary"
    minimum_score: float = 0.5
    split_seed: int = 0
    train_examples: int | None = None
    dev_examples: int | None = None
    test_examples: int | None = None
    out_of_domain: list[str] | None = None


@dataclass(frozen=True)
class RatedSentence:
    """One line of a file: its document, its mean rating and its text."""

    document: str
    score: float
    text: str


def read_ratings(path: Path, has_documents: bool) -> list[RatedSentence]:
    """Read a file of lines ``id <tab> rating <tab> text`` (UTF-8, no header).

    HTML entities (``&amp;``, ``&lt;``) are turned into the characters they stand for: they are left over from the web,
    and a tokenizer would split them into pieces.

    Args:
        path: the file.
        has_documents: whether ids are ``document_sentence``; otherwise each line is a document of its own.

    Raises:
        DataError: naming up to ten malformed lines, or if there is no line.
    """
    seen: set[str] = set()

    def parse(line: str) -> RatedSentence:
        identifier, row = _parse_line(line, has_documents)
        if identifier in seen:
            raise ValueError(f"id {identifier!r} occurs twice")
        seen.add(identifier)
        return row

    return parse_lines(path, parse)


def _parse_line(line: str, has_documents: bool) -> tuple[str, RatedSentence]:
    fields = line.split("\t")
    if len(fields) != 3:
        raise ValueError(f"expected 3 tab-separated fields (id, rating, text), found {len(fields)}")
    identifier, rating, text = (field.strip() for field in fields)
    try:
        score = float(rating)
    except ValueError:
        score = math.nan
    if not LOWEST <= score <= HIGHEST:
        raise ValueError(f"the rating must be a number from {LOWEST:g} to {HIGHEST:g}, found {rating!r}")
    document, separator, _ = identifier.rpartition("_")
    if not identifier or (has_documents and not (separator and document)):
        expected = "document_sentence" if has_documents else "not empty"
        raise ValueError(f"the id must be {expected}, found {identifier!r}")
    if not text:
        raise ValueError("the text is empty")
    return identifier, RatedSentence(document if has_documents else identifier, score, html.unescape(text))


def split_documents(documents: Sequence[str], seed: int) -> dict[str, Split]:
    """Assign each document to a split, by a seeded permutation and the shares of :data:`SHARES`.

    Args:
        documents: names, in order of first appearance; repetitions are ignored.
        seed: determines the permutation.
    """
    unique = list(dict.fromkeys(documents))
    tests = round(SHARES["test"] * len(unique))
    devs = round(SHARES["dev"] * len(unique))
    result: dict[str, Split] = {}
    for place, index in enumerate(seeded_permutation(len(unique), seed)):
        result[unique[index]] = "test" if place < tests else "dev" if place < tests + devs else "train"
    return result


@register_suite("sentiment")
class SentimentSuite(CorpusSuite):
    """Negative or positive, in four domains (see the module's description).

    Files: ``<data_dir>/sentiment/{tweets,movie,amazon,nyt}.tsv``. Splits are random over documents, so that no article
    or review has sentences in two of them. A corpus that is not merged is out of domain, on its test split.
    """

    settings_type = SentimentSettings
    reference_order = tuple(DOMAINS)
    settings: SentimentSettings
    choices: ClassVar[Choices] = {"target": TARGETS}
    seed_setting = "split_seed"
    fingerprinted = ("target",)

    def __init__(self, data_dir: Path, settings: SentimentSettings) -> None:
        super().__init__(data_dir, settings)
        self.folder = data_dir / "sentiment"
        self._rows: dict[str, list[RatedSentence]] = {}

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if not 0 < self.settings.minimum_score <= HIGHEST:
            found.append(f"minimum_score: expected above 0 and at most {HIGHEST:g}, got {self.settings.minimum_score}")
        return found

    def task(self, corpus: str) -> Task:
        """Binary classification, or regression on the rating: the same for every corpus."""
        if self.settings.target == "regression":
            return Task("regression", ("score",), "pearson")
        return Task("single_label", ("negative", "positive"), "macro_f1")

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each file that is there with other contents than published; absent ones are brought."""
        return [
            f"sentiment: {path} is not the published file (SHA-256 {found}, expected {DOMAINS[corpus].sha256}). "
            "Delete it and run again."
            for corpus in corpora
            if (path := self._path(corpus)).exists() and (found := file_sha256(path)) != DOMAINS[corpus].sha256
        ]

    def prepare(self, corpora: Sequence[str]) -> None:
        """Bring the files: from ``vaderSentiment-3.3.2.tar.gz`` in the suite's folder if it lies there, else by pip.

        Nothing is written and no network is used if the files of ``corpora`` are there. Two jobs wait for each other.

        Raises:
            DataError: if a file is there with other contents.
            MissingDataError: if the files cannot be brought.
        """
        if wrong := self.missing(corpora):
            raise DataError("\n".join(wrong))
        if all(self._path(corpus).exists() for corpus in corpora):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if not all(self._path(corpus).exists() for corpus in corpora):
                self._bring()

    def all_examples(self, corpus: str, split: Split) -> list[Example]:
        """Examples of one split, in the file's order, before the limits."""
        rows = self._read(corpus)
        splits = split_documents([row.document for row in rows], self.settings.split_seed)
        chosen = [row for row in rows if splits[row.document] == split]
        if self.settings.target == "regression":
            return [Example(row.text, row.score) for row in chosen]
        clear = [row for row in chosen if abs(row.score) >= self.settings.minimum_score]
        return [Example(row.text, int(row.score > 0)) for row in clear]

    def content(self, corpus: str) -> dict[str, Any]:
        """Hash of the file, and which of its sentences are examples."""
        minimum = self.settings.minimum_score if self.settings.target == "binary" else None
        return {"file": file_sha256(self._require(corpus)), "minimum_score": minimum}

    def _path(self, corpus: str) -> Path:
        if corpus not in DOMAINS:
            raise DataError(f"sentiment: unknown corpus {corpus!r}; known are {', '.join(DOMAINS)}.")
        return self.folder / f"{corpus}.tsv"

    def _require(self, corpus: str) -> Path:
        path = self._path(corpus)
        if not path.exists():
            raise MissingDataError(
                f"sentiment: {path} is not there. SentimentSuite.prepare downloads it (from PyPI, or from "
                f"{self.folder / SOURCE.file_name} if that lies there)."
            )
        return path

    def _read(self, corpus: str) -> list[RatedSentence]:
        if corpus not in self._rows:
            self._rows[corpus] = read_ratings(self._require(corpus), DOMAINS[corpus].has_documents)
        return self._rows[corpus]

    def _bring(self) -> None:
        """Write every file that is absent; the caller holds the lock."""
        local = self.folder / SOURCE.file_name
        try:
            if local.exists():
                _logger.info("Reading sentiment data from %s.", local)
                distribution = read_source_distribution(SOURCE, local)
            else:
                _logger.info(
                    "Downloading sentiment data (2.5 MB) from the package index, in the source distribution of %s %s: "
                    "sentences rated by people, Hutto & Gilbert, ICWSM 2014, MIT licence.",
                    SOURCE.project,
                    SOURCE.version,
                )
                distribution = download_source_distribution(SOURCE)
            archive = checked(
                archive_member(distribution, DATA_ARCHIVE, SOURCE.file_name), DATA_ARCHIVE_SHA256, DATA_ARCHIVE
            )
            contents = {
                corpus: checked(
                    archive_member(archive, domain.published, DATA_ARCHIVE), domain.sha256, domain.published
                )
                for corpus, domain in DOMAINS.items()
            }
            license_text = archive_member(distribution, LICENSE_FILE, SOURCE.file_name)
        except DownloadError as error:
            raise MissingDataError(self._advice(error, local)) from error
        notice = NOTICE.format(files=", ".join(f"{corpus}.tsv" for corpus in DOMAINS)).encode()
        write_bytes(self.folder / "NOTICE.txt", notice + license_text)
        for corpus, content in contents.items():
            if not self._path(corpus).exists():
                write_bytes(self._path(corpus), content)
        _logger.info("Sentiment data is in %s.", self.folder)

    def _advice(self, error: DownloadError, local: Path) -> str:
        if local.exists():
            return f"sentiment: {error}\nReplace or delete {local} and run again."
        return (
            f"sentiment: {error}\nWithout access to a package index: fetch {SOURCE.file_name} from "
            f"https://pypi.org/project/{SOURCE.project}/{SOURCE.version}/#files on another machine, put it at {local}, "
            "and run again."
        )
