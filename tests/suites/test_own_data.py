"""Suites of one's own data: files of any format, splits, labels, and everything that can be wrong with them."""

from __future__ import annotations

import csv
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from regmean_lab.suites.base import DataError, Example
from regmean_lab.suites.conll import TokenExample
from regmean_lab.suites.own_data import OwnDataSuite
from regmean_lab.suites.text_classification import TextClassificationSettings, TextClassificationSuite
from regmean_lab.suites.text_encoding import PromptedText, TextExample
from regmean_lab.suites.text_generation import TextGenerationSettings, TextGenerationSuite
from regmean_lab.suites.text_regression import TextRegressionSettings, TextRegressionSuite
from regmean_lab.suites.token_classification import TokenClassificationSettings, TokenClassificationSuite


def rows_of(count: int, labels: Sequence[Any] = ("bad", "good"), seed: int = 0) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    return [{"text": f"number {seed} {number}", "label": generator.choice(labels)} for number in range(count)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Rows in the format that the file's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


def classification(corpora: dict[str, Any], data_dir: Path = Path(), **settings: Any) -> TextClassificationSuite:
    return TextClassificationSuite(data_dir, TextClassificationSettings(corpora=corpora, **settings))


def all_examples(suite: OwnDataSuite, corpus: str) -> dict[str, list[Any]]:
    return {split: suite.examples(corpus, split) for split in ("train", "dev", "test")}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_examples_and_fingerprint(tmp_path: Path, ending: str) -> None:
    rows = rows_of(50)
    suite = classification({"a": write(tmp_path / f"data{ending}", rows)})
    assert suite.problems() == []
    found = all_examples(suite, "a")
    expected = Counter((row["text"], ("bad", "good").index(row["label"])) for row in rows)
    assert Counter((example.text, example.label) for part in found.values() for example in part) == expected
    other = classification({"a": write(tmp_path / "elsewhere" / "x.jsonl", rows)})
    assert suite.fingerprint("a") == other.fingerprint("a")
    changed = classification({"a": write(tmp_path / "changed.jsonl", [*rows[:-1], {**rows[-1], "text": "other"}])})
    assert suite.fingerprint("a") != changed.fingerprint("a")


def test_drawn_splits_have_their_shares_and_share_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "a.csv", rows_of(200))
    found = all_examples(classification({"a": data}, dev_share=0.15, test_share=0.25), "a")
    assert {split: len(part) for split, part in found.items()} == {"train": 120, "dev": 30, "test": 50}
    texts = [example.text for part in found.values() for example in part]
    assert len(set(texts)) == 200
    again = all_examples(classification({"a": data}, dev_share=0.15, test_share=0.25), "a")
    other = all_examples(classification({"a": data}, dev_share=0.15, test_share=0.25, split_seed=1), "a")
    assert again == found
    assert {example.text for example in other["test"]} != {example.text for example in found["test"]}


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = [{**row, "author": f"author {number % 17}"} for number, row in enumerate(rows_of(170))]
    author = {row["text"]: row["author"] for row in rows}
    found = all_examples(classification({"a": write(tmp_path / "a.jsonl", rows)}, group="author"), "a")
    authors = {split: {author[example.text] for example in part} for split, part in found.items()}
    assert not authors["train"] & authors["dev"]
    assert not authors["train"] & authors["test"]
    assert not authors["dev"] & authors["test"]
    assert len(found["test"]) == 40  # groups of ten until there are 34


