"""``render.py``: images, depth and a film of a trained model along a trajectory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dv.config.render import RenderConfig
from dv.errors import UserError, did_you_mean
from dv.rendering.frames import Frames, render_frames
from dv.rendering.panels import Panel, anaglyph_panel, depth_panel, truth_panel, write_film
from dv.rendering.restore import Restored, restore
from dv.rendering.trajectories import Shots, eyes, resized, trajectory
from dv.tasks.command import run


def render(config: RenderConfig) -> Path:
    """Render a trajectory into ``rgb/``, ``depth/``, ``opacity/``, ``depth.json``, ``frames.json`` and ``video.mp4``.

    Depth is camera z; one count of a 16-bit depth PNG is ``world_units_per_count`` of ``depth.json``. With a
    ``background`` images show only what lies in the box; transparent ones are RGBA, and white in the film. A second
    call with the same configuration continues where the first one stopped.

    Returns:
        The folder of the results.

    Raises:
        UserError: for what the model or the trajectory cannot give.
    """
    restored = _restored(config, config.ckpt)
    beside = config.items_beside
    if "depth" in beside and not restored.model.has_depth:
        raise UserError(f"beside=depth: {config.ckpt} renders no depth; leave it out")
    others = {path: _other(config, path, restored) for path in beside if path not in ("truth", "depth")}
    shots = resized(trajectory(restored, config.trajectory), config.width, config.height)
    name = config.trajectory.name if config.background is None else f"{config.trajectory.name}_thing"
    folder = Path(config.output_dir or restored.run_dir / "render" / name)
    if not restored.model.has_depth:
        print("this model renders no depth: writing colour only")
    left, right = eyes(shots, restored, config.eye_distance) if config.stereo else (shots, None)
    frames = _frames(config, restored, left, folder)
    panels: list[Panel] = [frames.rgb]
    for item in beside:
        if item == "truth":
            panels.append(truth_panel(restored.source.views("test")))
        elif item == "depth":
            panels.append(depth_panel(frames, shots.cameras))
        else:
            panels.append(_frames(config, others[item], shots, folder / "beside").rgb)
    if right is not None:
        second = _frames(config, restored, right, folder / "right")
        panels = [anaglyph_panel(frames, second)] if config.stereo == "anaglyph" else [frames.rgb, second.rgb]
    if config.film:
        cameras, numbers = shots.cameras, range(frames.count)
        largest = {max(numbers, key=lambda i: cameras[i].width), max(numbers, key=lambda i: cameras[i].height)}
        write_film(folder / f"video.{config.film}", panels, largest, frames.count, config.trajectory.fps)
    print(f"{frames.count} frames: {folder}")
    return folder


def _other(config: RenderConfig, path: str, restored: Restored) -> Restored:
    """Restore the checkpoint that is shown beside another one, of the same object."""
    if not Path(path).is_file():
        similar = did_you_mean(path, ["truth", "depth"])
        raise UserError(f"beside={path} must be truth, depth or the file of a checkpoint{similar}")
    other = _restored(config, path)
    name = (other.checkpoint.config or {}).get("object", {}).get("name", restored.source.name)
    if name != restored.source.name:
        raise UserError(f"beside={path} was trained on {name}, not on {restored.source.name}")
    return other


def _restored(config: RenderConfig, ckpt: str | None) -> Restored:
    restored = restore(replace(config, ckpt=ckpt))
    if restored.model.squares_only and (config.width or config.height):
        raise UserError(f"{ckpt} renders squares of one size; leave out width= and height=")
    if config.supersampling:
        restored.supersample(config.supersampling)
    if config.exposure == "mean":
        restored.use_mean_exposure()
    if config.background is not None:
        try:
            restored.model.isolate()
        except ValueError as error:
            raise UserError(f"background= with {restored.checkpoint.path}: {error}; leave out background=") from error
    return restored


def _frames(config: RenderConfig, restored: Restored, shots: Shots, folder: Path) -> Frames:
    label = f"rendering {config.trajectory.name}"
    return render_frames(restored, shots, folder, config.background, config.batch_size, label)


if __name__ == "__main__":
    run("render")
