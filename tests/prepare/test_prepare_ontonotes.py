from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from regmean_lab.prepare import PrepareError, Request
from regmean_lab.prepare.ontonotes import OntoNotesPreparer, find_files, read_gold
from regmean_lab.suites.base import SPLITS, DataError
from regmean_lab.suites.ner import GENRES, NerSettings, NerSuite

SPLIT_FOLDERS = ("train", "development", "test")


def column_line(word: str, entity: str, number: int = 0) -> str:
    """A line as in CoNLL-2012: eleven columns to the entity, one predicate argument, coreference."""
    return f"bc/x/00/x_0001   0   {number}   {word}   NNP   (TOP(S*   -   -   -   Speaker   {entity}   (ARG0*)   (12)\n"


def gold(*sentences: list[tuple[str, str]]) -> str:
    text = "#begin document (bc/x/00/x_0001); part 000\n"
    for sentence in sentences:
        text += "".join(column_line(word, entity, number) for number, (word, entity) in enumerate(sentence)) + "\n"
    return text + "#end document\n"


FIRST = [
    ("-LRB-", "*"),
    ("John", "(PERSON*"),
    ("A.", "*"),
    ("Smith", "*)"),
    ("#", "*"),
    ("of", "*"),
    ("Oslo", "(GPE)"),
    ("Rome", "(GPE)"),
    ("Monday", "(DATE)"),
    ("works", "*"),
]
SECOND = [("The", "(WORK_OF_ART*"), ("Alps", "*)"), ("Alps", "(LOC)"), ("UN", "(ORG*)")]


def release(folder: Path) -> Path:
    """A folder laid out like CoNLL-2012, with one file a split and genre, and files that are not wanted."""
    for split in SPLIT_FOLDERS:
        for genre in (*GENRES, "pt"):
            place = folder / "v4" / "data" / split / "data" / "english" / "annotations" / genre / "x" / "00"
            place.mkdir(parents=True)
            (place / "x_0001.v4_gold_conll").write_text(gold([(f"{split}-{genre}", "(PERSON)")], FIRST, SECOND))
            (place / "x_0001.v4_auto_conll").write_text("not to be read")
        chinese = folder / "v4" / "data" / split / "data" / "chinese" / "annotations" / "bc" / "x" / "00"
        chinese.mkdir(parents=True)
        (chinese / "x_0001.v4_gold_conll").write_text("not to be read")
    return folder


def prepare(tmp_path: Path, source: Path | None, force: bool = False) -> None:
    OntoNotesPreparer().prepare(Request(tmp_path / "data", source=source, force=force))


def file_of(tmp_path: Path, *sentences: list[tuple[str, str]]) -> Path:
    path = tmp_path / "x_0001.v4_gold_conll"
    path.write_text(gold(*sentences))
    return path


def test_brackets_become_bio(tmp_path: Path) -> None:
    first, second = read_gold(file_of(tmp_path, FIRST, SECOND))
    assert first.tokens == tuple(word for word, _ in FIRST)
    assert first.tags == ("O", "B-PER", "I-PER", "I-PER", "O", "O", "B-LOC", "B-LOC", "O", "O")
    assert second.tags == ("O", "O", "B-LOC", "B-ORG")


def test_the_suite_reads_what_is_written(tmp_path: Path) -> None:
    prepare(tmp_path, release(tmp_path / "from"))
    suite = NerSuite(tmp_path / "data", NerSettings())
    assert suite.missing(GENRES) == []
    for genre in GENRES:
        for split, folder in zip(SPLITS, SPLIT_FOLDERS, strict=True):
            examples = suite.examples(genre, split)
            assert [len(example.tokens) for example in examples] == [1, 10, 4]
            assert examples[0].tokens == (f"{folder}-{genre}",) and examples[0].tags == ("B-PER",)
            assert examples[1].tokens[0] == "("
    folder = tmp_path / "data" / "ner" / "ontonotes"
    assert len(list(folder.glob("*.ner"))) == 18
    assert (folder / "onto.development.bn.ner").read_text().startswith("development-bn B-PER bn\n\n-LRB- O bn\n")
    assert "LDC2013T19" in (folder / "NOTICE.txt").read_text()