def test_folders_of_splits_and_splits_by_name(tmp_path: Path) -> None:
    parts = {split: rows_of(20, seed=seed) for seed, split in enumerate(("train", "validation", "test"))}
    for split, rows in parts.items():
        write(tmp_path / "a" / f"{split}.jsonl", rows)
    named = {"train": str(tmp_path / "a" / "train.jsonl"), "test": str(tmp_path / "a" / "test.jsonl")}
    suite = classification({"folder": "a", "named": named}, tmp_path)
    texts = {split: [example.text for example in part] for split, part in all_examples(suite, "folder").items()}
    expected = {
        split: [row["text"] for row in parts[name]]
        for split, name in (("train", "train"), ("dev", "validation"), ("test", "test"))
    }
    assert texts == expected
    drawn = all_examples(suite, "named")  # a dev split is drawn from the training rows, a test split is there
    assert len(drawn["train"]) == 18
    assert len(drawn["dev"]) == 2
    assert [example.text for example in drawn["test"]] == [row["text"] for row in parts["test"]]


def test_data_sets_are_read_by_their_splits_and_streamed_with_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked = []
    parts = {"train": rows_of(40), "validation": rows_of(10, seed=1)}

    def load(name: str, subset: str | None, *, split: str, revision: str | None, streaming: bool = False) -> Any:
        asked.append((name, subset, split, revision, streaming))
        made = datasets.Dataset.from_list(parts[split])
        return made.to_iterable_dataset() if streaming else made

    monkeypatch.setattr(datasets, "load_dataset", load)
    described = {
        "data": "someone/reviews",
        "subset": "en",
        "revision": "v1",
        "train": "train",
        "dev": "validation",
    }
    found = all_examples(classification({"a": described}, rows=30), "a")
    assert asked == [
        ("someone/reviews", "en", "train", "v1", True),
        ("someone/reviews", "en", "validation", "v1", True),
    ]
    assert [len(found[split]) for split in ("train", "dev", "test")] == [24, 10, 6]  # the test split is drawn
    asked.clear()
    assert len(classification({"a": {"data": "someone/reviews"}}).examples("a", "train")) == 28
    assert asked == [("someone/reviews", None, "train", None, False)]


def test_nothing_is_fetched_while_a_local_file_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("fetched"))
    assert "no such file" in "\n".join(classification({"a": "someone/reviews", "b": "absent.csv"}).problems())


@pytest.mark.parametrize(
    ("values", "names", "ids"),
    [
        (["pos", "neg"], ("neg", "pos"), [1, 0]),
        ([3, 1, 10], ("1", "3", "10"), [1, 0, 2]),
        (["1", "0"], ("0", "1"), [1, 0]),
        ([1.0, 0.0], ("0", "1"), [1, 0]),
        ([-1, 0, 1], ("-1", "0", "1"), [0, 1, 2]),
        ([True, False], ("false", "true"), [1, 0]),
        ([" pos ", "neg"], ("neg", "pos"), [1, 0]),
    ],
)
def test_labels_are_found_in_the_data(
    tmp_path: Path, values: list[Any], names: tuple[str, ...], ids: list[int]
) -> None:
    rows = [{"text": f"text {number}", "label": values[number % len(values)]} for number in range(30)]
    suite = classification({"a": write(tmp_path / "a.jsonl", rows)})
    assert suite.task("a").labels == names
    by_text = {example.text: example.label for part in all_examples(suite, "a").values() for example in part}
    assert [by_text[f"text {number}"] for number in range(len(values))] == ids


def test_named_labels_are_given_by_name_or_number(tmp_path: Path) -> None:
    numbers = write(tmp_path / "numbers.csv", rows_of(30, (0, 1)))
    words = write(tmp_path / "words.csv", rows_of(30, ("negative", "positive")))
    suite = classification({"a": numbers, "b": words}, labels=["negative", "positive"])
    assert suite.task("a").labels == suite.task("b").labels == ("negative", "positive")
    a, b = ([example.label for example in suite.examples(name, "train")] for name in "ab")
    assert a == b


