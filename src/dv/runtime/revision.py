"""The Git revision of the running code."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str | None:
    """Return the commit of this package's clone, with ``-dirty`` if files have changed; None outside a clone."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():  # an installed package, perhaps below a clone of another project
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return described or None
