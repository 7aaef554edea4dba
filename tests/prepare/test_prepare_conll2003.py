from __future__ import annotations

from pathlib import Path

import pytest

from regmean_lab.prepare import PrepareError, Request
from regmean_lab.prepare.conll2003 import Conll2003Preparer
from regmean_lab.suites.base import SPLITS, DataError
from regmean_lab.suites.ner import NerSettings, NerSuite

TRAIN = """\
-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O
. . O O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

Ann NNP I-NP I-PER
Bob NNP I-NP B-PER
Lee NNP I-NP I-PER
"""
NAMES = ("eng.train", "eng.testa", "eng.testb")


def sources(folder: Path, names: tuple[str, ...] = NAMES, text: str = TRAIN) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_text(text.replace("EU", f"EU{number}"))
    return folder


def prepare(tmp_path: Path, source: Path | None, force: bool = False) -> None:
    Conll2003Preparer().prepare(Request(tmp_path / "data", source=source, force=force))


def test_iob1_becomes_bio_without_misc(tmp_path: Path) -> None:
    prepare(tmp_path, sources(tmp_path / "from"))
    folder = tmp_path / "data" / "ner" / "conll2003"
    assert (folder / "train.conll").read_text() == (
        "EU0 B-ORG conll2003\nrejects O conll2003\nGerman O conll2003\ncall O conll2003\n. O conll2003\n\n"
        "Peter B-PER conll2003\nBlackburn I-PER conll2003\n\n"
        "Ann B-PER conll2003\nBob B-PER conll2003\nLee I-PER conll2003\n\n"
    )
    assert "NIST" in (folder / "NOTICE.txt").read_text()


@pytest.mark.parametrize("names", [NAMES, ("train.txt", "valid.txt", "test.txt")])
def test_the_suite_reads_what_is_written(tmp_path: Path, names: tuple[str, ...]) -> None:
    prepare(tmp_path, sources(tmp_path / "from", names))
    suite = NerSuite(tmp_path / "data", NerSettings())
    assert suite.missing(["conll2003"]) == []
    for number, split in enumerate(SPLITS):
        first, *_ = suite.examples("conll2003", split)
        assert first.tokens[0] == f"EU{number}" and first.tags[0] == "B-ORG"


def test_missing_sources(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"give from= a folder with eng\.train, eng\.testa and eng\.testb"):
        prepare(tmp_path, None)
    folder = sources(tmp_path / "from", ("eng.train",))
    with pytest.raises(PrepareError, match=r"no eng\.testa \(or valid\.txt\), no eng\.testb \(or test\.txt\)"):
        prepare(tmp_path, folder)
    with pytest.raises(PrepareError, match=r"eng\.train is a file; expected a folder"):
        prepare(tmp_path, folder / "eng.train")


def test_malformed_lines_write_nothing(tmp_path: Path) -> None:
    folder = sources(tmp_path / "from")
    (folder / "eng.testb").write_text(TRAIN.replace("call NN I-NP O", "call NN O"))
    with pytest.raises(DataError, match=r"eng\.testb:6: expected 4 columns \(token first, tag last\), found 3"):
        prepare(tmp_path, folder)
    assert not (tmp_path / "data").exists()


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    prepare(tmp_path, sources(tmp_path / "from"))
    path = tmp_path / "data" / "ner" / "conll2003" / "train.conll"
    before = path.read_bytes()
    changed = sources(tmp_path / "from", text=TRAIN.replace("EU", "Oslo"))
    prepare(tmp_path, changed)
    assert path.read_bytes() == before
    prepare(tmp_path, changed, force=True)
    assert path.read_bytes() == before.replace(b"EU0", b"Oslo")
