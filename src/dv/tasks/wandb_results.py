"""W&B: the name of a training's run, and the results that it logs at the end."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from dv.checkpoint import read_checkpoint
from dv.config.loggers import LoggerConfig, WandbConfig
from dv.config.train import TrainConfig
from dv.config.trajectories import OrbitTrajectory, SpiralTrajectory, Trajectory
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.geometry.camera import axis_cosines
from dv.images import depth_image, to_model_range, to_uint8
from dv.lightning.loggers import RunWandbLogger, make_loggers
from dv.losses import cut_border
from dv.metrics import psnr, ssim, to_unit
from dv.rendering.films import Film
from dv.rendering.restore import Restored, load
from dv.rendering.trajectories import trajectory
from dv.tasks.command import in_sweep
from dv.tasks.record import read_run
from dv.validation import role_of

log = logging.getLogger(__name__)
BATCH_SIZE = 4  # views rendered together
FPS, TURNS = 24, 3
WITHOUT_RESULT = ("launcher", "sweep", "logger")  # groups that do not change the result


def named_logger(settings: LoggerConfig, run_dir: Path) -> LoggerConfig:
    """Fill in ``run_name`` and ``group`` of W&B for a run of a sweep.

    The name lists the overrides of the run that can change its result, the group is the folder of the sweep.
    """
    if not isinstance(settings, WandbConfig) or not in_sweep():
        return settings
    hydra = HydraConfig.get()
    overrides = re.split(r",(?=[~+]*[\w.@/]+=)", hydra.job.override_dirname)
    named = [o for o in overrides if _is_named(o.partition("=")[0].lstrip("~+"), settings.not_in_run_name)]
    return replace(
        settings,
        run_name=settings.run_name or ",".join(named) or run_dir.name,
        group=settings.group or Path(hydra.sweep.dir).name,
    )


def _is_named(key: str, left_out: list[str]) -> bool:
    if {key, key.split(".")[0]} & {*left_out, *WITHOUT_RESULT}:
        return False
    return role_of(TrainConfig, key) in ("result", "resumable")


def log_results(
    logger: RunWandbLogger,
    config: TrainConfig,
    best: Path,
    source: ObjectSource,
    device: torch.device,
    best_psnr: float,
    steps: int,
) -> None:
    """Log the results of the best checkpoint: a table of validation views, a video, and the file itself.

    If one of them cannot be logged, a warning says so and the rest is left out. The random state is restored.

    Args:
        logger: W&B logger of the run.
        config: configuration of the training.
        best: path of the checkpoint.
        source: the object.
        device: device to render on.
        best_psnr: validation PSNR of the checkpoint, dB.
        steps: number of training steps.
    """
    import wandb  # takes a second

    settings = config.logger
    assert isinstance(settings, WandbConfig)
    if logger.experiment.disabled:
        return
    with torch.random.fork_rng(devices=[]), _files_in(best.parents[1] / "wandb"):
        try:
            checkpoint = read_checkpoint(best)
            assert checkpoint.placement is not None
            restored = load(checkpoint, source, checkpoint.placement, device, config.trainer.precision)
            logger.experiment.summary.update({"val/best_psnr": best_psnr, "val/best_steps": checkpoint.step})
            if settings.table_views != 0:
                table = validation_table(restored, config.loss.border, settings.table_views)
                logger.log_metrics({"validation": table}, steps)
            if settings.trajectory:
                with TemporaryDirectory() as folder:
                    video = Path(folder) / "trajectory.mp4"
                    _write_video(restored, settings, video)
                    logger.log_metrics({"trajectory": wandb.Video(str(video), format="mp4")}, steps)
            if settings.artifact:
                _log_checkpoint(logger, best, {"psnr": best_psnr, "steps": checkpoint.step, "object": source.name})
        except (OSError, UserError, wandb.errors.Error) as error:
            log.warning("W&B: the results are logged only in part: %s", error)


def log_test_scores(config: TrainConfig, run_dir: Path, scores: dict[str, float]) -> None:
    """Add ``test/…`` scores to the last row of the logs of the finished training in ``run_dir``."""
    steps = read_run(run_dir)["steps"]
    for logger in make_loggers(named_logger(config.logger, run_dir), run_dir, asdict(config), steps + 1):
        logger.log_metrics({f"test/{name}": value for name, value in scores.items()}, steps)
        logger.finalize("success")
        if isinstance(logger, RunWandbLogger):
            logger.close()


def validation_table(restored: Restored, border: int, max_views: int | None = None) -> Any:
    """Make a ``wandb.Table`` with name, scores, prediction, truth, depth and nearest training view of validation views.

    Args:
        restored: the trained model.
        border: px cut from the images before PSNR and SSIM are computed, as for ``val/``.
        max_views: number of views, spread over the split; None: all.
    """
    import wandb

    source = restored.source
    views, train = source.views("validation"), source.views("train")
    chosen = torch.linspace(0, len(views) - 1, min(max_views or len(views), len(views))).round().long()
    nearest = axis_cosines(views.poses[chosen], train.poses).argmax(1)
    columns = ["name", "psnr", "ssim", "prediction", "truth", "depth", "nearest training view"]
    table = wandb.Table([name for name in columns if restored.model.has_depth or name != "depth"])
    cameras = [views.cameras[i] for i in chosen.tolist()]
    rendered = restored.render_views(views.poses[chosen], cameras, BATCH_SIZE)
    for i, j, view in zip(chosen.tolist(), nearest.tolist(), rendered, strict=True):
        output, truth = to_unit(view.image[None].float()).cpu(), to_unit(to_model_range(views.image(i)[None]))
        inner = cut_border(output, border), cut_border(truth, border)
        scores = [score if math.isfinite(score := measure(*inner).item()) else None for measure in (psnr, ssim)]
        images = [output[0], truth[0]]
        if view.depth is not None:
            images.append(depth_image(view.depth.cpu(), truth.shape[2], truth.shape[3]))
        images.append(to_unit(to_model_range(train.image(j))))
        table.add_data(views.names[i], *scores, *(wandb.Image(to_uint8(image)) for image in images))
    return table


def _write_video(restored: Restored, settings: WandbConfig, path: Path) -> None:
    path_of_camera: Trajectory = (
        SpiralTrajectory("spiral", settings.frames, TURNS, FPS)
        if settings.trajectory == "spiral"
        else OrbitTrajectory("orbit", settings.frames, FPS)
    )
    _, poses, cameras = trajectory(restored, path_of_camera)
    with Film(path, FPS) as film:
        for view in restored.render_views(poses, cameras, BATCH_SIZE):
            film.add(to_unit(view.image))


def _log_checkpoint(logger: RunWandbLogger, best: Path, metadata: dict[str, Any]) -> None:
    """Log ``best`` as an artifact through a hard link, since a resumed training may replace it before W&B reads it."""
    import wandb

    kept = best.parents[1].resolve() / "wandb" / f"{logger.version}-{metadata['steps']}.ckpt"
    kept.unlink(missing_ok=True)
    try:
        os.link(best, kept)
    except OSError:  # a file system without links
        shutil.copyfile(best, kept)
    artifact = wandb.Artifact(f"model-{logger.version}", "model", metadata=metadata)
    artifact.add_file(str(kept), "best.ckpt", policy="immutable", skip_cache=True)
    logger.experiment.log_artifact(artifact, aliases=["best"])


@contextmanager
def _files_in(folder: Path) -> Iterator[None]:
    """Let W&B keep files to upload in ``folder`` and not in the home folder, so that an offline run is complete."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
