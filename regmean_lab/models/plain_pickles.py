"""Tensors by name in a file that ``pickle.dump`` wrote, read without running anything.

``torch.load(weights_only=True)`` reads what ``torch.save`` has written, and nothing else; statistics are often
published as ``pickle.dump`` writes a dictionary of tensors. Such a file is taken for data here: a small machine knows
the opcodes that dictionaries, lists, texts, numbers and tensors are made of. It imports nothing that the file names,
and calls nothing. Of a tensor it keeps where its storage lies in the file. The storage, which ``pickle.dump`` writes as
``torch.save`` would, is read by ``torch.load(weights_only=True)`` when the tensor is asked for.
"""

from __future__ import annotations

import io
import math
import pickletools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

TORCH_FILES = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
"""How files of ``torch.save`` begin: as an archive, or in older versions with its magic number."""

_NO_STACK = frozenset({"PROTO", "FRAME"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
_BYTES = {"SHORT_BINBYTES": 2, "BINBYTES": 5, "BINBYTES8": 9}
"""By opcode, the bytes before the content: the opcode and its length."""

_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

_STORAGE = ("torch.storage", "_load_from_bytes")
_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_ORDERED = ("collections", "OrderedDict")


class PickleError(ValueError):
    """A pickle that holds something else than plain containers and tensors, or is cut off."""


@dataclass(frozen=True)
class _Name:
    """Something that a pickle names; it is never looked for."""

    module: str
    name: str


@dataclass(frozen=True)
class _Span:
    """Bytes in the file: where they begin, and how many they are."""

    start: int
    size: int


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor: its storage in the file, and which elements of it are its own."""

    storage: _Span
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where the items of a tuple or of a container begin on the stack."""


class PlainPickle(Mapping[Any, Any]):
    """The dictionary in a pickle; a tensor is read when it is asked for, on the CPU.

    Args:
        path: the file.

    Raises:
        PickleError: for a file that holds no dictionary, or anything but plain containers and tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _Machine(path).run()
        if not isinstance(content, dict):
            raise PickleError(f"expected tensors by name, got {type(content).__name__}")
        self._content: dict[Any, Any] = content

    def __getitem__(self, key: Any) -> Any:
        """The tensor or other value.

        Raises:
            PickleError: for a tensor whose storage is none, or too small.
        """
        value = self._content[key]
        return self._tensor(key, value) if isinstance(value, _StoredTensor) else value

    def __iter__(self) -> Iterator[Any]:
        """The keys."""
        return iter(self._content)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._content)

    def _tensor(self, key: Any, stored: _StoredTensor) -> Tensor:
        with self.path.open("rb") as file:
            file.seek(stored.storage.start)
            content = io.BytesIO(file.read(stored.storage.size))
        try:
            storage: Any = torch.load(content, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch raises for what is no storage of plain numbers
            raise PickleError(f"{key}: its storage cannot be read ({type(error).__name__})") from None
        if not isinstance(storage, torch.storage.TypedStorage):
            raise PickleError(f"{key}: its storage is {type(storage).__name__}, which is not read")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that such storages are deprecated: they are what pickle.dump writes
            flat = torch.empty(0, dtype=storage.dtype).set_(storage.untyped())
        last = stored.offset + sum(
            (size - 1) * stride for size, stride in zip(stored.shape, stored.strides, strict=True)
        )
        if math.prod(stored.shape) and last >= len(flat):
            raise PickleError(f"{key}: its storage has {len(flat)} numbers, and its shape needs {last + 1}")
        return flat.as_strided(stored.shape, stored.strides, stored.offset)


class _Machine:
    """What a pickle's opcodes do to a stack, of those that plain containers and tensors need."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the file holds."""
        try:
            with self.path.open("rb") as file:
                for opcode, argument, place in pickletools.genops(file):
                    if opcode.name == "STOP":
                        return self._pop()
                    self._step(opcode.name, argument, place or 0)
        except PickleError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, MemoryError) as error:
            # what pickletools raises for bytes that are no pickle, and what a stack does that is not as it should be
            raise PickleError(f"is no pickle, or cut off ({(str(error) or type(error).__name__)[:200]})") from None
        raise PickleError("is cut off")

    def _step(self, name: str, argument: Any, place: int) -> None:
        stack = self.stack
        if name in _NO_STACK:
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _BYTES:
            stack.append(_Span(place + _BYTES[name], len(argument)))
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_Mark)
        elif name == "TUPLE":
            stack.append(tuple(self._items()))
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._fill(name)
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_Name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Name(str(module), str(attribute)))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(self._made(called, arguments))
        else:
            raise PickleError(f"holds something else than plain containers and tensors ({self._named() or name})")

    def _pop(self) -> Any:
        if len(self.stack) != 1:
            raise PickleError("is no sound pickle")
        return self.stack.pop()

    def _items(self) -> list[Any]:
        """The items above the last mark, which are taken off the stack with it."""
        place = len(self.stack) - 1 - self.stack[::-1].index(_Mark)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _fill(self, name: str) -> None:
        if name in ("SETITEM", "APPEND"):
            count = 2 if name == "SETITEM" else 1
            items = self.stack[-count:]
            del self.stack[-count:]
        else:
            items = self._items()
        container = self.stack[-1]
        if name.startswith("SETITEM"):
            if not isinstance(container, dict):
                raise PickleError(f"holds something else than plain containers and tensors ({self._named()})")
            container.update(zip(items[::2], items[1::2], strict=True))
        else:
            if not isinstance(container, list):
                raise PickleError(f"holds something else than plain containers and tensors ({self._named()})")
            container.extend(items)

    def _named(self) -> str:
        """The last thing that the pickle has named, for messages."""
        named = [entry for entry in self.stack if isinstance(entry, _Name)]
        return f"{named[-1].module}.{named[-1].name}"[:120] if named else ""

    def _made(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise PickleError("is no sound pickle")
        known = (called.module, called.name)
        if known == _STORAGE and len(arguments) == 1 and isinstance(arguments[0], _Span):
            return arguments[0]
        if known == _TENSOR and len(arguments) >= 4:
            storage, offset, shape, strides = arguments[:4]
            numbers = (offset, *shape, *strides)
            if isinstance(storage, _Span) and len(shape) == len(strides) and all(map(_is_size, numbers)):
                return _StoredTensor(storage, offset, tuple(shape), tuple(strides))
            _refuse(called)
        if known == _PARAMETER and arguments and isinstance(arguments[0], _StoredTensor):
            return arguments[0]
        if known == _ORDERED and not arguments:
            return {}
        return _refuse(called)


def _refuse(called: _Name) -> NoReturn:
    named = f"{called.module}.{called.name}"[:120]
    raise PickleError(f"holds something else than plain containers and tensors ({named}), and is not loaded")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
