"""Time of a training step and of a frame, in seconds and in yardsticks.

    python benchmarks/speed.py --sizes 128,64,16,16,16 --sizes 128,64,32,64,64

Sizes are S,P,G,F,n. The yardstick is the median time of a 3³ convolution of x[1,67,34,34,34] with w[64,67,3,3,3]
(fp32, channels-last), measured in the same run: machines differ, their ratios less so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projector import Projector
from dv.geometry.trajectory import look_at
from dv.losses import deepvoxels_losses
from dv.model import DeepVoxels, ModelSizes
from dv.nets.discriminator import Discriminator


def median_time(work: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
    """Median seconds of ``work`` after warm-up."""
    times = []
    for i in range(repeats + warm_up):
        began = time.perf_counter()
        work()
        if i >= warm_up:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def yardstick() -> float:
    """Seconds of the reference convolution."""
    x = torch.randn(1, 67, 34, 34, 34).contiguous(memory_format=torch.channels_last_3d)
    w = torch.randn(64, 67, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
    return median_time(lambda: torch.nn.functional.conv3d(x, w), 11)


def measure(sizes: ModelSizes, repeats: int) -> tuple[float, float]:
    """Seconds of a training step (l1_gan, one source, two targets, operators made anew) and of a frame."""
    torch.manual_seed(0)
    model, discriminator = DeepVoxels(sizes), Discriminator()
    s = sizes.image_side
    projector = Projector(
        Intrinsics(1.5 * s, s / 2 - 0.5, s / 2 - 0.5, s), GridPlacement((0, 0, 0), 1, 1.1),
        sizes.feature_side, sizes.grid_side, rim=sizes.rim,
    )  # fmt: skip
    up = torch.tensor([0.0, 0, 1]).double()
    eyes = 2 * torch.nn.functional.normalize(torch.randn(200, 3).double(), dim=1)
    poses = iter([look_at(eye, torch.zeros(3).double(), up) for eye in eyes])
    optimizer = torch.optim.Adam([*model.parameters(), *discriminator.parameters()], lr=4e-4, fused=True)
    source, truth = torch.rand(1, 3, s, s) - 0.5, torch.rand(2, 3, s, s) - 0.5

    def step() -> None:
        rendering, integrated = model(
            source, projector.lifting(next(poses)), projector.resampling([next(poses), next(poses)])
        )
        losses = deepvoxels_losses(
            rendering.image, truth, l1_weight=200, gan_weight=1, border=5, discriminator=discriminator
        )
        optimizer.zero_grad()
        (losses.generator + losses.discriminator).backward()
        optimizer.step()
        model.remember(integrated.grid)

    step_time = median_time(step, repeats)
    model.eval()
    with torch.inference_mode():
        inpainted = model.inpaint()
        frame_time = median_time(lambda: model.render(inpainted, projector.resampling([next(poses)])), repeats)
    return step_time, frame_time


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", action="append", help="S,P,G,F,n (may be repeated)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    unit = yardstick()
    print(f"yardstick {unit * 1e3:.1f} ms, {torch.get_num_threads()} threads")
    print(f"{'S,P,G,F,n':<20}{'step s':>9}{'yardsticks':>12}{'frame s':>9}{'yardsticks':>12}")
    for sizes in arguments.sizes or ["128,64,16,16,16", "128,64,32,64,64"]:
        step, frame = measure(ModelSizes(*map(int, sizes.split(","))), arguments.repeats)
        print(f"{sizes:<20}{step:>9.3f}{step / unit:>12.1f}{frame:>9.3f}{frame / unit:>12.2f}")


if __name__ == "__main__":
    main()
