"""Which revision of this code is running."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str | None:
    """Commit of the clone that holds this package, ``-dirty`` if tracked files differ from it; None outside one."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():  # installed, perhaps below a clone of something else
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return described or None
