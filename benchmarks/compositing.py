"""Time of compositing along rays through a trained radiance grid, by compiled kernels and by tensor operations.

python benchmarks/compositing.py outputs/train/vase/RUN/checkpoints/best.ckpt --device cpu
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from frames import open_checkpoint

from dv.data.folder import Views
from dv.geometry.camera import subpixel_rays
from dv.lightning.pixel_pool import PixelPool
from dv.ops.compositing import CompositeOutput, Rays, composite, composite_reference
from dv.radiance import STEP_SIZE, RadianceGrid
from dv.runtime.memory import keep_freed_memory


def training_rays(model: RadianceGrid, views: Views, count: int, device: torch.device) -> Rays:
    """Return about ``count`` rays through random pixels of training views, as a training step draws them."""
    generator, pool = torch.Generator(device).manual_seed(0), PixelPool(views, device)
    pool.keep_hits(model, 0)
    drawn = pool.draw(count // model.sizes.rays_per_pixel, generator)
    world = subpixel_rays(drawn.pose, drawn.position, drawn.camera, model.training_offsets[0])
    return model.rays(*world, torch.rand(len(world[0]), generator=generator, device=device))


def median_ms(runs: int, *functions: Callable[[], object]) -> list[float]:
    """Return the median milliseconds of each of some calls that follow each other, after a round that compiles."""
    rounds = []
    for _ in range(runs + 1):
        times = [time.perf_counter()]
        for function in functions:
            function()
            times.append(time.perf_counter())
        rounds.append(np.diff(times))
    return [1e3 * float(value) for value in np.median(rounds[1:], axis=0)]


def time_compositing(ckpt: Path, device: torch.device, count: int, runs: int) -> list[float]:
    """Time forward and backward passes of both implementations.

    Args:
        ckpt: checkpoint of a radiance grid.
        device: device to run on.
        count: number of rays, through random pixels of the training views.
        runs: number of passes of each implementation, in turn.

    Returns:
        Milliseconds of a forward and backward pass by kernels and by tensor operations.
    """
    restored = open_checkpoint(ckpt, device, "32-true")
    model = restored.model
    assert isinstance(model, RadianceGrid)
    rays, voxels = training_rays(model, restored.source.views("train"), count, device), model.voxels

    def forward_and_backward(function: Callable[..., CompositeOutput]) -> None:
        density, features, interval = voxels.density, voxels.features, voxels.interval(STEP_SIZE)
        output = function(density, features, voxels.index, voxels.distance, rays, STEP_SIZE, interval)
        torch.autograd.grad(output.features.sum() + output.transmittance.sum(), (density, features))
        if device.type == "cuda":
            torch.cuda.synchronize()

    return median_ms(runs, *(partial(forward_and_backward, f) for f in (composite, composite_reference)))


def main() -> None:
    """Print the median times of both implementations and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rays", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    keep_freed_memory()  # as training does
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    kernels, tensors = time_compositing(arguments.ckpt, device, arguments.rays, arguments.runs)
    print(
        f"{arguments.rays} rays, forward and backward: {kernels:.1f} ms by kernels, {tensors:.1f} ms by tensors "
        f"({tensors / kernels:.1f} times as long)"
    )


if __name__ == "__main__":
    main()
