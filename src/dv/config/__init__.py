"""The schema of every configuration: type, range and role of each key. Defaults and explanations are in ``conf/``.

A command composes ``conf/<command>.yaml`` with the command line and parses it into the dataclass here
(:func:`dv.validation.parse`); code below ``tasks/`` gets these objects, never configuration keys.
"""

from __future__ import annotations

from typing import Any

from dv.config.prepare import PrepareConfig
from dv.config.render import EvaluateConfig, ExportConfig, RenderConfig, ViewConfig
from dv.config.report import ReportConfig
from dv.config.train import TrainConfig

SCHEMAS: dict[str, Any] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "render": RenderConfig,
    "export": ExportConfig,
    "view": ViewConfig,
    "prepare": PrepareConfig,
    "report": ReportConfig,
}
