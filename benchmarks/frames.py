"""Frames per second at which a trained model renders colour and depth of its test views, without writing files.

python benchmarks/frames.py outputs/train/vase/RUN/checkpoints/best.ckpt --device cpu
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from dv.checkpoint import Checkpoint, read_checkpoint
from dv.data.object import ObjectSource
from dv.rendering.restore import Restored, load


def open_checkpoint(ckpt: Path, device: torch.device, precision: str) -> Restored:
    """Restore the model of a checkpoint, together with the object on which it was trained."""
    checkpoint = read_checkpoint(ckpt)
    assert checkpoint.placement is not None
    return load(checkpoint, source_of(checkpoint), checkpoint.placement, device, precision)


def source_of(checkpoint: Checkpoint) -> ObjectSource:
    """Return the object on which a checkpoint was trained, without noise in its poses."""
    assert checkpoint.config is not None
    settings = checkpoint.config["object"]
    longest_side = checkpoint.config["data"].get("longest_side")
    return ObjectSource(Path(settings["root"]), settings["name"], "", checkpoint.sizes["image_side"], longest_side)


def frame_seconds(
    ckpt: Path, device: torch.device, count: int, precision: str, supersampling: int | None = None
) -> list[float]:
    """Return the seconds that each of ``count`` frames takes, after two warm-up frames."""
    restored = open_checkpoint(ckpt, device, precision)
    if supersampling:
        restored.supersample(supersampling)
    poses = restored.source.views("test").poses
    chosen = poses[torch.arange(count + 2) % len(poses)]
    seconds, before = [], time.perf_counter()
    for view in restored.render_views(chosen, restored.source.views("test").cameras[:1] * len(chosen), 1):
        view.image.cpu()  # waits for the GPU
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return seconds[2:]


def main() -> None:
    """Print the median number of frames per second and the time of the slowest frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--supersampling", type=int, help="squared: rays per pixel; by default as the model says")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    given = arguments.ckpt, device, arguments.frames, arguments.precision, arguments.supersampling
    seconds = frame_seconds(*given)
    print(f"{1 / statistics.median(seconds):.1f} frames per second; the slowest frame took {1e3 * max(seconds):.0f} ms")


if __name__ == "__main__":
    main()
