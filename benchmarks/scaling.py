"""How long a step of a radiance grid takes on more cores than this machine has.

python benchmarks/scaling.py outputs/demo/checkpoints/best.ckpt --cores 8:40 64:200

A step of training pixels is timed on one core and on two. For more cores it is simulated: the blocks of rays and the
planes of vertices are distributed over the threads as numba distributes a parallel loop, in equal numbers that follow
each other, and each takes the time or the number of samples that it has here; the thread with most ends last. What
PyTorch computes, and what is serial, follows Amdahl's law between one core and two. Parts that stream memory are bound
by the bandwidth of the machine too, given in GB/s after the number of cores. The simulation of two cores beside their
measured time says how far to trust it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compositing import median_ms, training_rays
from frames import open_checkpoint
from numpy.typing import NDArray

from dv.lightning.pixel_pool import PixelPool
from dv.lightning.row_adam import RowAdam
from dv.ops.compositing import Rays
from dv.ops.compositing_cpu import march, plane_stride, set_threads
from dv.ops.compositing_gradients_cpu import density_gradient_kernel, scatter_kernel, sort_by_plane
from dv.ops.marching_cpu import RAYS_PER_BLOCK
from dv.radiance import STEP_SIZE, RadianceGrid
from dv.runtime.memory import keep_freed_memory

RUNS = 9
READS = 3  # times that each vertex's gradient is read or written: by zeros, by their norm, and to find who has one
CHANGES = 6  # times that Adam reads or writes vertices with a gradient, and both of their moments


@dataclass
class Part:
    """One part of a step.

    Args:
        name: of the part.
        one: milliseconds on one core.
        two: milliseconds on two cores.
        work: of each iteration of its parallel loop, in the loop's order; None for a part of many small loops.
        megabytes: that it streams through memory.
    """

    name: str
    one: float
    two: float
    work: NDArray[np.float64] | None = None
    megabytes: float = 0.0

    def simulate(self, cores: int, bandwidth: float) -> float:
        """Return milliseconds on some cores.

        Args:
            cores: threads of the parallel loop.
            bandwidth: of the machine's memory, GB/s.
        """
        if self.work is None:
            serial = min(self.one, max(0.0, 2 * self.two - self.one))
            simulated = serial + (self.one - serial) / cores
        else:
            shares = [part.sum() for part in np.array_split(self.work, cores)]
            simulated = self.one * max(shares) / max(1e-9, self.work.sum())
        return max(simulated, self.megabytes / bandwidth)


def at_threads(threads: int, *functions: Callable[[], object]) -> list[float]:
    """Return the median milliseconds of some calls with a number of threads."""
    torch.set_num_threads(threads)
    set_threads()
    return median_ms(RUNS, *functions)


def compositing_parts(model: RadianceGrid, rays: Rays) -> list[Part]:
    """Time marching, and the three parts of its backward pass."""
    v = model.voxels
    index, distance, interval = v.index.flatten(0, 1), v.distance.flatten(0, 1), v.interval(STEP_SIZE)
    given = v.density.detach(), v.features.detach(), index, distance

    room = march(*given, rays, STEP_SIZE, interval, 0.0, room=1)[1].largest_block  # with less, it marches twice

    def marched(first: int, last: int) -> Any:
        return march(*given, Rays(*(x[first:last] for x in rays)), STEP_SIZE, interval, 0.0, room)

    blocks = [(first, first + RAYS_PER_BLOCK) for first in range(0, len(rays.origins), RAYS_PER_BLOCK)]
    overhead = at_threads(1, lambda: marched(0, 0))[0]
    times = at_threads(1, *(lambda f=first, e=last: marched(f, e) for first, last in blocks))
    work = np.maximum(0.0, np.array(times) - overhead)
    output, records = marched(0, len(rays.origins))
    counts, cells, corner_rows, fractions, weights, slopes, numbers, features = (x.numpy() for x in records)
    grad_out, grad_raw = np.ones_like(output.features.numpy()), np.empty_like(weights)
    planes, cells_per_plane = len(index), index.shape[1] * index.shape[2]
    ends, order = np.zeros(planes + 2, np.int64), np.empty(int(counts.sum()), np.int64)
    grad_density, grad_features = np.zeros_like(v.density.detach().numpy()), np.zeros_like(v.features.detach().numpy())

    def density_gradients() -> None:
        state = np.zeros(len(grad_out), np.float32), np.ones(len(grad_out), np.float32)
        density_gradient_kernel(counts, numbers, grad_out, *state, weights, slopes, features, grad_raw)

    def sort() -> None:
        ends[:] = 0
        sort_by_plane(counts, cells, cells_per_plane, ends, order)

    def scatter() -> None:
        given = ends, order, corner_rows, fractions, weights, grad_raw, numbers, grad_out
        scatter_kernel(*given, plane_stride(planes), grad_density, grad_features)

    calls = (lambda: marched(0, len(rays.origins))), density_gradients, sort, scatter
    one, two = at_threads(1, *calls), at_threads(2, *calls)
    samples = np.diff(ends[: planes + 1], prepend=0).astype(np.float64)
    in_order = (samples + np.concatenate([[0.0], samples[:-1]]))[np.arange(planes) * plane_stride(planes) % planes]
    return [
        Part("march, composite", one[0], two[0], work),
        Part("gradients of densities", one[1], two[1], counts.astype(np.float64)),
        Part("sort samples by plane", one[2], one[2], np.ones(1)),
        Part("add gradients to vertices", one[3], two[3], in_order),
    ]


def other_parts(model: RadianceGrid, pool: PixelPool, rays: int) -> list[Part]:
    """Time what follows compositing in a step: pixels with their loss, the decoder, and the optimiser.

    The first is a whole forward and backward pass, from which the other parts are still to be subtracted.
    """
    pixels, generator = rays // model.sizes.rays_per_pixel, torch.Generator().manual_seed(0)
    by_rows = (model.voxels.features, model.voxels.density)
    groups = [{"params": [p], "lr": 1e-9, "by_rows": any(p is table for table in by_rows)} for p in model.parameters()]
    optimizer = RowAdam(groups, betas=(0.9, 0.99), eps=1e-15)
    voxels, features = model.voxels, torch.rand(rays, model.voxels.features.shape[1], requires_grad=True)
    transmittance = torch.rand(rays, requires_grad=True)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3), dim=1)

    def forward_and_backward() -> None:
        optimizer.zero_grad()
        drawn = pool.draw(pixels, generator)
        offsets = torch.rand(pixels * model.sizes.rays_per_pixel, generator=generator)
        output = model.render_pixels(drawn.pose, drawn.position, drawn.camera, model.training_offsets[0], offsets)
        torch.autograd.backward((output.colors - drawn.color).square().mean())

    def shade() -> None:
        torch.autograd.backward(model.shade(features, transmittance, directions).sum())

    def optimize() -> None:
        torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()

    one, two = (at_threads(threads, forward_and_backward, shade, optimize) for threads in (1, 2))
    assert voxels.density.grad is not None
    changed = int((voxels.density.grad != 0).sum())
    bytes_per_vertex = 4 * (1 + voxels.features.shape[1])
    streamed = bytes_per_vertex * (len(voxels.density) * READS + changed * CHANGES) / 1e6
    return [
        Part("pixels, loss", one[0] - one[1], two[0] - two[1]),
        Part("encoding, decoder", one[1], two[1]),
        Part("gradient norm, optimiser", one[2], two[2], megabytes=streamed),
    ]


def main() -> None:
    """Print a table of the parts of a step: on one core, on two, simulated on two, and on more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--cores", nargs="+", default=["8:40", "64:200"], help="CORES:GB/S")
    parser.add_argument("--rays", type=int, default=8192)
    arguments = parser.parse_args()
    keep_freed_memory()
    restored = open_checkpoint(arguments.ckpt, torch.device("cpu"), "32-true")
    model, views = restored.model.requires_grad_(), restored.source.views("train")
    assert isinstance(model, RadianceGrid)
    pool = PixelPool(views, torch.device("cpu"))
    pool.keep_hits(model, 0)
    parts = compositing_parts(model, training_rays(model, views, arguments.rays, torch.device("cpu")))
    pixels, decoder, optimizer = other_parts(model, pool, arguments.rays)
    pixels.one -= sum(part.one for part in parts)  # they were timed with compositing
    pixels.two -= sum(part.two for part in parts)
    parts += [pixels, decoder, optimizer]
    machines = [(2, float("inf")), *((int(n), float(b)) for n, b in (x.split(":") for x in arguments.cores))]
    rows = [(p.name, p.one, p.two, *(p.simulate(*machine) for machine in machines)) for p in parts]
    rows.append(("step", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    print("| ms | 1 core | 2 cores | " + " | ".join(f"{cores} simulated" for cores, _ in machines) + " |")
    print("|---" * (len(machines) + 3) + "|")
    for name, *times in rows:
        print(f"| {name} | " + " | ".join(f"{ms:.2f}" for ms in times) + " |")


if __name__ == "__main__":
    main()
