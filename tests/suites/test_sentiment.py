from __future__ import annotations

import hashlib
import io
import logging
import multiprocessing
import os
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.suites import sentiment
from regmean_lab.suites.base import SPLITS, DataError, MissingDataError
from regmean_lab.suites.sentiment import SentimentSettings, SentimentSuite, read_ratings, split_documents
from regmean_lab.utils.download import DownloadError, SourceDistribution

COUNTS = {"tweets": 4200, "movie": 10605, "amazon": 3708, "nyt": 5190}
REAL = next(
    (
        Path(value) / folder
        for name, folder in (("REGMEAN_LAB_SENTIMENT", ""), ("REGMEAN_LAB_DATA", "sentiment"))
        if (value := os.environ.get(name)) is not None
    ),
    None,
)


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


def made_up_file(corpus: str) -> bytes:
    """Twelve documents of two sentences each, or 24 single ones; scores -2 to 2.6 in steps of 0.2."""
    ids = [f"{n // 2 + 1}_{n % 2 + 1}" if corpus in ("amazon", "nyt") else str(n + 1) for n in range(24)]
    return "\r\n".join(f"{i}\t{round(-2 + 0.2 * n, 1)}\t{corpus} {i}" for n, i in enumerate(ids)).encode()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A made-up source distribution that the suite takes for the published one; no pip."""
    files = {corpus: made_up_file(corpus) for corpus in COUNTS}
    data = tar({sentiment.DOMAINS[corpus].published: content for corpus, content in files.items()})
    distribution = tar({sentiment.DATA_ARCHIVE: data, sentiment.LICENSE_FILE: b"made-up licence\n"})
    monkeypatch.setattr(sentiment, "DATA_ARCHIVE_SHA256", sha256(data))
    monkeypatch.setattr(sentiment, "SOURCE", SourceDistribution("vaderSentiment", "3.3.2", sha256(distribution)))
    for corpus, content in files.items():
        monkeypatch.setitem(sentiment.DOMAINS, corpus, replace(sentiment.DOMAINS[corpus], sha256=sha256(content)))
    forbid_network(monkeypatch)
    return distribution


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: SourceDistribution) -> bytes:
        raise AssertionError("asked the network")

    monkeypatch.setattr(sentiment, "download_source_distribution", fail)


def serve(monkeypatch: pytest.MonkeyPatch, distribution: bytes) -> list[SourceDistribution]:
    asked = []

    def download(source: SourceDistribution) -> bytes:
        asked.append(source)
        return distribution

    monkeypatch.setattr(sentiment, "download_source_distribution", download)
    return asked


def suite(data_dir: Path, **settings: Any) -> SentimentSuite:
    return SentimentSuite(data_dir, SentimentSettings(**settings))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with the made-up files in it."""
    (tmp_path / "sentiment").mkdir()
    for corpus in COUNTS:
        (tmp_path / "sentiment" / f"{corpus}.tsv").write_bytes(made_up_file(corpus))
    return tmp_path


