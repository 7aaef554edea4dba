from __future__ import annotations

import hashlib
from pathlib import Path

from regmean_lab.utils.files import file_sha256, json_sha256


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # The test vector of FIPS 180-4.
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_of_a_file_larger_than_a_piece(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 1_000_000 + b"b" * 1_000_000)
    whole = hashlib.sha256(b"a" * 1_000_000 + b"b" * 1_000_000).hexdigest()
    assert file_sha256(tmp_path / "a") == whole


def test_sha256_of_json_does_not_depend_on_the_order_of_keys() -> None:
    assert json_sha256({"b": [1], "a": None}) == hashlib.sha256(b'{"a": null, "b": [1]}').hexdigest()
    assert json_sha256({"a": None, "b": [1]}) == json_sha256({"b": [1], "a": None})
