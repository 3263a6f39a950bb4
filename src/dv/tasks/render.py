"""``render.py``: images, depth and a video of a trained model along a trajectory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dv.config import RenderConfig, Trajectory
from dv.data.folder import read_poses
from dv.data.key_frames import read_key_frames
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.trajectory import interpolate, key_poses, orbit, spiral
from dv.images import Video, background_color, write_png16
from dv.metrics import to_unit
from dv.runtime.files import atomic_file, write_json
from dv.tasks.command import run
from dv.tasks.restore import Restored, restore


def render(config: RenderConfig) -> Path:
    """Render a trajectory into ``rgb/``, ``depth/``, ``depth.json``, ``frames.json`` and ``video.mp4``.

    Depth is camera z; one count of a 16-bit depth PNG is ``world_units_per_count`` of ``depth.json``. With a
    ``background`` images show only what lies in the box; transparent ones are RGBA, and white in the video.

    Returns:
        The folder of the results.

    Raises:
        UserError: for a ``background`` with a model without opacity.
    """
    restored = restore(config)
    if config.exposure == "mean":
        restored.model.use_mean_exposure()
    if config.background is not None:
        _isolate(restored)
    names, poses, cameras = trajectory(restored, config.trajectory)
    name = config.trajectory.name if config.background is None else f"{config.trajectory.name}_thing"
    output_dir = Path(config.output_dir or restored.run_dir / "render" / name)
    (output_dir / "rgb").mkdir(parents=True, exist_ok=True)
    max_depth = restored.model.max_depth(poses)
    if restored.model.has_depth:
        (output_dir / "depth").mkdir(exist_ok=True)
        write_json(output_dir / "depth.json", {"world_units_per_count": max_depth / 65535})
    else:
        print("this model renders no depth: writing colour only")
    size = max(k.height for k in cameras), max(k.width for k in cameras)
    with atomic_file(output_dir / "video.mp4") as path, Video(path, config.trajectory.fps, size) as video:
        views = restored.render_views(poses, cameras, config.batch_size)
        for i, view in enumerate(tqdm(views, f"rendering {config.trajectory.name}", len(poses), unit="frame")):
            image = to_unit(view.image)
            frame = image if config.background is None else over_background(image, view.opacity, config.background)
            write_png16(output_dir / "rgb" / f"{i:06d}.png", frame)
            if view.depth is not None:
                write_png16(output_dir / "depth" / f"{i:06d}.png", view.depth / max_depth)
            video.add(frame if len(frame) == 3 else over_background(image, view.opacity, "white"))
    frames = {f"{i:06d}" for i in range(len(poses))}
    for old in (*output_dir.glob("rgb/*.png"), *output_dir.glob("depth/*.png")):
        if old.stem not in frames:  # left by a longer trajectory
            old.unlink()
    write_json(output_dir / "frames.json", {"names": names, "poses": poses.tolist()})
    print(f"{len(poses)} frames: {output_dir}")
    return output_dir


def _isolate(restored: Restored) -> None:
    try:
        restored.model.isolate()
    except ValueError as error:
        raise UserError(f"background= with {restored.checkpoint.path}: {error}; leave out background=") from error


def over_background(image: Tensor, opacity: Tensor | None, background: str | list[float]) -> Tensor:
    """Composite an image over a background.

    Args:
        image: colours multiplied by opacity, ``[3, H, W]`` in [0, 1].
        opacity: ``[1, H, W]``.
        background: a colour, or ``transparent``.

    Returns:
        RGB ``[3, H, W]``, or for ``transparent`` RGBA ``[4, H, W]`` whose colours are not multiplied.

    >>> image, opacity = torch.full((3, 1, 1), 0.2), torch.full((1, 1, 1), 0.5)
    >>> over_background(image, opacity, "transparent").flatten()
    tensor([0.4000, 0.4000, 0.4000, 0.5000])
    >>> over_background(image, opacity, "white").flatten()
    tensor([0.7000, 0.7000, 0.7000])
    """
    assert opacity is not None
    if background == "transparent":
        return torch.cat([(image / opacity.clamp_min(1e-6)).clamp(0, 1), opacity])
    color = image.new_tensor(background_color(background))[:, None, None]
    return image + (1 - opacity) * color


def trajectory(restored: Restored, config: Trajectory) -> tuple[list[str], Tensor, list[Intrinsics]]:
    """Return the names, poses ``[N, 4, 4]`` and cameras of a trajectory, by default the first training view's."""
    source = restored.source
    if config.name == "poses" or (config.name == "test" and (source.folder("test") / "pose").is_dir()):
        calibration = source.calibration("test")
        names, poses = read_poses(source.folder("test"), calibration)
        return names, poses, source.cameras("test", names)
    if config.name == "test":
        views = source.views("test")
        return views.names, views.poses, views.cameras
    calibration = source.calibration()
    known_names, known = read_poses(source.folder("train"), calibration)
    center = torch.tensor(restored.placement.origin, dtype=known.dtype)
    if config.name == "file":
        if not config.path:
            raise UserError("trajectory.path is not set; give trajectory=FILE.json")
        poses = interpolate(*read_key_frames(Path(config.path), config.fps)).to(known.dtype)
    elif config.name == "spiral":
        poses = spiral(known, center, config.frames, config.turns, source.up())
    elif config.name == "orbit":
        poses = orbit(known, center, config.frames, source.up())
    else:
        poses = interpolate(key_poses(known, config.key_poses), config.frames)
    return [f"{i:06d}" for i in range(len(poses))], poses, source.cameras("train", known_names[:1]) * len(poses)


if __name__ == "__main__":
    run("render")
