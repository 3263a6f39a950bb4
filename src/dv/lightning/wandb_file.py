"""Reading ``run-ID.wandb`` files, which W&B writes for every run: protobuf records in LevelDB's log format."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7  # sizes in bytes; the file's header is as long as that of a chunk
FULL, FIRST, LAST = 1, 2, 4  # kinds of chunks; a record that does not fit into a block has several


def records(path: Path) -> Iterator[Any]:
    """Iterate over the complete ``wandb_internal_pb2.Record``s, up to one that a killed process left incomplete."""
    from wandb.proto.wandb_internal_pb2 import Record

    return (Record.FromString(record) for _, record in _raw_records(path.read_bytes()))


def truncate_incomplete_record(path: Path) -> None:
    """Remove the incomplete record that a killed process left at the end, where ``wandb sync`` would stop reading."""
    end = max((end for end, _ in _raw_records(path.read_bytes())), default=HEADER)
    if path.stat().st_size > end:
        os.truncate(path, end)


def _raw_records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield end position and content of every complete record."""
    position, record = HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER + length
        chunk = data[position - length : position]
        if not kind or len(chunk) < length:
            return
        record = chunk if kind in (FULL, FIRST) else record + chunk
        if kind in (FULL, LAST):
            yield position, record


def history(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the history rows of a file: logged values by name, and ``_step``, W&B's row number."""
    return (nested_values(record.history.item) for record in records(path) if record.HasField("history"))


def nested_values(items: Iterable[Any]) -> dict[str, Any]:
    """Convert the items of a history or summary record to nested dictionaries."""
    nested: dict[str, Any] = {}
    for item in items:
        *parents, name = item.nested_key or [item.key]
        target = nested
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = json.loads(item.value_json)
    return nested
