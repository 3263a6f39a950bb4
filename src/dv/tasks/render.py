"""``render.py``: pictures, depth and a video of a trained model along a trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dv.errors import UserError
from dv.tasks.command import run

if TYPE_CHECKING:
    from torch import Tensor

    from dv.geometry.camera import Intrinsics
    from dv.tasks.restore import Restored


def render(config: DictConfig) -> Path:
    """Render a trajectory into ``rgb/``, ``depth/``, ``depth.json`` and ``video.mp4``; returns their folder.

    The grid is inpainted once. Depth is camera z; a count of a depth PNG is worth ``world_units_per_count``.
    """
    from tqdm import tqdm

    from dv.images import Video, write_png16
    from dv.metrics import to_unit
    from dv.tasks.restore import restore
    from dv.tasks.settings import write_json

    restored = restore(config)
    names, poses, intrinsics = trajectory(restored, config.trajectory)
    output_dir = Path(config.output_dir or restored.run_dir / "render" / config.trajectory.name)
    has_depth = restored.has_depth
    if not has_depth:
        print("model=no_occlusion has no depth: writing colour only")
    (output_dir / "rgb").mkdir(parents=True, exist_ok=True)
    frames = {f"{i:06d}" for i in range(len(poses))}
    farthest = restored.farthest(poses)
    units = farthest / 65535
    if has_depth:
        (output_dir / "depth").mkdir(exist_ok=True)
        write_json(output_dir / "depth.json", {"world_units_per_count": units})
    with _whole(output_dir / "video.mp4") as video_path, Video(video_path, config.trajectory.fps) as video:
        views = restored.views(poses, intrinsics, config.batch_size)
        progress = tqdm(views, f"rendering {config.trajectory.name}", len(poses), unit="frame")
        for i, (image, depth) in enumerate(progress):
            picture = to_unit(image)
            write_png16(output_dir / "rgb" / f"{i:06d}.png", picture)
            if depth is not None:
                write_png16(output_dir / "depth" / f"{i:06d}.png", depth / farthest)
            video.add(picture)
    for old in (*output_dir.glob("rgb/*.png"), *output_dir.glob("depth/*.png")):
        if old.stem not in frames:  # of a longer trajectory rendered here before
            old.unlink()
    write_json(output_dir / "frames.json", {"names": names, "poses": poses.tolist()})
    print(f"{len(poses)} frames: {output_dir}")
    return output_dir


def trajectory(restored: Restored, config: Any) -> tuple[list[str], Tensor, Intrinsics]:
    """Names, poses ``[N, 4, 4]`` and camera of the ``trajectory`` configuration. Raises :class:`UserError`."""
    import torch

    from dv.data.folder import read_poses
    from dv.geometry.trajectory import interpolate, key_poses, orbit, spiral

    name, source = config.name, restored.source
    if name == "poses" or (name == "test" and (source.folder("test") / "pose").is_dir()):
        calibration = source.calibration("test")
        names, poses = read_poses(source.folder("test"), calibration)
        return names, poses, calibration.intrinsics
    if name == "test":
        views = source.views("test")
        return views.names, views.poses, source.calibration().intrinsics
    frames = config.frames
    if not isinstance(frames, int) or frames < 2:
        raise UserError(f"trajectory.frames={frames} must be a number of at least 2")
    calibration = source.calibration()
    _, known = read_poses(source.folder("train"), calibration)
    center = torch.tensor(restored.placement.origin, dtype=known.dtype)
    if name == "spiral":
        poses = spiral(known, center, frames, config.turns, source.up())
    elif name == "orbit":
        poses = orbit(known, center, frames, source.up())
    else:
        poses = interpolate(key_poses(known, config.key_poses), frames)
    return [f"{i:06d}" for i in range(len(poses))], poses, calibration.intrinsics


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write to, which is renamed to ``path`` once all is written."""
    aside = path.with_name(f".partial-{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def main() -> None:
    """Command line."""
    run("render", render)


if __name__ == "__main__":
    main()
