from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from regmean_lab.suites.base import DataError, MissingDataError
from regmean_lab.suites.tables.table import missing_file, read_table

ROWS: list[dict[str, Any]] = [
    {"text": "one, two", "label": "a"},
    {"text": 'say "hi"', "label": "b"},
    {"text": "größer 日本", "label": "a"},
]


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    quoted = "".join('"{text}",{label}\n'.format(**{**row, "text": row["text"].replace('"', '""')}) for row in ROWS)
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "data.parquet")
    files = [
        write(tmp_path / "data.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        write(tmp_path / "data.json", json.dumps(ROWS)),
        write(tmp_path / "data.csv", f"text,label\n{quoted}"),
        write(tmp_path / "data.tsv", "text\tlabel\n" + "".join("{text}\t{label}\n".format(**row) for row in ROWS)),
        str(tmp_path / "data.parquet"),
    ]
    for file in files:
        table = read_table(file)
        assert (table.name, table.columns) == (file, ("text", "label"))
        assert [dict(row) for row in table.rows] == ROWS, file


def test_plain_text_has_a_text_a_line(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "data.TXT", "\ufefffirst line\n\nsecond\tline\n"))
    assert [dict(row) for row in table.rows] == [{"text": "first line"}, {"text": "second\tline"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.jsonl",
            '{"text": "a"}\n{"text"}\n[1]\n',
            r"x\.jsonl:2: not JSON(.|\n)*x\.jsonl:3: expected a JSON object, found \[1\]",
        ),
        ("x.json", '{"text": "a"}\n{"text": "b"}', r"x\.json: not JSON: Extra data at line 2.*\.jsonl"),
        ("x.json", '{"text": ["a"]}', r"x\.json: expected a list of objects .* found an object with the keys text"),
        ("x.json", "[]", r"x\.json has no rows"),
        ("x.csv", "text,label\na,1,2\n", r"x\.csv:2: more fields than the 2 columns"),
        ("x.csv", "text,label\na,1\nb\n", r"x\.csv:3: fewer fields than the 2 columns"),
        ("x.csv", "text,label\n", r"x\.csv has no rows"),
        ("x.parquet", "nonsense", r"x\.parquet: not a readable parquet file"),
        ("x.txt", "\n\n", r"x\.txt: holds no example"),
        ("x.docx", "a", r"data: .*x\.docx has the ending '\.docx'; expected one of \.jsonl"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / name, content))


def test_a_file_that_is_not_there_is_told_before_it_is_read(tmp_path: Path) -> None:
    assert missing_file(f"{tmp_path}/none.csv") == f"data: no such file: {tmp_path}/none.csv"
    assert missing_file("glue") is None
    with pytest.raises(MissingDataError, match="no such file"):
        read_table(f"{tmp_path}/none.csv")


def test_a_data_set_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((arguments, options))
        if arguments[0] == "unknown":
            raise FileNotFoundError("nothing on the hub\nat all")
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    table = read_table("glue", subset="sst2", split="validation", revision="v1")
    assert table.rows is ROWS
    assert asked == [(("glue", "sst2"), {"split": "validation", "revision": "v1"})]
    with pytest.raises(
        MissingDataError, match=r"data: 'unknown' is not a local file.*split=train\): nothing on the hub\."
    ):
        read_table("unknown")
