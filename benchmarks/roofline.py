"""How far compositing on CPUs is from what reading and adding its rows must take.

python benchmarks/roofline.py outputs/demo/checkpoints/best.ckpt

The least that a step does is to read the eight rows of features of every contributing sample, and to add to the eight
rows of their gradient. Both are timed alone, over the samples that the rays of training pixels have, in their order:
without marching, densities or weights. Figures are medians, one thread and all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compositing import median_ms, training_rays
from frames import open_checkpoint
from numba import njit, prange

from dv.ops.compositing import Rays, composite
from dv.ops.compositing_cpu import march, set_threads
from dv.radiance import STEP_SIZE, RadianceGrid
from dv.runtime.memory import keep_freed_memory

RUNS = 15


@njit(parallel=True, fastmath=True)
def read_rows(features: Any, rows: Any, sums: Any) -> None:
    """Sum the rows ``[S, 8]`` of features into ``sums`` ``[S, F]``."""
    channels = features.shape[1]
    for s in prange(len(rows)):
        for c in range(channels):
            sums[s, c] = 0
        for k in range(8):
            row = rows[s, k]
            for c in range(channels):
                sums[s, c] += features[row, c]


@njit(parallel=True, fastmath=True)
def add_rows(gradients: Any, rows: Any, starts: Any, values: Any) -> None:
    """Add ``values`` ``[S, F]`` to the rows ``[S, 8]`` of gradients; a thread adds the samples between two starts."""
    channels = gradients.shape[1]
    for part in prange(len(starts) - 1):
        for s in range(starts[part], starts[part + 1]):
            for k in range(8):
                row = rows[s, k]
                for c in range(channels):
                    gradients[row, c] += values[s, c]


def sampled_rows(model: RadianceGrid, rays: Rays) -> np.ndarray[Any, Any]:
    """Return the rows ``[S, 8]`` of the contributing samples of rays, ray after ray."""
    v, interval = model.voxels, model.voxels.interval(STEP_SIZE)
    index, distance = v.index.flatten(0, 1), v.distance.flatten(0, 1)
    _, records = march(v.density, v.features, index, distance, rays, STEP_SIZE, interval, 0.0, room=1)
    size = len(records.cells) // len(records.counts)
    chosen = torch.cat([torch.arange(count) + block * size for block, count in enumerate(records.counts.tolist())])
    rows: np.ndarray[Any, Any] = records.corner_rows[:, chosen].T.contiguous().numpy()
    return rows


def main() -> None:
    """Print the times of both, and of the compositing that contains them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--rays", type=int, default=8192)
    arguments = parser.parse_args()
    keep_freed_memory()
    restored = open_checkpoint(arguments.ckpt, torch.device("cpu"), "32-true")
    model = restored.model
    assert isinstance(model, RadianceGrid)
    rays = training_rays(model, restored.source.views("train"), arguments.rays, torch.device("cpu"))
    rows, voxels = sampled_rows(model, rays), model.voxels
    channels = voxels.features.shape[1]
    sums, gradients = np.zeros((len(rows), channels), np.float32), np.zeros(voxels.features.shape, np.float32)
    print(
        f"{arguments.rays} rays: {len(rows)} samples, {len(np.unique(rows))} of {len(voxels.density)} rows, "
        f"{rows.size * channels * 4 / 1e6:.1f} MB read and as much added to"
    )
    given = voxels.density, voxels.features, voxels.index, voxels.distance, rays, STEP_SIZE, voxels.interval(STEP_SIZE)

    outputs: list[Any] = []

    def forward() -> None:
        outputs.append(composite(*given))

    def backward() -> None:
        output = outputs.pop()
        gradients_of_output = torch.ones_like(output.features), torch.ones_like(output.transmittance)
        torch.autograd.grad(output[:2], [voxels.density, voxels.features], gradients_of_output)

    for threads in sorted({1, torch.get_num_threads()}, reverse=True):
        torch.set_num_threads(threads)
        set_threads()
        starts = np.linspace(0, len(rows), threads + 1).astype(np.int64)
        read, added = median_ms(
            RUNS,
            lambda: read_rows(voxels.features.detach().numpy(), rows, sums),
            lambda starts=starts: add_rows(gradients, rows, starts, sums),
        )
        forwards, backwards = median_ms(RUNS, forward, backward)
        print(
            f"threads: {threads}; rows read in {read:.1f} ms, forward {forwards:.1f} ms ({forwards / read:.1f} times); "
            f"rows added to in {added:.1f} ms, backward {backwards:.1f} ms ({backwards / added:.1f} times)"
        )


if __name__ == "__main__":
    main()
