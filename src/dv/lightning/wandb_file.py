"""Reading the file ``run-ID.wandb`` that W&B writes of every run: a log of LevelDB's format, its entries protobuf."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7  # bytes; the file begins with a header of as many bytes as that of a chunk
FULL, FIRST, LAST = 1, 2, 4  # kinds of chunks; an entry that does not fit into a block is several


def records(path: Path) -> Iterator[Any]:
    """The ``wandb_internal_pb2.Record`` of a file, up to one that a killed process has left unfinished."""
    from wandb.proto.wandb_internal_pb2 import Record

    return (Record.FromString(entry) for _, entry in _entries(path.read_bytes()))


def drop_unfinished(path: Path) -> None:
    """Cut off what a killed process has left of a record: ``wandb sync`` would stop there, before what came after."""
    whole = max((end for end, _ in _entries(path.read_bytes())), default=HEADER)
    if path.stat().st_size > whole:
        os.truncate(path, whole)


def _entries(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Where every whole entry ends, and what it is."""
    position, entry = HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER + length
        chunk = data[position - length : position]
        if not kind or len(chunk) < length:
            return
        entry = chunk if kind in (FULL, FIRST) else entry + chunk
        if kind in (FULL, LAST):
            yield position, entry


def history(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file: values by name, and ``_step``, W&B's own count of rows."""
    return (values(record.history.item) for record in records(path) if record.HasField("history"))


def values(items: Iterable[Any]) -> dict[str, Any]:
    """Items of a history or summary record as nested dictionaries."""
    nested: dict[str, Any] = {}
    for item in items:
        *parents, name = item.nested_key or [item.key]
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = json.loads(item.value_json)
    return nested
