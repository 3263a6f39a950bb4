"""Time of compositing along rays through a trained radiance grid, by compiled kernels and by tensor operations.

python benchmarks/compositing.py outputs/train/vase/RUN/checkpoints/best.ckpt --device cpu
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from frames import open_checkpoint

from dv.geometry.camera import pixel_rays
from dv.ops.compositing import CompositeOutput, composite, composite_reference
from dv.radiance import STEP_SIZE, RadianceGrid
from dv.runtime.memory import keep_freed_memory


def time_compositing(ckpt: Path, device: torch.device, count: int, runs: int) -> dict[str, list[float]]:
    """Time forward and backward passes of both implementations.

    Args:
        ckpt: checkpoint of a radiance grid.
        device: device to run on.
        count: number of rays, through random pixels of random training views.
        runs: number of passes of each implementation, in turn.

    Returns:
        Seconds of each pass by ``kernels`` and by ``tensors``.
    """
    restored = open_checkpoint(ckpt, device, "32-true")
    model, source = restored.model, restored.source
    assert isinstance(model, RadianceGrid)
    views, generator = source.views("train"), torch.Generator().manual_seed(0)
    k = views.cameras[0]
    pixels = (torch.rand(count, 2, generator=generator) * torch.tensor([k.width, k.height])).long()
    poses = views.poses[torch.randint(len(views), (count,), generator=generator)]
    world = pixel_rays(poses.to(device), pixels.to(device), k)
    rays, voxels = model.rays(*world, torch.rand(count, generator=generator).to(device)), model.voxels

    def forward_and_backward(function: Callable[..., CompositeOutput]) -> None:
        density, features, interval = voxels.density, voxels.features, voxels.interval(STEP_SIZE)
        output = function(density, features, voxels.index, voxels.distance, rays, STEP_SIZE, interval)
        torch.autograd.grad(output.features.sum() + output.transmittance.sum(), (density, features))
        if device.type == "cuda":
            torch.cuda.synchronize()

    functions = {"kernels": composite, "tensors": composite_reference}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(runs + 1):  # the first run compiles
        for name, function in functions.items():
            start = time.perf_counter()
            forward_and_backward(function)
            if run:
                seconds[name].append(time.perf_counter() - start)
    return seconds


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
    seconds = time_compositing(arguments.ckpt, torch.device(arguments.device), arguments.rays, arguments.runs)
    kernels, tensors = (1e3 * statistics.median(seconds[name]) for name in ("kernels", "tensors"))
    print(
        f"{arguments.rays} rays, forward and backward: {kernels:.1f} ms by kernels, {tensors:.1f} ms by tensors "
        f"({tensors / kernels:.1f} times as long)"
    )


if __name__ == "__main__":
    main()
