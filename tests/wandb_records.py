"""What W&B has written into the file of an offline run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from wandb.proto import wandb_internal_pb2


def finished_run(folder: Path) -> list[Any]:
    """The records of a run, once it has ended: W&B's own process writes the file, and may be a moment behind."""
    (path,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 60
    while True:
        records = list(records_of(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < deadline, "W&B has not ended its file"
        time.sleep(0.1)


def recorded(records: Sequence[Any], kind: Literal["config", "summary"]) -> dict[str, Any]:
    """The configuration or the summary of a run, as it was in the end: top-level keys only."""
    values: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == kind:
            for item in getattr(record, kind).update:
                values[item.key or item.nested_key[0]] = json.loads(item.value_json)
    return values


def records_of(path: Path) -> Iterator[Any]:
    """The records of a run's file: a log of LevelDB's format, in blocks of 32,768 bytes, after seven bytes."""
    data, position, parts = path.read_bytes(), 7, []
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if position + 7 + length > len(data):  # not written to its end yet
            return
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record