def test_corpora_out_of_domain_are_evaluated_whole(tmp_path: Path) -> None:
    suite = classification(
        {name: write(tmp_path / f"{name}.csv", rows_of(30, seed=seed)) for seed, name in enumerate(("a", "b", "far"))},
        out_of_domain=["far"],
    )
    assert suite.members == ("a", "b")
    assert suite.out_of_domain(["a", "b"]) == ("far",)
    assert len(suite.out_of_domain_examples("far")) == 30
    assert suite.member_problems(["far"]) == [
        "members: far is only evaluated; to train on it, leave it out of suite.out_of_domain"
    ]
    everything = classification({name: str(tmp_path / f"{name}.csv") for name in ("a", "b", "far")})
    assert everything.out_of_domain(["a", "b"]) == ("far",)
    assert len(everything.out_of_domain_examples("far")) == 6


def test_pairs_of_texts(tmp_path: Path) -> None:
    rows = [{"premise": f"p {number}", "hypothesis": f"h {number}", "label": number % 3} for number in range(30)]
    suite = classification({"a": write(tmp_path / "a.jsonl", rows)})
    example = suite.examples("a", "train")[0]
    assert (example.text[0], example.text_pair[0]) == ("p", "h")
    named = classification({"a": {"data": str(tmp_path / "a.jsonl"), "text": ["hypothesis", "premise"]}})
    assert named.examples("a", "train")[0].text[0] == "h"


