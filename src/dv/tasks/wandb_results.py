"""The W&B dashboard of a training: what its run is called, and what is shown when it is over."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dv.errors import UserError

if TYPE_CHECKING:
    import torch

    from dv.data.object import ObjectSource
    from dv.lightning.loggers import RunWandbLogger
    from dv.tasks.restore import Restored

log = logging.getLogger(__name__)
BATCH = 4  # views rendered together
FPS, TURNS = 24, 3


def named(settings: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The ``logger`` configuration with ``run_name`` and ``group`` filled in for a run of a sweep.

    Its name is its overrides, less those that only say where and how it runs; its group the sweep's folder.
    Raises :class:`UserError` for a trajectory that is none, so that not the end of the training finds it out.
    """
    from hydra.core.hydra_config import HydraConfig

    if settings.get("trajectory") not in (None, "spiral", "orbit"):
        raise UserError(f"logger.trajectory={settings['trajectory']} must be spiral, orbit or null")
    if settings.get("trajectory") and (not isinstance(settings["frames"], int) or settings["frames"] < 2):
        raise UserError(f"logger.frames={settings['frames']} must be a whole number of at least 2")
    if not HydraConfig.initialized():
        return settings
    hydra = HydraConfig.get()
    if getattr(hydra.mode, "name", hydra.mode) != "MULTIRUN":
        return settings
    left_out = {*settings.get("not_in_run_name", []), "logger"}
    overrides = re.split(r",(?=[~+]*[\w.@/]+=)", hydra.job.override_dirname)
    telling = [o for o in overrides if not {(key := o.partition("=")[0].lstrip("~+")), key.split(".")[0]} & left_out]
    return settings | {
        "run_name": settings.get("run_name") or ",".join(telling) or run_dir.name,
        "group": settings.get("group") or Path(hydra.sweep.dir).name,
    }


def show_results(
    logger: RunWandbLogger,
    settings: dict[str, Any],
    best: Path,
    source: ObjectSource,
    device: torch.device,
    precision: str,
    border: int,
    psnr: float,
    steps: int,
) -> None:
    """Log what the checkpoint ``best`` of ``psnr`` dB reaches: table of validation views, video, and the file itself.

    The training is over after ``steps``; what cannot be shown is said in a warning. Random state stays as it was.
    """
    import torch
    import wandb

    from dv.checkpoint import read_checkpoint
    from dv.tasks.restore import ready

    if logger.experiment.disabled:
        return
    with torch.random.fork_rng(devices=[]), _files_in(best.parents[1] / "wandb"):
        try:
            checkpoint = read_checkpoint(best)
            assert checkpoint.placement is not None
            shown = ready(checkpoint, source, checkpoint.placement, device, precision)
            logger.experiment.summary.update({"val/best_psnr": psnr, "val/best_steps": checkpoint.step})
            if settings["table_views"] != 0:
                table = validation_table(shown, border, settings["table_views"])
                logger.log_metrics({"validation": table}, steps)
            if settings["trajectory"]:
                with TemporaryDirectory() as folder:
                    video = Path(folder) / "trajectory.mp4"
                    _write_video(shown, settings["trajectory"], settings["frames"], video)
                    logger.log_metrics({"trajectory": wandb.Video(str(video), format="mp4")}, steps)
            if settings["artifact"]:
                _log_checkpoint(logger, best, {"psnr": psnr, "steps": checkpoint.step, "object": source.name})
        except (OSError, UserError, wandb.errors.Error) as error:
            log.warning("W&B: the results are not shown in full: %s", error)


def log_test_scores(config: DictConfig, run_dir: Path, scores: dict[str, float]) -> None:
    """Add ``test/…`` scores to the logs of the finished training in ``run_dir``, in the row of its end."""
    from dv.lightning.loggers import RunWandbLogger, make_loggers
    from dv.tasks.run_record import read_record
    from dv.tasks.settings import resolved

    steps, plain = read_record(run_dir)["steps"], resolved(config)
    for logger in make_loggers(config.logger.name, run_dir, plain, named(plain["logger"], run_dir), steps + 1):
        logger.log_metrics({f"test/{name}": value for name, value in scores.items()}, steps)
        logger.finalize("success")
        if isinstance(logger, RunWandbLogger):
            logger.close()


def validation_table(shown: Restored, border: int, most: int | None = None) -> Any:
    """A ``wandb.Table`` of validation views: name, scores, prediction, truth, depth and nearest training view.

    PSNR and SSIM are those of ``val/``, without the ``border`` that training does not see. ``most`` views are spread
    over the split; None shows all.
    """
    import torch
    import wandb

    from dv.geometry.camera import axis_cosines
    from dv.images import depth_picture, to_uint8
    from dv.lightning.object_module import to_model
    from dv.losses import cut_border
    from dv.metrics import psnr, ssim, to_unit

    source = shown.source
    views, train = source.views("validation"), source.views("train")
    intrinsics = source.calibration("validation" if source.folder("validation").is_dir() else "train").intrinsics
    chosen = torch.linspace(0, len(views) - 1, min(most or len(views), len(views))).round().long()
    nearest = axis_cosines(views.poses[chosen], train.poses).argmax(1)
    has_depth = shown.has_depth
    table = wandb.Table(
        ["name", "psnr", "ssim", "prediction", "truth", *(["depth"] if has_depth else []), "nearest training view"]
    )
    rendered = shown.views(views.poses[chosen], intrinsics, BATCH)
    for i, j, (image, depth) in zip(chosen.tolist(), nearest.tolist(), rendered, strict=True):
        output, truth = to_unit(image[None].float()).cpu(), to_unit(to_model(views.images[i : i + 1]))
        inner = cut_border(output, border), cut_border(truth, border)
        scores = [score if math.isfinite(score := measure(*inner).item()) else None for measure in (psnr, ssim)]
        pictures = [output[0], truth[0]]
        if depth is not None:
            pictures.append(depth_picture(depth.cpu(), truth.shape[-1]))
        pictures.append(to_unit(to_model(train.images[j])))
        table.add_data(views.names[i], *scores, *(wandb.Image(to_uint8(p)) for p in pictures))
    return table


def _write_video(shown: Restored, name: str, frames: int, path: Path) -> None:
    from dv.images import Video
    from dv.metrics import to_unit
    from dv.tasks.render import trajectory

    _, poses, intrinsics = trajectory(shown, OmegaConf.create({"name": name, "frames": frames, "turns": TURNS}))
    with Video(path, FPS) as video:
        for image, _ in shown.views(poses, intrinsics, BATCH):
            video.add(to_unit(image))


def _log_checkpoint(logger: RunWandbLogger, best: Path, metadata: dict[str, Any]) -> None:
    """Log ``best`` as an artifact, by a link of its own: a longer training may replace the file before it is synced."""
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
    """Have W&B keep in ``folder`` what it will upload, and not in the home folder: an offline run stays whole."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
