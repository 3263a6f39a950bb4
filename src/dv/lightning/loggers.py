"""Loggers of a run: metrics.csv always, TensorBoard or W&B beside it."""

from __future__ import annotations

import csv
import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from dv.data.pictures import to_uint8, write_png


class RunCsvLogger(CSVLogger):
    """``metrics.csv`` in the run's folder; a resumed run keeps the rows up to the step it resumes from."""

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=50)
        path = run_dir / "metrics.csv"
        if os.environ.get("LOCAL_RANK", "0") == "0" and resume_step is not None and path.is_file():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < resume_step]
            self.experiment.metrics = [
                {k: float(v) if k != "step" else int(v) for k, v in row.items() if v} for row in rows
            ]
            self.save()


def wandb_key_exists() -> bool:
    """Whether W&B could log in without asking: a key in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def make_loggers(
    name: str, run_dir: Path, config: dict[str, Any], settings: dict[str, Any], resume_step: int | None
) -> list[Logger]:
    """The loggers of the ``logger`` configuration ``name``; W&B is offline without a key and never asks for one."""
    loggers: list[Logger] = [RunCsvLogger(run_dir, resume_step)]
    if name == "tensorboard":
        loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    elif name == "wandb":
        mode = settings.get("mode") or os.environ.get("WANDB_MODE") or ("online" if wandb_key_exists() else "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        loggers.append(
            WandbLogger(
                name=settings.get("run_name") or run_dir.name,
                project=settings.get("project", "dv"),
                group=settings.get("group"),
                tags=settings.get("tags"),
                save_dir=run_dir,
                mode=mode,
                config=config,
                reinit="finish_previous",
            )
        )
    return loggers


def log_picture(loggers: Sequence[Logger], name: str, picture: Tensor, step: int) -> None:
    """Give ``picture`` ``[3, H, W]`` in [0, 1] to every logger; beside metrics.csv it lies in ``pictures/``."""
    for logger in loggers:
        if isinstance(logger, RunCsvLogger):
            folder = Path(logger.log_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            write_png(folder / f"{name}_{step:07d}.png", picture)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, to_uint8(picture), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [to_uint8(picture)], step=step)
