from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from regmean_lab.prepare import PrepareError, Request
from regmean_lab.prepare.ner_open import CORPORA, OpenNerPreparer
from regmean_lab.suites.base import SPLITS
from regmean_lab.suites.conll import read_columns
from regmean_lab.suites.entity_suite import EntitySettings
from regmean_lab.suites.ner_open import OpenNerSuite

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")

WIKIGOLD = "".join(
    f"-DOCSTART- O\n\nArticle O\n{number} O\n\nIn O\nParis{number} I-LOC\nthe O\nMad I-ORG\nMarkets I-ORG\n. O\n\n"
    f"Japanese I-MISC\nAnn{number} I-PER\n\n"
    for number in range(10)
)
SECTION = "".join(f"#\tO\nShaw{number}\tB-per\nGale\tI-per\nin\tO\nLeeds\tB-loc\n\n" for number in range(20))
WNUT = {
    "wnut17train.conll": (
        "the\tB-group\nbengals\tI-group\nlenovo\tB-corporation\nyoga\tB-product\n\t\nTrain\tB-location\n"
    ),
    "emerging.dev.conll": "Rick\tB-creative-work\nand\tI-creative-work\n\nMoe\tB-person\n\n",
    "emerging.test.annotated": "Test\tO\n\n",
}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    sections = {f"{section}.conll": SECTION.replace("Shaw", section) for section in "abg"}
    for name, text in {"wikigold.conll.txt": WIKIGOLD, **sections, **WNUT}.items():
        (folder / name).write_text(text)
    return folder


def prepare(tmp_path: Path, mirror: Path | str, seed: int = 0, force: bool = False) -> Path:
    data_dir = tmp_path / "data"
    OpenNerPreparer().prepare(Request(data_dir, mirror=str(mirror), seed=seed, force=force))
    return data_dir / "ner_open"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_the_suite_reads_what_is_written(tmp_path: Path, mirror: Path) -> None:
    folder = prepare(tmp_path, mirror)
    suite = OpenNerSuite(tmp_path / "data", EntitySettings())
    assert set(OpenNerPreparer().files(tmp_path)) == set(suite.members)
    assert suite.missing(suite.members) == []
    sizes = {corpus: [len(suite.examples(corpus, split)) for split in SPLITS] for corpus in suite.members}
    assert sizes == {
        "wikigold": [21, 3, 6],
        "btc_a": [14, 2, 4],
        "btc_b": [14, 2, 4],
        "btc_g": [14, 2, 4],
        "wnut17": [2, 2, 1],
    }
    assert "CC BY 4.0" in (folder / "NOTICE.txt").read_text()


def test_tags(tmp_path: Path, mirror: Path) -> None:
    folder = prepare(tmp_path, mirror)
    assert lines(folder / "wnut17" / "train.conll") == [
        "the B-ORG wnut17",
        "bengals I-ORG wnut17",
        "lenovo B-ORG wnut17",
        "yoga O wnut17",
        "",
        "Train B-LOC wnut17",
        "",
    ]
    assert lines(folder / "wnut17" / "dev.conll") == ["Rick O wnut17", "and O wnut17", "", "Moe B-PER wnut17", ""]
    gold = Counter(
        tag for split in SPLITS for one in read_columns(folder / "wikigold" / f"{split}.conll") for tag in one.tags
    )
    assert gold == {"O": 60, "B-LOC": 10, "B-ORG": 10, "I-ORG": 10, "B-PER": 10}
    assert lines(folder / "btc_g" / "dev.conll")[1][0] == "g"
    assert lines(folder / "btc_g" / "dev.conll")[1].endswith(" B-PER btc_g")


def test_random_splits_keep_every_sentence_and_follow_the_seed(tmp_path: Path, mirror: Path) -> None:
    def sentences(folder: Path) -> list[list[tuple[str, ...]]]:
        return [[one.tokens for one in read_columns(folder / "btc_a" / f"{split}.conll")] for split in SPLITS]

    first = sentences(prepare(tmp_path, mirror))
    assert Counter(one for part in first for one in part) == Counter(
        ("#", f"a{number}", "Gale", "in", "Leeds") for number in range(20)
    )
    assert sentences(prepare(tmp_path, mirror, seed=1)) == first  # what is there stays
    assert sentences(prepare(tmp_path, mirror, seed=1, force=True)) != first
    assert sentences(prepare(tmp_path, mirror, force=True)) == first


def test_upstream_files_are_kept_and_no_longer_fetched(tmp_path: Path, mirror: Path) -> None:
    folder = prepare(tmp_path, mirror)
    kept = {path.name for path in (folder / "upstream").iterdir()} - {".lock"}
    assert kept == {file.name for corpus in CORPORA.values() for file in corpus.files.values()} | {"SHA256SUMS"}
    empty = tmp_path / "empty"
    empty.mkdir()
    prepare(tmp_path, empty, force=True)
    (folder / "upstream" / "a.conll").write_text(SECTION)
    with pytest.raises(PrepareError, match=r"btc_a: a\.conll: SHA-256 of"):
        prepare(tmp_path, empty, force=True)


def test_a_missing_file_stops_only_its_corpus(tmp_path: Path, mirror: Path) -> None:
    (mirror / "b.conll").unlink()
    (mirror / "emerging.dev.conll").unlink()
    with pytest.raises(PrepareError) as caught:
        prepare(tmp_path, mirror)
    first, second = str(caught.value).splitlines()
    assert first.startswith(
        f"btc_b: b.conll: not in the mirror {mirror}; its publisher has it at https://raw.githubuser"
    )
    assert second.startswith("wnut17: emerging.dev.conll: not in the mirror")
    written = {path.parent.name for path in (tmp_path / "data" / "ner_open").glob("*/train.conll")}
    assert written == {"wikigold", "btc_a", "btc_g"}


def test_malformed_upstream_files(tmp_path: Path, mirror: Path) -> None:
    (mirror / "g.conll").write_text("a\tO\nbroken\n")
    with pytest.raises(PrepareError, match=r"upstream/g\.conll:2: expected 2 columns"):
        prepare(tmp_path, mirror)


def test_addresses_name_a_commit() -> None:
    urls = [file.url for corpus in CORPORA.values() for file in corpus.files.values()]
    assert len(urls) == len(set(urls)) == 7
    for url in urls:
        owner_and_rest = url.removeprefix("https://raw.githubusercontent.com/").split("/")
        assert len(owner_and_rest[2]) == 40 and set(owner_and_rest[2]) <= set("0123456789abcdef")


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
@pytest.mark.parametrize(("corpus", "name"), [("btc_a", "a.conll"), ("btc_b", "b.conll")])
def test_real_sentences_come_back(tmp_path: Path, mirror: Path, corpus: str, name: str) -> None:
    assert DATA is not None
    real = [
        sentence for split in SPLITS for sentence in read_columns(Path(DATA) / "ner_open" / corpus / f"{split}.conll")
    ]
    rows = ["".join(f"{token}\t{tag}\n" for token, tag in zip(one.tokens, one.tags, strict=True)) for one in real]
    (mirror / name).write_text("\n".join(rows))
    folder = prepare(tmp_path, mirror)
    again = [sentence for split in SPLITS for sentence in read_columns(folder / corpus / f"{split}.conll")]
    assert Counter(again) == Counter(real)