def broken(tmp_path: Path, name: str, content: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


GOOD = "text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(20))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "latin1.csv",
            GOOD.replace("text 3", "t\u00e9xt 3").encode("latin-1"),
            r"corpora\.x: .*latin1\.csv:5: not UTF-8",
        ),
        ("empty.csv", b"", r"corpora\.x: .*empty\.csv.*(holds no example|is empty|has no rows)"),
        ("header.csv", "good film,1\nbad film,0\n", r"header\.csv:1: cannot tell whether the first line is a header"),
        (
            "no_label.csv",
            GOOD.replace("text,label", "text,kind"),
            "label: which column holds the labels is not",
        ),
        ("blank.csv", GOOD.replace("text 4,a", "text 4,"), r"blank\.csv:6: label: expected one of a, b.*left out"),
        ("one.csv", GOOD.replace(",b", ",a"), r"labels: all rows have the label 'a'; expected at least two"),
        ("mixed.csv", GOOD.replace(",b", ",1"), r"labels are numbers \(1 in x\) and words \(a in x\).*suite\.labels="),
        ("capital.csv", GOOD.replace("text 4,a", "text 4,A"), r"'A' and 'a' differ in capital letters only"),
        (
            "accent.csv",
            GOOD.replace(",b", ",\u00e2").replace("text 4,a", "text 4,a\u0302"),
            r"differ in how accents are encoded \(Unicode's NFC and NFD\) only",
        ),
        (
            "few.csv",
            "text,label\none,a\ntwo,b\n",
            r"corpora\.x: 2 rows are too few to be divided into dev",
        ),
        (
            "many.csv",
            "text,label\n" + "".join(f"t,v{n}\n" for n in range(300)),
            "300 different values .* too many to be class labels",
        ),
        ("x.docx", "text", r"corpora\.x: .*has the ending '\.docx'; expected one of \.jsonl"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (problem,) = classification({"x": broken(tmp_path, name, content)}).problems()
    assert re.search(message, problem), problem


def test_what_programs_add_to_files_changes_nothing(tmp_path: Path) -> None:
    expected = all_examples(classification({"x": broken(tmp_path, "x.csv", GOOD)}), "x")
    marked = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    assert all_examples(classification({"x": broken(tmp_path, "marked.csv", marked)}), "x") == expected


def test_all_problems_of_all_corpora_come_at_once(tmp_path: Path) -> None:
    suite = classification(
        {
            "a": "absent.csv",
            "b": str(tmp_path / "none.jsonl"),
            "c": broken(tmp_path, "c.csv", GOOD.replace("text,label", "text,kind")),
            "d": {"dta": "d.csv"},
            "e": str(tmp_path / "folder"),
        },
        test_share=1.5,
        group="author",
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.md").touch()
    told = "\n".join(suite.problems())
    assert f"corpora.a, corpora.b: no such file: absent.csv, {tmp_path}/none.jsonl" in told
    assert "corpora.d.dta: there is no such key; did you mean data or train?" in told
    assert "has no file train{" in told
    assert "test_share: expected a share" in told
    assert "group: there is no column 'author'" in told
    with pytest.raises(DataError, match=r"suite\.corpora\.a"):
        suite.task("a")


def test_repeated_texts_and_identifiers_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = rows_of(30), rows_of(20, seed=1)
    for number in range(4):
        test[number]["text"] = train[number]["text"]
    for number, row in enumerate(train):
        row["id"] = number
    for number, row in enumerate(test):
        row["id"] = number + 29
    files = {"train": write(tmp_path / "train.csv", train), "test": write(tmp_path / "test.csv", test)}
    with caplog.at_level(logging.WARNING):
        assert classification({"a": files}).problems() == []
    assert "corpora.a: 4 texts of test are in train too" in caplog.text
    assert "corpora.a: 1 values of id of test are in train too" in caplog.text


def test_texts_that_are_tested_and_trained_on_are_counted_where_splits_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every row of a is there twice, b has its own rows and one of a's, and c, which is only evaluated, a's."""
    rows = rows_of(100)
    other = [{**row, "text": f"other {row['text']}"} for row in rows]
    files = {"a": [*rows, *rows], "b": other, "c": [*rows[:20], *other[:1]]}
    corpora = {name: write(tmp_path / f"{name}.jsonl", own) for name, own in files.items()}
    suite = classification(corpora, out_of_domain=["c"])
    with caplog.at_level(logging.WARNING):
        assert suite.problems() == []
    found = {name: all_examples(suite, name) for name in "abc"}

    def overlap(tested: str, split: str, trained: str) -> str:
        there = {example.text for example in found[trained]["train"]}
        own = found[tested][split]
        return f"{sum(example.text in there for example in own)} of the {len(own)} texts of {split} are in train"

    for split in ("dev", "test"):
        assert f"corpora.a: {overlap('a', split, 'a')} too, as rows repeat each other; group=COLUMN" in caplog.text
    assert f"corpora.c: {overlap('c', 'test', 'a')} of corpora.a" in caplog.text
    assert "corpora.b: " not in caplog.text
    grouped = {name: {"data": path, "group": "text"} for name, path in corpora.items() if name != "c"}
    caplog.clear()
    assert classification(grouped).problems() == []
    assert "are in train" not in caplog.text


def test_labels_of_one_corpus_only_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"a": write(tmp_path / "a.csv", rows_of(30)), "b": write(tmp_path / "b.csv", rows_of(30, ("bad", "odd")))}
    with caplog.at_level(logging.INFO):
        suite = classification(files, labels=["bad", "good", "odd", "never"])
        assert suite.problems() == []
    assert "labels: good occurs only in a" in caplog.text
    assert "labels: no example has the label never" in caplog.text


def test_regression(tmp_path: Path) -> None:
    rows = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n / 7} for n in range(30)]
    suite = TextRegressionSuite(Path(), TextRegressionSettings(corpora={"a": write(tmp_path / "a.csv", rows)}))
    assert suite.problems() == []
    assert suite.task("a").kind == "regression"
    examples: list[Example] = [example for part in all_examples(suite, "a").values() for example in part]
    assert sorted(example.label for example in examples) == pytest.approx([n / 7 for n in range(30)])
    text = TextRegressionSuite(
        Path(), TextRegressionSettings(corpora={"a": write(tmp_path / "b.csv", [{**rows[0], "score": "high"}, *rows])})
    )
    assert "b.csv:2: score: expected a number, found 'high'" in "\n".join(text.problems())


SENTENCES = [
    ("EU rejects German call", "B-ORG O B-MISC O"),
    ("Peter Blackburn", "B-PER I-PER"),
    ("from New York", "O B-LOC I-LOC"),
    ("nothing here", "O O"),
]


def tagged(tmp_path: Path, name: str, columns: str = "{word} {tag}") -> str:
    lines = ["-DOCSTART- -X- O O\n", "\n"] if columns.count(" ") == 3 else []
    for words, tags in SENTENCES * 5:
        pairs = zip(words.split(), tags.split(), strict=True)
        lines += [columns.format(word=word, tag=tag) + "\n" for word, tag in pairs] + ["\n"]
    return broken(tmp_path, name, "".join(lines))


def tokens(corpora: dict[str, Any], **settings: Any) -> TokenClassificationSuite:
    return TokenClassificationSuite(Path(), TokenClassificationSettings(corpora=corpora, **settings))


@pytest.mark.parametrize("columns", ["{word} {tag}", "{word}\t{tag}", "{word} NNP I-NP {tag}"])
def test_column_files_of_any_entity_types(tmp_path: Path, columns: str) -> None:
    suite = tokens({"a": tagged(tmp_path, "a.conll", columns)})
    assert suite.problems() == []
    types = ("LOC", "MISC", "ORG", "PER")
    assert suite.task("a").labels == ("O", *(f"B-{name}" for name in types), *(f"I-{name}" for name in types))
    found = Counter(example for part in all_examples(suite, "a").values() for example in part)
    expected = {TokenExample(tuple(words.split()), tuple(tags.split())): 5 for words, tags in SENTENCES}
    assert found == expected


def test_tables_of_lists_with_numbered_tags(tmp_path: Path) -> None:
    labels = ["O", "B-PER", "I-PER"]
    rows = [{"tokens": ["Ann", "Lee", "ran"], "ner_tags": [1, 2, 0]}] * 20
    data = write(tmp_path / "a.parquet", rows)
    assert "tags are numbers (0, 1, 2); give their names" in "\n".join(tokens({"a": data}).problems())
    assert "suite.labels: B-PER more than once" in str(tokens({"a": data}, labels=["O", "B-PER", "B-PER"]).problems())
    suite = tokens({"a": data}, labels=labels)
    assert suite.examples("a", "train")[0] == TokenExample(("Ann", "Lee", "ran"), ("B-PER", "I-PER", "O"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one B-X\ntwo\n\n" + "a O\n\n" * 9, r"x\.conll:2: expected 2 columns, as in most lines.*found 1 column"),
        ("one S-X\n\n" + "a O\n\n" * 9, r"S-X in x: of another scheme"),
        ("one NN\n\n" + "a DT\n\n" * 9, r"DT, NN are not entity tags.*suite\.key_score=token_accuracy"),
        ("one B-X\n\n" + "a NN\n\n" * 9, r"NN in x: expected O, or B- or I- and a type"),
        ("a O\n\n" * 9, "all words have the tag 'O'"),
        ("one B-PER\ntwo I-per\n\n" + "a O\n\n" * 9, "'PER' and 'per' differ in capital letters only"),
    ],
)
def test_what_is_wrong_with_tags(tmp_path: Path, content: str, message: str) -> None:
    (problem,) = tokens({"x": broken(tmp_path, "x.conll", content)}).problems()
    assert re.search(message, problem), problem


def test_parts_of_speech(tmp_path: Path) -> None:
    content = "one NN\ntwo DT\n\n" * 12
    suite = tokens({"x": broken(tmp_path, "x.txt", content)}, key_score="token_accuracy")
    assert suite.problems() == []
    assert suite.task("x").labels == ("DT", "NN")


def generation(corpora: dict[str, Any], **settings: Any) -> TextGenerationSuite:
    return TextGenerationSuite(Path(), TextGenerationSettings(corpora=corpora, **settings))


def test_texts_to_be_written(tmp_path: Path) -> None:
    rows = [{"article": f"long {n}", "summary": f"short {n}", "topic": "rain"} for n in range(30)]
    data = write(tmp_path / "a.jsonl", rows)
    suite = generation({"a": data}, template="{topic}: {article}")
    assert suite.problems() == []
    assert suite.task("a").labels == ("seq2seq",)
    examples = [example for part in all_examples(suite, "a").values() for example in part]
    assert Counter(examples) == Counter(TextExample(f"rain: long {n}", f"short {n}") for n in range(30))
    causal = generation({"a": data}, form="causal", text="article", target="summary")
    assert {type(example) for example in causal.examples("a", "train")} == {PromptedText}
    alone = generation({"a": data}, form="causal", text="article")
    assert {example.target for example in alone.examples("a", "train")} == {None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{topc}: {text}"}, r"template: there is no column 'topc'; .*has the columns text, target"),
        ({"template": "{text"}, "template: cannot be read"),
        ({"template": "{}: {text}"}, "template: expected the name of a column in braces, found {}"),
        ({"form": "decoder"}, "form: expected one of seq2seq, causal, got 'decoder'"),
        ({"target": "summary"}, "target: there is no column 'summary'"),
    ],
)
def test_what_is_wrong_with_texts_to_be_written(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    rows = [{"text": f"long {n}", "target": f"short {n}"} for n in range(30)]
    found = "\n".join(generation({"a": write(tmp_path / "a.jsonl", rows)}, **settings).problems())
    assert re.search(message, found), found


def test_labels_without_training_examples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = write(tmp_path / "train.csv", rows_of(30, (0, 1)))
    hidden = write(tmp_path / "hidden.csv", rows_of(10, (-1,)))
    (problem,) = classification({"a": {"train": train, "test": hidden}}).problems()
    assert problem.startswith("corpora.a: the label -1 occurs in no training example: labels of this split are hidden")
    more = write(tmp_path / "more.csv", rows_of(10, (0, 2)))
    with caplog.at_level(logging.WARNING):
        suite = classification({"a": {"train": train, "test": more}})
        assert suite.task("a").labels == ("0", "1", "2")
    assert "corpora.a: no training example has 2" in caplog.text


def test_files_are_read_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from regmean_lab.suites import own_data

    read = []
    plain = own_data.read_table
    monkeypatch.setattr(own_data, "read_table", lambda name, **settings: read.append(name) or plain(name, **settings))
    data = write(tmp_path / "a.csv", rows_of(30))
    first, second = classification({"a": data}), classification({"a": data})
    assert all_examples(first, "a") == all_examples(second, "a")
    assert classification({"a": data}, split_seed=1).problems() == []
    assert read == [data] * 2  # once for each choice of settings
    write(tmp_path / "a.csv", rows_of(31))
    assert len(classification({"a": data}).examples("a", "train")) == 22
    assert len(read) == 3


def test_a_score_of_what_is_written_needs_a_target(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"text {number}"} for number in range(20)])
    settings = TextGenerationSettings(corpora={"a": path}, form="causal", key_score="rougeL")
    (problem,) = TextGenerationSuite(Path(), settings).problems()
    assert "rougeL compares what is written with a target" in problem and "suite.target=NAME" in problem


def test_a_key_score_is_checked_before_and_with_the_labels(tmp_path: Path) -> None:
    three = write(tmp_path / "a.csv", rows_of(60, ("x", "y", "z")))
    (problem,) = classification({"a": three}, key_score="CohenKapa").problems()
    assert problem.startswith("key_score: expected one of accuracy, ") and "near: MulticlassCohenKappa" in problem
    (problem,) = classification({"a": three}, key_score="BinaryRecall").problems()
    assert problem.startswith("labels: key_score=") and "BinaryRecall is of two labels; there are 3" in problem
    assert not classification({"a": three}, key_score="CohenKappa").problems()
