"""Atomic writes: a file or folder appears under its name only when it is complete."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that is renamed to ``path`` if the block succeeds, else removed."""
    temporary = path.with_name(f".partial-{path.name}")  # the suffix stays last: video writers go by it
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``folder`` if the block succeeds, else is removed."""
    temporary, previous = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "before"))
    for leftover in (temporary, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(previous)
    temporary.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` atomically; numbers that JSON does not have (NaN, infinity) become null."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
