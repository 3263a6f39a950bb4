"""Loggers of a run: always ``metrics.csv``, and TensorBoard or W&B if configured.

Rows are numbered by the step that has just ended, from 0: values after N steps belong to row N - 1.
"""

from __future__ import annotations

import csv
import json
import logging
import netrc
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from dv.config.loggers import LoggerConfig, TensorBoardConfig, WandbConfig
from dv.errors import UserError
from dv.images import to_uint8, write_ply, write_png
from dv.lightning.wandb_file import history, truncate_incomplete_record
from dv.runtime.files import write_json
from dv.runtime.revision import revision

log = logging.getLogger(__name__)
STEP = "trainer/global_step"  # the x axis of all W&B charts


class RunCsvLogger(CSVLogger):
    """``metrics.csv`` in the run's folder; a resumed run keeps the rows up to the step it resumes from."""

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=50)
        self.kept: list[dict[str, Any]] = []
        path = run_dir / "metrics.csv"
        if getattr(rank_zero_only, "rank", 0) == 0 and resume_step is not None and path.is_file():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < resume_step]
            self.kept = [{k: float(v) if k != "step" else int(v) for k, v in row.items() if v} for row in rows]
            self.experiment.metrics = [*self.kept]
            self.save()

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        super().log_metrics(_without_epoch(metrics), step)


class RunTensorBoardLogger(TensorBoardLogger):
    """``tensorboard/`` in the run's folder; a resumed run removes the rows that it will log again."""

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        super().__init__(run_dir, name="", version="tensorboard", default_hp_metric=False, purge_step=resume_step)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add scalars."""
        super().log_metrics(_without_epoch(metrics), step)


class RunWandbLogger(WandbLogger):
    """One W&B run, however often it is interrupted and resumed.

    ``wandb.json`` in the run's folder keeps its id, name and group. A resumed run repeats the rows after its
    checkpoint; those that W&B has are not logged again, since W&B cannot remove them. Rows before the checkpoint that
    W&B lacks, because its process was killed too, are logged from metrics.csv.

    Args:
        run_dir: the run's folder.
        config: logged as the run's configuration.
        settings: the ``logger`` group.
        kept: rows of metrics.csv before the checkpoint; None in a new run.
    """

    def __init__(
        self, run_dir: Path, config: dict[str, Any], settings: WandbConfig, kept: list[dict[str, Any]] | None
    ) -> None:
        self._state_path = run_dir / "wandb.json"
        before = json.loads(self._state_path.read_text()) if kept is not None and self._state_path.is_file() else {}
        self._kept = kept or []
        self._row: int | None = None  # the row that W&B is still collecting
        self._logged: dict[str, int] = {}  # the last row that an earlier process has logged, by name
        run_id = before.get("id") or secrets.token_hex(4)  # not from random state: runs may share a seed
        tags = settings.tags
        super().__init__(
            name=settings.run_name or before.get("name") or run_dir.name,
            id=run_id,
            project=settings.project,
            entity=settings.entity,
            group=settings.group or before.get("group"),
            tags=[tags] if isinstance(tags, str) else tags,
            notes=settings.notes,
            job_type=settings.job_type,
            save_dir=run_dir,
            mode=_wandb_mode(settings.mode, run_dir, run_id),
            config=config | {"revision": revision()},
            resume="allow" if before else None,  # only then: syncing a new run twice would double it
            settings={"x_transaction_log_flush_interval": 1.0},  # seconds of rows that a killed process may lose
            reinit="create_new",  # never continue a run that another job of this process has left open
        )
        self._wandb_init.pop("anonymous")  # W&B warns of it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at first use, on rank 0 only.

        Raises:
            UserError: if W&B cannot start it.
        """
        if self._experiment is None:
            import wandb

            earlier = sorted((self._state_path.parent / "wandb").glob(f"*run-*-{self.version}/*.wandb"))
            try:
                self._experiment = wandb.init(**self._wandb_init)
            except wandb.errors.Error as error:
                raise UserError(f"W&B: {error}; logger.mode=offline needs no network (wandb sync later)") from error
            self._experiment.define_metric(STEP)
            self._experiment.define_metric("*", step_metric=STEP, step_sync=True)
            state = {key: self._wandb_init[key] for key in ("id", "name", "group")}
            write_json(self._state_path, state)
            self._logged = _last_rows(earlier, self._experiment.starting_step)
            for row in self._kept:
                self.log_metrics({name: value for name, value in row.items() if name != "step"}, row["step"])
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add scalars or media to the row ``step``, except those that an earlier process of this run has logged."""
        assert step is not None
        new = {name: value for name, value in _without_epoch(metrics).items() if step > self._logged.get(name, -1)}
        if new:
            run = self.experiment
            if self._row not in (None, step):
                run.log({}, commit=True)
            self._row = step
            run.log({**new, STEP: step}, commit=False)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run as failed unless ``status`` is success; :meth:`close` ends a successful one, later."""
        if status != "success" and self._experiment is not None:
            self._experiment.finish(getattr(sys.exception(), "exit_code", 1))

    @rank_zero_only
    def close(self) -> None:
        """End the W&B run as finished."""
        self.experiment.finish(0)
        if self._wandb_init["mode"] == "offline":
            log.info("W&B: to upload this run, wandb sync %s", self._state_path.parent / "wandb" / f"*-{self.version}")


