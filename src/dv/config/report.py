"""The schema of ``report.py``."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from dv.config.key_types import Text
from dv.validation import STRICT


@dataclass(config=STRICT)
class ReportConfig:
    """``conf/report.yaml``."""

    runs: Text | list[Text]
    output_dir: Text | None
    group: str | list[str] | None
    over: str | list[str] | None
    sort: str | None