def test_files_are_read_in_order_of_their_paths(tmp_path: Path) -> None:
    folder = release(tmp_path / "from")
    place = folder / "v4" / "data" / "train" / "data" / "english" / "annotations" / "nw"
    for name in ("b", "a"):
        (place / name).mkdir()
        (place / name / f"{name}.v4_gold_conll").write_text(gold([(name, "*")]))
    names = [path.name[0] for path in find_files(folder)["train", "nw"]]
    assert names == ["a", "b", "x"]


def test_from_can_be_a_folder_inside(tmp_path: Path) -> None:
    folder = release(tmp_path / "from")
    inside = find_files(folder / "v4" / "data" / "test" / "data" / "english")
    assert set(inside) == {("test", genre) for genre in (*GENRES, "pt")}


def test_missing_sources(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="give from= a folder of CoNLL-2012"):
        prepare(tmp_path, None)
    with pytest.raises(PrepareError, match=r"no file .*_gold_conll$"):
        prepare(tmp_path, tmp_path)
    (tmp_path / "x.v4_gold_skel").write_text("")
    with pytest.raises(PrepareError, match=r"skeleton2conll\.sh"):
        prepare(tmp_path, tmp_path)


def test_a_genre_that_lacks_a_split_stops_only_itself(tmp_path: Path) -> None:
    folder = release(tmp_path / "from")
    shutil.rmtree(folder / "v4" / "data" / "test" / "data" / "english" / "annotations" / "tc")
    with pytest.raises(PrepareError, match=r"^tc: no \*_gold_conll file in test/data/english/annotations/tc$"):
        prepare(tmp_path, folder)
    written = {path.name.split(".")[2] for path in (tmp_path / "data" / "ner" / "ontonotes").glob("*.ner")}
    assert written == set(GENRES) - {"tc"}


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ([("a", "(ORG*"), ("b", "(GPE)")], ":3: an entity begins inside that of line 2"),
        ([("a", "*"), ("b", "*)")], ":3: a bracket closes no entity"),
        ([("a", "*"), ("b", "(ORG*"), ("c", "*")], r":3: the entity \(ORG is not closed within its sentence"),
        ([("a", "B-ORG")], r":2: column 11 must be like \*, \(ORG\*, \*\) or \(ORG\), found 'B-ORG'"),
        ([("[WORD]", "*")], r":2: the word is the placeholder \[WORD\]"),
    ],
)
def test_malformed_entities(tmp_path: Path, sentence: list[tuple[str, str]], message: str) -> None:
    path = file_of(tmp_path, sentence, [("fine", "*")])
    with pytest.raises(DataError, match=f"^{path}{message}"):
        read_gold(path)


def test_an_entity_that_is_open_where_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "x_gold_conll"
    path.write_text(column_line("a", "*") + column_line("b", "(ORG*").rstrip("\n"))
    with pytest.raises(DataError, match=r":2: the entity \(ORG is not closed"):
        read_gold(path)


def test_too_few_columns(tmp_path: Path) -> None:
    path = tmp_path / "x_gold_conll"
    path.write_text(column_line("a", "*") + "bc/x 0 1 b NN *\n")
    with pytest.raises(DataError, match=r":2: expected at least 12 columns, found 6"):
        read_gold(path)


def test_malformed_files_write_nothing_of_their_genre(tmp_path: Path) -> None:
    folder = release(tmp_path / "from")
    place = folder / "v4" / "data" / "train" / "data" / "english" / "annotations" / "wb" / "x" / "00"
    (place / "x_0001.v4_gold_conll").write_text(gold([("a", "*)")]))
    with pytest.raises(PrepareError, match=r"^wb: .*wb/x/00/x_0001\.v4_gold_conll:2: a bracket closes no entity$"):
        prepare(tmp_path, folder)
    assert not list((tmp_path / "data" / "ner" / "ontonotes").glob("*.wb.ner"))
