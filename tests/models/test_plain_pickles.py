"""Dictionaries of tensors that ``pickle.dump`` wrote: read as data, and whatever else they name is never run."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from regmean_lab.models.convert_pickled import ConversionError, convert_each
from regmean_lab.models.plain_pickles import PickleError, PlainPickle


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def written(path: Path, content: object, protocol: int | None = None) -> Path:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_tensors_are_those_that_were_written(tmp_path: Path, protocol: int) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    content = {
        "plain": torch.randn(5, 5),
        "shared": table,
        "again": table,
        "transposed": table.t(),
        "part": table[1:, 1:3],
        "half": torch.randn(3, dtype=torch.bfloat16),
        "double": torch.randn(2, dtype=torch.float64),
        "numbers": torch.arange(3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 4),
        "single": torch.tensor(2.5),
        "large": torch.randn(300, 300),
        "text": "words",
        "list": [1, 2.5, None, True, ("a", "b", "c", "d")],
        3: -(1 << 40),
    }
    content |= {f"more{number}": torch.full((1,), float(number)) for number in range(1100)}
    found = PlainPickle(written(tmp_path / "gram.pkl", content, protocol))
    assert list(found) == list(content)
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape
            assert torch.equal(found[name], value.detach())
        else:
            assert found[name] == value


def test_an_ordered_dictionary_is_one_too(tmp_path: Path) -> None:
    found = PlainPickle(written(tmp_path / "gram.pkl", OrderedDict(a=torch.ones(2))))
    assert torch.equal(found["a"], torch.ones(2))


def test_each_tensor_becomes_a_file(tmp_path: Path) -> None:
    content = {"b": torch.randn(3, 3), "meta_info": {"conv1d": []}, "a": torch.randn(2, 2).t()}
    for name, save in (("plain", pickle.dump), ("torch", torch.save)):
        folder = tmp_path / name
        folder.mkdir()
        with (tmp_path / f"{name}.pkl").open("wb") as file:
            save(content, file)
        convert_each(tmp_path / f"{name}.pkl", folder)
        found = {key: value for path in folder.iterdir() for key, value in load_file(path).items()}
        assert set(found) == {"a", "b"}
        assert all(torch.equal(found[key], content[key]) for key in found)
        assert len(list(folder.iterdir())) == 2


def test_nothing_that_a_file_names_is_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    attacks: list[bytes] = [
        *(pickle.dumps({"a": Trap(sprung)}, protocol) for protocol in range(6)),
        *(pickle.dumps(Trap(sprung), protocol) for protocol in range(6)),
        pickle.dumps({"a": torch.ones(1), "b": [Trap(sprung)]}),
        b"\x80\x04cposix\nmkdir\n(X\x01\x00\x00\x00xtR.",
        b"cposix\nsystem\n(S'true'\ntR.",  # text protocol
        b"(S'true'\niposix\nsystem\n.",  # INST
        b"\x80\x02(cposix\nsystem\nX\x04\x00\x00\x00trueo.",  # OBJ
        b"\x80\x02cposix\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # BINPERSID
        b"\x80\x02}ctorch\nload\nb.",  # BUILD
    ]
    for number, attack in enumerate(attacks):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(attack)
        with pytest.raises(PickleError):
            PlainPickle(path)
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(ConversionError, match=rf"{number}\.pkl"):
            convert_each(path, tmp_path / "out")
    assert not sprung.exists()


def test_a_trap_inside_of_a_tensors_storage_is_not_run(tmp_path: Path) -> None:
    """The bytes of a storage are a file of ``torch.save``, in which something else may lie."""
    sprung = tmp_path / "sprung"

    class Disguised:
        def __reduce__(self) -> Any:
            import torch.storage

            return torch.storage._load_from_bytes, (pickle.dumps(Trap(sprung), 2),)

    class Tensor:
        def __reduce__(self) -> Any:
            import torch._utils

            return torch._utils._rebuild_tensor_v2, (Disguised(), 0, (1,), (1,), False, OrderedDict())

    found = PlainPickle(written(tmp_path / "gram.pkl", {"a": Tensor()}))
    with pytest.raises(PickleError, match="a: its storage cannot be read"):
        found["a"]
    assert not sprung.exists()


def test_what_is_named_is_told(tmp_path: Path) -> None:
    with pytest.raises(PickleError, match=r"posix\.mkdir"):
        PlainPickle(written(tmp_path / "a.pkl", {"a": Trap(tmp_path / "x")}))
    with pytest.raises(PickleError, match=r"numpy\S*\._?reconstruct"):
        PlainPickle(written(tmp_path / "b.pkl", {"a": np.ones(3)}))
    with pytest.raises(PickleError, match="expected tensors by name, got list"):
        PlainPickle(written(tmp_path / "c.pkl", [torch.ones(1)]))


@pytest.mark.parametrize("content", [{"model": {"a": torch.ones(1)}}, {"a": [torch.ones(1)]}, {1: torch.ones(1)}])
def test_what_is_no_tensor_by_name_is_told(tmp_path: Path, content: dict[Any, Any]) -> None:
    name = str(next(iter(content)))
    with pytest.raises(ConversionError, match=rf"{name} \(\w+\) is something else"):
        convert_each(written(tmp_path / "gram.pkl", content), tmp_path)


def test_a_file_that_is_cut_off_or_no_pickle(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.pkl", {"a": torch.randn(40, 40), "b": torch.ones(3)}).read_bytes()
    for size in [0, 1, 5, 20, *range(30, len(whole), 97), len(whole) - 1]:
        path = tmp_path / "cut.pkl"
        path.write_bytes(whole[:size])
        with pytest.raises(PickleError):
            PlainPickle(path)
    for content in (b"\x00" * 100, b"no pickle at all\n", b"\x80\x04}", b"\x80\x04.", b"\x80\x04}}."):
        path.write_bytes(content)
        with pytest.raises(PickleError):
            PlainPickle(path)


def test_a_shape_that_the_storage_cannot_have(tmp_path: Path) -> None:
    """Such numbers would be read from beside the storage."""
    path = written(tmp_path / "gram.pkl", {"a": torch.ones(3)})
    content = path.read_bytes()
    names = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    assert names.count("TUPLE1") >= 2  # the shape, and the strides
    places = [
        place for opcode, number, place in pickletools.genops(content) if opcode.name == "BININT1" and number == 3
    ]
    path.write_bytes(content[: places[-1] + 1] + b"\x04" + content[places[-1] + 2 :])
    with pytest.raises(PickleError, match="a: its storage has 3 numbers, and its shape needs 4"):
        PlainPickle(path)["a"]
