"""Headers of safetensors files, honest ones and others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from regmean_lab.models.headers import MAX_HEADER_BYTES, CheckpointError, read_header

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw_file(path: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    """A file with any header, given as JSON or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    return caught.value.problems


def test_reads_what_another_library_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).view(2, 3),
        "b.c": torch.ones(3, dtype=torch.bfloat16),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 4),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    content = path.read_bytes()
    assert {name: entry.shape for name, entry in header.items()} == {
        "a": (2, 3),
        "b.c": (3,),
        "flag": (),
        "empty": (0, 4),
    }
    assert header["b.c"].dtype == "BF16"
    a = header["a"]
    assert torch.frombuffer(bytearray(content[a.start : a.start + a.size]), dtype=torch.float32).tolist() == list(
        range(6)
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cut off"),
        (b"\x01\x02", "cut off"),
        ((1000).to_bytes(8, "little") + b"{}", "cut off"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "cut off"),
        ((2).to_bytes(8, "little") + b"[]", "expected a JSON object"),
        ((3).to_bytes(8, "little") + b"{]}", "no valid JSON"),
        ((2).to_bytes(8, "little") + b"\xff\xfe", "no valid JSON"),
    ],
)
def test_refuses_what_is_no_header(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    (problem,) = problems(path)
    assert str(path) in problem
    assert expected in problem


def test_refuses_a_huge_header_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES + 100)  # sparse
    (problem,) = problems(path)
    assert f"a header of {MAX_HEADER_BYTES + 1} bytes" in problem


def test_refuses_deep_nesting(tmp_path: Path) -> None:
    depth = 200_000
    path = raw_file(tmp_path / "model.safetensors", b'{"a":' + b"[" * depth + b"]" * depth + b"}")
    (problem,) = problems(path)
    assert "nested too deep" in problem


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    assert "not a file" in problems(tmp_path / "model.safetensors")[0]
    os.mkfifo(tmp_path / "other.safetensors")
    assert "not a file" in problems(tmp_path / "other.safetensors")[0]


def test_refuses_a_name_twice(tmp_path: Path) -> None:
    entry = json.dumps(ENTRY)
    path = raw_file(tmp_path / "model.safetensors", f'{{"a":{entry},"a":{entry}}}'.encode())
    assert "twice" in problems(path)[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dtype": "F99"}, "dtype 'F99'"),
        ({"dtype": 3}, "dtype '3'"),
        ({"dtype": "F64"}, "8 bytes for F64 of shape [2]"),
        ({"shape": [3]}, "8 bytes for F32 of shape [3]"),
        ({"shape": [-2]}, "shape is not a list"),
        ({"shape": [True, 2]}, "shape is not a list"),
        ({"shape": [2.0]}, "shape is not a list"),
        ({"shape": [1 << 80]}, "shape is not a list"),
        ({"shape": [1 << 40, 1 << 40]}, "8 bytes for F32"),
        ({"shape": [1] * 17 + [2]}, "shape is not a list"),
        ({"data_offsets": [0, 16]}, "not within the 8 bytes"),
        ({"data_offsets": [8, 0]}, "not within the 8 bytes"),
        ({"data_offsets": [0]}, "not two numbers"),
        ({"data_offsets": None}, "not two numbers"),
        ({"more": 1}, "expected exactly"),
    ],
)
def test_refuses_a_header_that_lies(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = raw_file(tmp_path / "model.safetensors", {"weight": {**ENTRY, **change}})
    (problem,) = problems(path)
    assert "'weight'" in problem
    assert expected in problem


def test_refuses_overlaps_gaps_and_left_over_bytes(tmp_path: Path) -> None:
    overlap = {"a": ENTRY, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}
    assert "'b'" in problems(raw_file(tmp_path / "1.safetensors", overlap, bytes(12)))[0]
    gap = {"a": ENTRY, "b": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}
    assert "4 bytes before it" in problems(raw_file(tmp_path / "2.safetensors", gap, bytes(16)))[0]
    assert "3 bytes at the end" in problems(raw_file(tmp_path / "3.safetensors", {"a": ENTRY}, bytes(11)))[0]


def test_refuses_names_that_are_no_names(tmp_path: Path) -> None:
    header = dict.fromkeys(("", "a\nb", "x" * 600), ENTRY)
    assert len(problems(raw_file(tmp_path / "model.safetensors", header))) == 3


def test_refuses_metadata_that_is_no_text(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "model.safetensors", {"__metadata__": {"a": {"b": 1}}, "a": ENTRY})
    assert "metadata" in problems(path)[0]


def test_tells_all_problems_at_once(tmp_path: Path) -> None:
    header = {"a": {**ENTRY, "dtype": "X"}, "b": {**ENTRY, "shape": [5]}, "c": ENTRY}
    found = problems(raw_file(tmp_path / "model.safetensors", header))
    assert [("'a'" in problem, "'b'" in problem) for problem in found] == [(True, False), (False, True)]