def test_prepare_downloads_once(
    tmp_path: Path, published: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = serve(monkeypatch, published)
    data_dir = tmp_path / "not" / "there"
    with caplog.at_level(logging.INFO):
        suite(data_dir).prepare(["tweets", "nyt"])
    assert len(asked) == 1
    assert "MIT licence" in caplog.messages[0]
    files = {path.name: path.read_bytes() for path in (data_dir / "sentiment").iterdir() if path.name[0] != "."}
    assert set(files) == {"tweets.tsv", "movie.tsv", "amazon.tsv", "nyt.tsv", "NOTICE.txt"}
    assert all(files[f"{corpus}.tsv"] == made_up_file(corpus) for corpus in COUNTS)
    assert b"Hutto, C.J. & Gilbert, E.E. (2014)" in files["NOTICE.txt"]
    assert files["NOTICE.txt"].endswith(b"made-up licence\n")
    suite(data_dir).prepare(list(COUNTS))
    assert len(asked) == 1


def test_prepare_brings_only_absent_files(data_dir: Path, published: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data_dir / "sentiment"
    (folder / "movie.tsv").unlink()
    before = (folder / "tweets.tsv").stat().st_mtime_ns
    serve(monkeypatch, published)
    suite(data_dir).prepare(["movie"])
    assert (folder / "movie.tsv").read_bytes() == made_up_file("movie")
    assert (folder / "tweets.tsv").stat().st_mtime_ns == before


def test_prepare_writes_nothing_when_all_is_there(data_dir: Path, published: bytes) -> None:
    before = sorted((data_dir / "sentiment").iterdir())
    suite(data_dir).prepare(list(COUNTS))
    assert sorted((data_dir / "sentiment").iterdir()) == before


def test_prepare_uses_a_source_distribution_that_lies_there(tmp_path: Path, published: bytes) -> None:
    (tmp_path / "sentiment").mkdir()
    (tmp_path / "sentiment" / "vaderSentiment-3.3.2.tar.gz").write_bytes(published)
    suite(tmp_path).prepare(["amazon"])
    assert (tmp_path / "sentiment" / "amazon.tsv").read_bytes() == made_up_file("amazon")


def test_wrong_source_distribution_that_lies_there(tmp_path: Path, published: bytes) -> None:
    (tmp_path / "sentiment").mkdir()
    path = tmp_path / "sentiment" / "vaderSentiment-3.3.2.tar.gz"
    path.write_bytes(published[:-1])
    with pytest.raises(MissingDataError, match="SHA-256") as caught:
        suite(tmp_path).prepare(["amazon"])
    assert f"Replace or delete {path}" in str(caught.value)
    assert not (tmp_path / "sentiment" / "amazon.tsv").exists()


def test_failed_download_tells_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: SourceDistribution) -> bytes:
        raise DownloadError("pip could not\n  ERROR: no network")

    monkeypatch.setattr(sentiment, "download_source_distribution", fail)
    with pytest.raises(MissingDataError) as caught:
        suite(tmp_path).prepare(["tweets"])
    message = str(caught.value)
    assert "ERROR: no network" in message
    assert f"put it at {tmp_path / 'sentiment' / 'vaderSentiment-3.3.2.tar.gz'}" in message


@pytest.mark.parametrize("part", ["data archive", "file"])
def test_contents_are_checked(tmp_path: Path, published: bytes, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    serve(monkeypatch, published)
    if part == "data archive":
        monkeypatch.setattr(sentiment, "DATA_ARCHIVE_SHA256", "0" * 64)
    else:
        monkeypatch.setitem(sentiment.DOMAINS, "nyt", replace(sentiment.DOMAINS["nyt"], sha256="0" * 64))
    with pytest.raises(MissingDataError, match="expected 0000"):
        suite(tmp_path).prepare(["tweets"])
    assert list((tmp_path / "sentiment").glob("*.tsv")) == []


def test_file_with_other_contents_is_refused(data_dir: Path, published: bytes) -> None:
    path = data_dir / "sentiment" / "movie.tsv"
    path.write_bytes(b"1\t2\tsomething else")
    assert suite(data_dir).missing(["tweets"]) == []
    (message,) = suite(data_dir).missing(["tweets", "movie"])
    assert str(path) in message
    assert "Delete it and run again" in message
    with pytest.raises(DataError, match="Delete it and run again"):
        suite(data_dir).prepare(["movie"])


def test_absent_files_are_not_missing_because_prepare_brings_them(tmp_path: Path) -> None:
    assert suite(tmp_path).missing(list(COUNTS)) == []
    with pytest.raises(MissingDataError, match=r"tweets\.tsv is not there\. SentimentSuite\.prepare downloads it"):
        suite(tmp_path).examples("tweets", "train")


def _prepare(data_dir: Path, distribution: bytes, downloads: Any, barrier: Any) -> None:
    def download(_: SourceDistribution) -> bytes:
        with downloads.get_lock():
            downloads.value += 1
        time.sleep(0.3)  # long enough for the other job to come by
        return distribution

    sentiment.download_source_distribution = download  # type: ignore[assignment]  # in a process of its own
    barrier.wait()
    suite(data_dir).prepare(list(COUNTS))


def test_two_jobs_download_once(tmp_path: Path, published: bytes) -> None:
    context = multiprocessing.get_context("fork")
    downloads, barrier = context.Value("i", 0), context.Barrier(2)
    jobs = [context.Process(target=_prepare, args=(tmp_path, published, downloads, barrier)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert downloads.value == 1


def test_ratings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes(b"\xef\xbb\xbf1_1\t-0.9\tbad &amp; ugly &lt;3 \r\n1_2\t3\t gut \xc3\xa9\n2_1\t0\tlast")
    rows = read_ratings(path, has_documents=True)
    assert [(row.document, row.score, row.text) for row in rows] == [
        ("1", -0.9, "bad & ugly <3"),
        ("1", 3.0, "gut é"),
        ("2", 0.0, "last"),
    ]
    assert [row.document for row in read_ratings(path, has_documents=False)] == ["1_1", "1_2", "2_1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2\t1.0", "expected 3 tab-separated fields .* found 2"),
        ("2\t1.0\ta\tb", "expected 3 tab-separated fields .* found 4"),
        ("2\tgood\ta", "the rating must be a number from -4 to 4, found 'good'"),
        ("2\t4.1\ta", "the rating must be a number from -4 to 4, found '4.1'"),
        ("2\tnan\ta", "the rating must be a number from -4 to 4, found 'nan'"),
        ("2\t1\t ", "the text is empty"),
        ("\t1\ta", "the id must be not empty"),
        ("1\t1\ta", "id '1' occurs twice"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(f"1\t1\tfine\n{line}\n3\t1\tfine\n")
    with pytest.raises(DataError, match=rf"x\.tsv:2: {message}"):
        read_ratings(path, has_documents=False)


def test_ids_must_name_a_document(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("1_1\t1\tfine\n7\t1\ta\n_3\t1\ta\n")
    with pytest.raises(DataError) as caught:
        read_ratings(path, has_documents=True)
    assert [line.split(": ")[0][-2:] for line in str(caught.value).splitlines()] == [":2", ":3"]
    assert "the id must be document_sentence, found '7'" in str(caught.value)


def test_documents_are_shared_out() -> None:
    documents = [f"document {number // 3}" for number in range(300)]
    splits = split_documents(documents, 0)
    assert [list(splits.values()).count(split) for split in SPLITS] == [70, 10, 20]
    assert splits == split_documents(documents, 0)
    assert splits != split_documents(documents, 1)


@pytest.mark.parametrize("corpus", COUNTS)
def test_no_document_is_in_two_splits(data_dir: Path, corpus: str) -> None:
    regression = suite(data_dir, target="regression")
    ids = [{example.text.split()[1] for example in regression.examples(corpus, split)} for split in SPLITS]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 24
    documents = [{name.split("_")[0] for name in part} for part in ids]
    assert all(documents)
    assert sum(map(len, documents)) == len(set().union(*documents))


def test_binary_task(data_dir: Path) -> None:
    binary = suite(data_dir)
    task = binary.task("tweets")
    assert (task.kind, task.labels, task.key_score) == ("single_label", ("negative", "positive"), "macro_f1")
    found = {example.text: example.label for split in SPLITS for example in binary.examples("tweets", split)}
    # Scores go from -2 in steps of 0.2, so -0.4 to 0.4 are left out.
    expected = {f"tweets {n + 1}": int(n > 10) for n in range(24) if not 8 <= n <= 12}
    assert found == expected


def test_minimum_score(data_dir: Path) -> None:
    strict = suite(data_dir, minimum_score=2.0)
    texts = {example.text for split in SPLITS for example in strict.examples("tweets", split)}
    assert texts == {"tweets 1", "tweets 21", "tweets 22", "tweets 23", "tweets 24"}


def test_regression_task_keeps_all_with_their_ratings(data_dir: Path) -> None:
    regression = suite(data_dir, target="regression")
    task = regression.task("nyt")
    assert (task.kind, task.labels, task.key_score) == ("regression", ("score",), "pearson")
    found = sorted(example.label for split in SPLITS for example in regression.examples("nyt", split))
    assert found == pytest.approx([-2 + 0.2 * n for n in range(24)])


def test_targets_share_their_splits(data_dir: Path) -> None:
    for split in SPLITS:
        binary = {example.text for example in suite(data_dir).examples("nyt", split)}
        assert binary <= {example.text for example in suite(data_dir, target="regression").examples("nyt", split)}


def test_limits_choose_a_seeded_subset(data_dir: Path) -> None:
    everything = suite(data_dir).examples("movie", "train")
    few, more = (suite(data_dir, train_examples=limit).examples("movie", "train") for limit in (3, 7))
    assert (len(few), len(more)) == (3, 7)
    assert [example for example in more if example in few] == few
    assert [example for example in everything if example in more] == more
    limited = suite(data_dir, dev_examples=1, test_examples=2)
    assert [len(limited.examples("movie", split)) for split in SPLITS] == [len(everything), 1, 2]
    assert limited.out_of_domain_examples("movie") == limited.examples("movie", "test")


def test_members_that_are_not_merged_are_out_of_domain(data_dir: Path) -> None:
    assert suite(data_dir).members == ("tweets", "movie", "amazon", "nyt")
    assert suite(data_dir).out_of_domain(["amazon", "tweets"]) == ("movie", "nyt")
    assert suite(data_dir).out_of_domain(list(COUNTS)) == ()


def test_unknown_corpus(data_dir: Path) -> None:
    with pytest.raises(DataError, match="unknown corpus 'films'; known are tweets, movie, amazon, nyt"):
        suite(data_dir).examples("films", "train")


def test_fingerprint_changes_with_what_changes_a_member(data_dir: Path) -> None:
    base = suite(data_dir).fingerprint("nyt")
    assert len(base) == 64
    assert base == suite(data_dir, test_examples=1).fingerprint("nyt")
    others = [
        suite(data_dir, **{name: value}).fingerprint("nyt")
        for name, value in (
            ("target", "regression"),
            ("minimum_score", 1.0),
            ("split_seed", 1),
            ("train_examples", 2),
            ("dev_examples", 2),
        )
    ]
    others.append(suite(data_dir).fingerprint("amazon"))
    (data_dir / "sentiment" / "nyt.tsv").write_bytes(b"1_1\t1\ta")
    others.append(suite(data_dir).fingerprint("nyt"))
    assert len({base, *others}) == 8


def test_settings_that_cannot_work_are_all_named(data_dir: Path) -> None:
    assert suite(data_dir).problems() == []
    problems = suite(data_dir, target="ternary", minimum_score=0, test_examples=0).problems()
    assert [problem.split(":")[0] for problem in problems] == ["test_examples", "target", "minimum_score"]


@pytest.mark.skipif(REAL is None, reason="neither REGMEAN_LAB_SENTIMENT nor REGMEAN_LAB_DATA names the data")
def test_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REGMEAN_LAB_SENTIMENT: a folder with the source distribution or the files; REGMEAN_LAB_DATA: a data folder."""
    assert REAL is not None
    forbid_network(monkeypatch)
    (tmp_path / "sentiment").mkdir()
    for path in [*REAL.glob("*.tsv"), *REAL.glob("vaderSentiment-3.3.2.tar.gz")]:
        shutil.copy(path, tmp_path / "sentiment")
    real = suite(tmp_path, target="regression")
    real.prepare(list(COUNTS))
    assert real.missing(list(COUNTS)) == []
    for corpus, count in COUNTS.items():
        sizes = [len(real.examples(corpus, split)) for split in SPLITS]
        assert sum(sizes) == count
        assert [size / count for size in sizes] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    # Counted with awk in the published files: |rating| >= 0.5, and of these above 0.
    binary = suite(tmp_path)
    labels = {corpus: [e.label for split in SPLITS for e in binary.examples(corpus, split)] for corpus in COUNTS}
    assert {corpus: len(values) for corpus, values in labels.items()} == {
        "tweets": 3432,
        "movie": 10072,
        "amazon": 2985,
        "nyt": 2970,
    }
    assert {corpus: sum(values) for corpus, values in labels.items()} == {  # type: ignore[arg-type]
        "tweets": 2345,
        "movie": 4996,
        "amazon": 1750,
        "nyt": 1187,
    }
