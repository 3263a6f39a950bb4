"""The naive alternative: a dense grid of density and colour, trained by volume rendering in plain PyTorch.

    python prepare.py source=export object.root=data/vase object.name=vase output_dir=EXPORTED
    python benchmarks/peers/dense_grid.py EXPORTED RESULT --seconds 60

No colour depends on the view, no empty space is skipped. Runs in dv's environment, of which it uses PyTorch alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from exported import Rays, Views, read_views, write_result
from torch import Tensor
from torch.nn import functional

COARSE_SIDE, SIDE = 48, 96  # vertices along an edge of the box
FINE_AT = 0.3  # fraction of the training at which the grid becomes finer
RAYS = 4096  # per step
LEARNING_RATE = 0.1
FINAL_FRACTION = 0.1  # of the learning rate, which falls exponentially
DENSITY_SCALE = 100.0  # density per side of the box for a softplus of 1
INITIAL_DENSITY = -4.0  # before the softplus
PIXELS_AT_ONCE = 4096  # while rendering


def to_tensor(rays: Rays) -> Tensor:
    """Return rays as rows ``[N, 8]``: origin, direction, near, far."""
    columns = (rays.origins, rays.directions, rays.near[:, None], rays.far[:, None])
    return torch.cat([torch.from_numpy(column) for column in columns], 1)


def render(grid: Tensor, rays: Tensor, samples: int, background: Tensor, jitter: bool = False) -> Tensor:
    """Return the colours of rays by volume rendering.

    Args:
        grid: density before the softplus and colour before the sigmoid, ``[1, 4, G, G, G]`` (z, y, x).
        rays: ``[R, 8]``, see :func:`to_tensor`.
        samples: S per ray, at even distances between ``near`` and ``far``.
        background: colour ``[3]`` in [0, 1].
        jitter: whether samples are placed at random in their intervals instead of in the middle.

    Returns:
        ``[R, 3]`` in [0, 1].
    """
    origins, directions, near, far = rays.split([3, 3, 1, 1], 1)
    step = (far - near) / samples
    offsets = torch.rand(len(rays), samples) if jitter else 0.5
    distances = near + step * (torch.arange(samples) + offsets)
    points = origins[:, None] + directions[:, None] * distances[..., None]  # [R, S, 3]
    values = functional.grid_sample(grid, points[None, None], align_corners=True)[0, :, 0]  # [4, R, S]
    optical_depth = functional.softplus(values[0]) * step * (DENSITY_SCALE / 2)
    opacity = 1 - torch.exp(-optical_depth)
    transmittance = torch.exp(optical_depth - optical_depth.cumsum(1))  # before each sample
    color = (opacity * transmittance * torch.sigmoid(values[1:])).sum(2).T
    return color + torch.exp(-optical_depth.sum(1, keepdim=True)) * background


def train(views: Views, seconds: float, most_steps: int | None = None) -> tuple[Tensor, int]:
    """Train a grid.

    Args:
        views: of the training split.
        seconds: of training; what is prepared before the first step does not count.
        most_steps: ends the training earlier; None: only the clock does.

    Returns:
        The grid ``[1, 4, G, G, G]``, and the number of steps.
    """
    torch.manual_seed(0)
    rays, colors = to_tensor(views.rays()), torch.from_numpy(views.images).view(-1, 3)
    hit = rays[:, 7] > rays[:, 6]
    rays, colors = rays[hit], colors[hit]
    background = torch.from_numpy(views.corner_color())
    grid = torch.zeros(1, 4, COARSE_SIDE, COARSE_SIDE, COARSE_SIDE)
    grid[:, 0] = INITIAL_DENSITY
    optimizer = torch.optim.Adam([grid.requires_grad_()], LEARNING_RATE)
    start, steps, done = time.perf_counter(), 0, 0.0
    while done < 1 and (most_steps is None or steps < most_steps):
        if done > FINE_AT and grid.shape[-1] == COARSE_SIDE:
            finer = functional.interpolate(grid.detach(), (SIDE, SIDE, SIDE), mode="trilinear", align_corners=True)
            grid = finer.requires_grad_()
            optimizer = torch.optim.Adam([grid], LEARNING_RATE)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * FINAL_FRACTION**done
        chosen = torch.randint(len(rays), (RAYS,))
        output = render(grid, rays[chosen], 3 * grid.shape[-1] // 2, background, jitter=True)
        loss = functional.mse_loss(output, colors[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        done = (time.perf_counter() - start) / seconds
    return grid.detach(), steps


def render_views(grid: Tensor, views: Views, background: Tensor) -> Tensor:
    """Render views to images ``[V, H, W, 3]`` in [0, 1] with two samples per vertex."""
    with torch.inference_mode():
        parts = to_tensor(views.rays()).split(PIXELS_AT_ONCE)
        colors = torch.cat([render(grid, rays, 2 * grid.shape[-1], background) for rays in parts])
    return colors.view(views.images.shape)


def main() -> None:
    """Train on an exported object and write its test views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, help="folder that prepare.py source=export wrote")
    parser.add_argument("result", type=Path, help="folder to write")
    parser.add_argument("--seconds", type=float, default=60, help="of training")
    arguments = parser.parse_args()
    views = read_views(arguments.exported, "train")
    grid, steps = train(views, arguments.seconds)
    images = render_views(grid, read_views(arguments.exported, "test"), torch.from_numpy(views.corner_color()))
    write_result(arguments.result, images.numpy(), arguments.seconds, steps)


if __name__ == "__main__":
    main()