def _last_rows(files: Sequence[Path], uploaded: int) -> dict[str, int]:
    """Return the last row of every name in a run's files; of rows logged online only the first ``uploaded`` count."""
    last: dict[str, int] = {}
    for file in files:
        truncate_incomplete_record(file)
        online = not file.parent.name.startswith("offline")
        for row in history(file):
            if STEP in row and not (online and row["_step"] >= uploaded):
                last |= dict.fromkeys(row, row[STEP])
    return last


def wandb_key_exists() -> bool:
    """Whether W&B can log in without a prompt: there is a key in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb_mode(wanted: str | None, run_dir: Path, run_id: str) -> str:
    """Return the mode: as requested, else online with a key and offline without one; offline if rows would be lost."""
    mode = wanted or os.environ.get("WANDB_MODE") or ("online" if wandb_key_exists() else "offline")
    files = (run_dir / "wandb").glob(f"offline-run-*-{run_id}/*.wandb")
    if mode == "online" and any(not file.with_name(f"{file.name}.synced").exists() for file in files):
        log.warning(
            "W&B: staying offline, since the beginning of this run has not been uploaded (wandb sync %s)",
            run_dir / "wandb" / f"offline-run-*-{run_id}",
        )
        return "offline"
    return mode


def make_loggers(
    settings: LoggerConfig, run_dir: Path, config: dict[str, Any], resume_step: int | None = None
) -> list[Logger]:
    """Make the loggers of a run; W&B is offline without a key and never asks for one.

    Args:
        settings: the ``logger`` group.
        run_dir: the run's folder.
        config: logged as the run's configuration.
        resume_step: step from which the run is resumed; None for a new run.
    """
    table = RunCsvLogger(run_dir, resume_step)
    loggers: list[Logger] = [table]
    if isinstance(settings, TensorBoardConfig):
        loggers.append(RunTensorBoardLogger(run_dir, resume_step))
    elif isinstance(settings, WandbConfig):
        os.environ.setdefault("WANDB_SILENT", "true")
        loggers.append(RunWandbLogger(run_dir, config, settings, None if resume_step is None else table.kept))
    return loggers


def log_image(loggers: Sequence[Logger], name: str, image: Tensor, steps: int) -> None:
    """Log an image ``[3, H, W]`` in [0, 1] after ``steps`` to all loggers; with metrics.csv as PNG in ``pictures/``."""
    for logger in loggers:
        if isinstance(logger, RunCsvLogger):
            write_png(_image_folder(logger) / f"{name}_{steps:07d}.png", image)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, to_uint8(image), steps - 1, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [to_uint8(image)], step=steps - 1)


def log_point_cloud(loggers: Sequence[Logger], name: str, points: Tensor, colors: Tensor, steps: int) -> None:
    """Log ``points`` and ``colors`` in [0, 1], ``[N, 3]`` each, as :func:`log_image` does; as PLY in ``pictures/``."""
    bytes_ = (colors.clamp(0, 1) * 255).round()
    for logger in loggers:
        if isinstance(logger, RunCsvLogger):
            write_ply(_image_folder(logger) / f"{name}_{steps:07d}.ply", points, colors)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_mesh(name, points[None].float(), bytes_[None].byte(), global_step=steps - 1)
        elif isinstance(logger, WandbLogger):
            import wandb

            cloud = wandb.Object3D(torch.cat([points, bytes_], 1).float().numpy())
            logger.log_metrics({name: cloud}, step=steps - 1)


def _image_folder(logger: RunCsvLogger) -> Path:
    folder = Path(logger.log_dir) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _without_epoch(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics without ``epoch``, which Lightning adds to every row."""
    return {name: value for name, value in metrics.items() if name != "epoch"}
