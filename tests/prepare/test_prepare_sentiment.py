from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from regmean_lab.prepare import PrepareError, Request
from regmean_lab.prepare.sentiment import SentimentPreparer
from regmean_lab.suites import sentiment
from regmean_lab.suites.base import DataError
from regmean_lab.utils.download import SourceDistribution

CONTENTS = {domain: f"1\t2.5\tmade up for {domain}\n".encode() for domain in sentiment.DOMAINS}


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up source distribution that counts as the published one; a download fails the test."""
    data = tar({sentiment.DOMAINS[domain].published: content for domain, content in CONTENTS.items()})
    content = tar({sentiment.DATA_ARCHIVE: data, sentiment.LICENSE_FILE: b"licence\n"})
    for domain, text in CONTENTS.items():
        monkeypatch.setitem(sentiment.DOMAINS, domain, replace(sentiment.DOMAINS[domain], sha256=sha256(text)))
    monkeypatch.setattr(sentiment, "DATA_ARCHIVE_SHA256", sha256(data))
    monkeypatch.setattr(sentiment, "SOURCE", SourceDistribution("vaderSentiment", "3.3.2", sha256(content)))
    monkeypatch.setattr(sentiment, "download_source_distribution", lambda source: pytest.fail("asked the network"))
    path = tmp_path / "vaderSentiment-3.3.2.tar.gz"
    path.write_bytes(content)
    return path


def written(data_dir: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (data_dir / "sentiment").glob("*.tsv")}


@pytest.mark.parametrize("by_folder", [False, True])
def test_from_an_archive_or_its_folder(tmp_path: Path, archive: Path, by_folder: bool) -> None:
    SentimentPreparer().prepare(Request(tmp_path / "data", source=archive.parent if by_folder else archive))
    assert written(tmp_path / "data") == CONTENTS


def test_without_a_source_the_suite_brings_it(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentiment, "download_source_distribution", lambda source: archive.read_bytes())
    SentimentPreparer().prepare(Request(tmp_path / "data"))
    assert written(tmp_path / "data") == CONTENTS


def test_force_replaces_only_what_is_not_as_published(tmp_path: Path, archive: Path) -> None:
    data_dir = tmp_path / "data"
    SentimentPreparer().prepare(Request(data_dir, source=archive))
    (data_dir / "sentiment" / "nyt.tsv").write_bytes(b"changed")
    before = (data_dir / "sentiment" / "movie.tsv").stat().st_mtime_ns
    with pytest.raises(DataError, match=r"nyt\.tsv is not the published file"):
        SentimentPreparer().prepare(Request(data_dir))
    SentimentPreparer().prepare(Request(data_dir, force=True))
    assert written(data_dir) == CONTENTS
    assert (data_dir / "sentiment" / "movie.tsv").stat().st_mtime_ns == before


def test_a_source_that_is_not_the_published_one(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(PrepareError, match=r"data\.tar\.gz is not there"):
        SentimentPreparer().prepare(Request(tmp_path / "data", source=tmp_path / "data.tar.gz"))
    archive.write_bytes(b"other")
    with pytest.raises(PrepareError, match="not the file that was published"):
        SentimentPreparer().prepare(Request(tmp_path / "data", source=archive))
    assert not (tmp_path / "data").exists()
