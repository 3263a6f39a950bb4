"""Compositing along the rays of a trained radiance grid: its kernels beside the same in tensor operations.

python benchmarks/compositing.py outputs/train/vase/RUN/checkpoints/best.ckpt --device cpu
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from frames import opened

from dv.geometry.rays import pixel_rays
from dv.ops.compositing import Composited, composite, composite_by_tensors
from dv.radiance import STEP, RadianceGrid


def seconds_of(ckpt: Path, device: torch.device, count: int, runs: int) -> dict[str, list[float]]:
    """Seconds, by kernels and by tensors in turn, of ``runs`` times forward and backward along ``count`` rays.

    The rays go through random pixels of random training views, with samples half a vertex apart.
    """
    restored = opened(ckpt, device, "32-true")
    model, source = restored.model, restored.source
    assert isinstance(model, RadianceGrid)
    side, views, generator = model.sizes.image_side, source.views("train"), torch.Generator().manual_seed(0)
    pixels = torch.randint(side, (count, 2), generator=generator)
    poses = views.poses[torch.randint(len(views), (count,), generator=generator)]
    world = pixel_rays(poses.to(device), pixels.to(device), source.calibration("train").intrinsics.at_side(side))
    rays, voxels = model.rays(*world, torch.rand(count, generator=generator).to(device)), model.voxels

    def both_ways(how: Callable[..., Composited]) -> None:
        density, features = voxels.density, voxels.features
        seen = how(density, features, voxels.index, voxels.distance, rays, STEP, voxels.length(STEP))
        torch.autograd.grad(seen.features.sum() + seen.through.sum(), (density, features))
        if device.type == "cuda":
            torch.cuda.synchronize()

    ways = {"kernels": composite, "tensors": composite_by_tensors}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + 1):  # the first compiles
        for name, how in ways.items():
            start = time.perf_counter()
            both_ways(how)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Print the median of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rays", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    seconds = seconds_of(arguments.ckpt, torch.device(arguments.device), arguments.rays, arguments.runs)
    kernels, tensors = (1e3 * statistics.median(seconds[name]) for name in ("kernels", "tensors"))
    print(
        f"{arguments.rays} rays forward and backward: {kernels:.1f} ms by kernels, {tensors:.1f} ms by tensors, "
        f"{tensors / kernels:.1f} times as long"
    )


if __name__ == "__main__":
    main()
