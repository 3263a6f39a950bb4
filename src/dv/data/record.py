"""The file ``dataset.json`` in each folder of an object: where its images come from and how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dv.errors import UserError
from dv.runtime.files import atomic_file

RECORD_FILE = "dataset.json"


def read_record(folder: Path, *, strict: bool = True) -> dict[str, Any]:
    """Read the record of one split of an object.

    Args:
        folder: ``<root>/<split>/<name>``.
        strict: whether to refuse a damaged record instead of treating it like a missing one.

    Returns:
        The record, empty if there is none.

    Raises:
        UserError: if the record is not a JSON object and ``strict``.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        record = None
    except OSError:
        if strict:
            raise
        return {}
    if isinstance(record, dict):
        return record
    if strict:
        raise UserError(f"{path}: not a JSON object; fix or delete it")
    return {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of one split of an object."""
    with atomic_file(folder / RECORD_FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
