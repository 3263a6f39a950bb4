"""Time and memory of a training step, a frame and the data loader, for dv and a plain baseline.

    python benchmarks/speed.py                                       # the sizes in the documentation
    python benchmarks/speed.py --sizes 128,64,16,16,16 --phases train
    python benchmarks/speed.py --device cuda                         # the paper's sizes on a GPU, in bf16 and compiled

Sizes are S,P,G,F,n. A *train* step is one batch of ``loss=l1_gan``: one source view and two target views from 100
poses, updates of generator and discriminator, and new resampling matrices. A *frame* is one view of a trajectory of new
poses; the grid is inpainted once and four views are rendered together (the baseline inpaints and renders view by view).
The *loader* returns batches of the training set. Every measurement runs in a new process, whose memory is the maximum
resident set size (on a GPU, the maximum that PyTorch allocated). Times are medians after warm-up, in seconds and in
yardsticks. A yardstick is the median time of a 3³ convolution of x[1,67,34,34,34] with w[64,67,3,3,3] in fp32,
channels-last, measured before and after in the same process. The column "× floor" is the time divided by that of the
arithmetic alone at the yardstick's speed.

This is one file of over 300 lines because every measurement runs it as a new process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from baseline import Baseline, use_pytorch_layers

from dv.data.folder import Views
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projector import Projector
from dv.geometry.trajectory import look_at
from dv.losses import deepvoxels_losses
from dv.model import DeepVoxels, ModelSizes
from dv.nets.discriminator import Discriminator
from dv.runtime.memory import keep_freed_memory

DEFAULT_SIZES = ("128,64,16,16,16", "128,64,32,64,64", "512,64,32,64,64")  # the last ones are the paper's
GROWING_GRIDS = tuple(f"128,64,{side},16,16" for side in (16, 32, 64, 128))
VIEWS_PER_BATCH = 4
POSES = 100
MAX_SECONDS = 4.0  # of repeats, after the second one
SLOW_SECONDS = 10.0  # a first run that takes longer is not followed by a second warm-up
PLACEMENT = GridPlacement((0.0, 0.0, 0.0), 1.0, 1.1)


@dataclass(frozen=True)
class Job:
    """One measurement."""

    implementation: str  # dv, baseline
    sizes: str
    phase: str  # train, frame, loader
    precision: str = "fp32"
    device: str = "cpu"
    compile: bool = False


def median_time(
    work: Callable[[], object], device: str = "cpu", max_runs: int = 15, slow: float = SLOW_SECONDS
) -> float:
    """Return the median seconds of a function after warm-up.

    Args:
        work: the function.
        device: cpu or cuda.
        max_runs: maximum number of timed runs; there are at least two, and more until :data:`MAX_SECONDS` have passed.
        slow: seconds of the first run from which on the second warm-up is skipped.
    """

    def once() -> float:
        _synchronize(device)
        start = time.perf_counter()
        work()
        _synchronize(device)
        return time.perf_counter() - start

    if once() < slow:
        once()
    times = [once(), once()]
    while len(times) < max_runs and sum(times) < MAX_SECONDS:
        times.append(once())
    return statistics.median(times)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def yardstick(device: str) -> tuple[float, float]:
    """Return the seconds of the yardstick and the GFLOP/s that it reaches."""
    layout = torch.channels_last_3d
    x = torch.randn(1, 67, 34, 34, 34, device=device).contiguous(memory_format=layout)
    w = torch.randn(64, 67, 3, 3, 3, device=device).contiguous(memory_format=layout)
    seconds = median_time(lambda: torch.nn.functional.conv3d(x, w), device, max_runs=9)
    return seconds, 2 * 67 * 64 * 27 * 32**3 / seconds / 1e9


def views(count: int) -> Tensor:
    """Return random poses ``[count, 4, 4]`` on a sphere of radius 2 around the grid."""
    eyes = 2 * torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=1)
    up, center = torch.tensor([0.0, 0, 1]).double(), torch.zeros(3).double()
    return torch.stack([look_at(eye, center, up) for eye in eyes])


def sizes_of(text: str) -> ModelSizes:
    """Parse ``S,P,G,F,n``."""
    return ModelSizes(*map(int, text.split(",")))


def camera(image_side: int) -> Intrinsics:
    """Return a camera that sees the whole grid."""
    return Intrinsics.square(1.5 * image_side, image_side / 2 - 0.5, image_side / 2 - 0.5, image_side)


def autocast(job: Job) -> torch.autocast:
    """Return the autocast context for the precision of a job."""
    return torch.autocast(job.device, torch.bfloat16, enabled=job.precision == "bf16")


def training_step(job: Job) -> Callable[[], None]:
    """Return a function that takes one training step."""
    sizes, device = sizes_of(job.sizes), job.device
    s = sizes.image_side
    discriminator = Discriminator().to(device)
    source = torch.rand(1, 3, s, s, device=device) - 0.5
    truth = torch.rand(2, 3, s, s, device=device) - 0.5
    poses = views(POSES).to(device)
    weights = {"l1_weight": 200, "gan_weight": 1, "border": 5, "discriminator": discriminator}

    def draw_poses() -> Tensor:
        return poses[torch.randint(POSES, (3,))]

    if job.implementation == "baseline":
        baseline = Baseline(sizes, camera(s), PLACEMENT).to(device)
        use_pytorch_layers(discriminator)
        generator_optimizer = torch.optim.Adam(baseline.parameters(), lr=4e-4, foreach=False)
        discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=4e-4, foreach=False)

        def baseline_step() -> None:
            pose, *targets = draw_poses()
            images, grid = baseline.step(source, pose, torch.stack(targets))
            parts = [deepvoxels_losses(images[i : i + 1], truth[i : i + 1], **weights) for i in range(2)]
            generator_optimizer.zero_grad()
            discriminator_optimizer.zero_grad()
            (sum(p.generator + p.discriminator for p in parts) / 2).backward()
            generator_optimizer.step()
            discriminator_optimizer.step()
            baseline.remember(grid)

        return baseline_step
    model = DeepVoxels(sizes).to(device)
    if job.compile:
        model.compile_networks()
    projector = Projector(camera(s), PLACEMENT, sizes.feature_side, sizes.grid_side, rim=sizes.rim)
    optimizer = torch.optim.Adam([*model.parameters(), *discriminator.parameters()], lr=4e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        pose, *targets = draw_poses()
        with autocast(job):
            rendering, integrated = model(source, projector.lifting(pose), projector.resampling(targets))
            image = rendering.image
            del rendering
            losses = deepvoxels_losses(image, truth, **weights)
        (losses.generator + losses.discriminator).backward()
        optimizer.step()
        model.remember(integrated.grid)

    return step


def frames(job: Job) -> tuple[Callable[[], None], int]:
    """Return a function that renders frames, and the number of frames per call."""
    sizes, device = sizes_of(job.sizes), job.device
    poses: Iterator[Tensor] = iter(views(400).to(device))
    if job.implementation == "baseline":
        baseline = Baseline(sizes, camera(sizes.image_side), PLACEMENT).to(device).eval()

        def frame() -> None:
            with torch.inference_mode():
                baseline.frame(next(poses))

        return frame, 1
    model = DeepVoxels(sizes).to(device).eval()
    if job.compile:
        model.compile_networks()
    projector = Projector(camera(sizes.image_side), PLACEMENT, sizes.feature_side, sizes.grid_side, rim=sizes.rim)
    with torch.inference_mode():
        inpainted = model.inpaint()
    together = VIEWS_PER_BATCH if sizes.grid_side <= 64 else 1

    def batch() -> None:
        with torch.inference_mode(), autocast(job):
            model.render(inpainted, projector.resampling([next(poses) for _ in range(together)]))

    return batch, together


class InMemory:
    """Stand-in for an object whose images are in memory."""

    def __init__(self, side: int) -> None:
        images = torch.randint(256, (POSES, 3, side, side), dtype=torch.uint8)
        self.train = Views.of_one_camera([f"{i:06d}" for i in range(POSES)], views(POSES), images, camera(side))

    def views(self, _split: str) -> Views:
        """Return the same views for every split."""
        return self.train


def loader(job: Job) -> Callable[[], None]:
    """Return a function that takes one batch from the loader."""
    from dv.data.datamodule import ObjectDataModule  # here, since Lightning would add to the memory of the other phases

    batches = iter(ObjectDataModule(InMemory(sizes_of(job.sizes).image_side), 10_000, 0).train_dataloader())
    return lambda: next(batches)


def gigaflop(job: Job) -> float:
    """Return the GFLOP of a step or a frame, which PyTorch counts on the meta device for the baseline."""
    if job.phase == "loader":
        return 0.0
    with torch.device("meta"):
        sizes = sizes_of(job.sizes)
        model = Baseline(sizes, camera(sizes.image_side), PLACEMENT)
        discriminator = Discriminator()
        use_pytorch_layers(discriminator)
        poses = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
        image = torch.rand(1, 3, sizes.image_side, sizes.image_side)
        counter = FlopCounterMode(display=False)
        if job.phase == "frame":
            inpainted = model.inpainting(model.grid)
            with counter, torch.inference_mode():
                model.eval().view(inpainted, poses[0])
        else:
            with counter:
                images, _grid = model.step(image, poses[0], poses[1:])
                parts = [
                    deepvoxels_losses(one, image, l1_weight=1, gan_weight=1, border=5, discriminator=discriminator)
                    for one in images.split(1)
                ]
                sum(part.generator + part.discriminator for part in parts).backward()
    total: int = counter.get_total_flops()
    return total / 1e9


def measure(job: Job) -> dict[str, Any]:
    """Measure one job in this process."""
    torch.manual_seed(0)
    s, p, g, f, n = map(int, job.sizes.split(","))
    if job.implementation == "dv":
        keep_freed_memory()
    before, _ = yardstick(job.device)
    work, count = (
        frames(job) if job.phase == "frame" else (loader(job) if job.phase == "loader" else training_step(job), 1)
    )
    # the baseline is at full speed in its second step
    slow = 2.0 if job.implementation == "baseline" else SLOW_SECONDS
    seconds = median_time(work, job.device, max_runs=200 if job.phase == "loader" else 15, slow=slow) / count
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if job.device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    after, speed = yardstick(job.device)
    return {
        "implementation": job.implementation,
        "config": {"image_side": s, "feature_side": p, "grid_side": g, "grid_features": f, "base_channels": n},
        "phase": job.phase,
        "precision": job.precision,
        "device": torch.cuda.get_device_name() if job.device == "cuda" else "cpu",
        "compile": job.compile,
        "seconds": seconds,
        "yardsticks": 2 * seconds / (before + after),
        "peak_memory_mb": memory,
        "gflop": 0.0,
        "gflop_per_second_of_yardstick": speed,
    }


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """List what to measure: the given sizes, or those in the documentation."""
    device = arguments.device
    phases = arguments.phases.split(",")
    chosen = arguments.sizes or list(DEFAULT_SIZES[2:] if device == "cuda" else DEFAULT_SIZES)
    precisions = ["bf16"] if device == "cuda" else ["fp32"]
    if device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        precisions.append("bf16")
    listed = []
    for sizes in chosen:
        for phase in (phase for phase in ("train", "frame") if phase in phases):
            listed += [Job("baseline", sizes, phase, "fp32", device)] if not arguments.no_baseline else []
            listed += [Job("dv", sizes, phase, precision, device, device == "cuda") for precision in precisions]
    if "loader" in phases:
        largest = max(chosen, key=lambda sizes: int(sizes.split(",")[0]))
        listed.append(Job("dv", largest, "loader"))
    if not arguments.sizes and device == "cpu":
        growing = [sizes for sizes in GROWING_GRIDS if sizes not in chosen]
        listed += [Job("dv", sizes, phase) for sizes in growing for phase in ("train", "frame") if phase in phases]
    return listed


def line(result: dict[str, Any]) -> str:
    """Format a row of the table."""
    floor = ""
    if result["gflop"]:
        seconds = result["gflop"] / result["gflop_per_second_of_yardstick"]
        floor = f"{result['seconds'] / seconds:>9.1f}"
    sizes = ",".join(map(str, result["config"].values()))
    return (
        f"{sizes:<18}{result['phase']:<8}{result['implementation']:<10}{result['precision']:<6}"
        f"{result['seconds']:>10.4f}{result['yardsticks']:>11.2f}{result['peak_memory_mb']:>9.0f}"
        f"{result['gflop']:>9.1f}{floor}"
    )


HEAD = (
    f"{'S,P,G,F,n':<18}{'phase':<8}{'':<10}{'':<6}{'seconds':>10}{'yardsticks':>11}{'MB':>9}{'GFLOP':>9}{'× floor':>9}"
)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Plot the yardsticks of dv, baseline and arithmetic by size and phase, and those of dv over the grid's side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4))
    for axis, phase in zip(axes, ("train", "frame"), strict=False):
        rows = [r for r in results if r["phase"] == phase]
        labels = list(dict.fromkeys(",".join(map(str, r["config"].values())) for r in rows))
        groups = list(dict.fromkeys((r["implementation"], r["precision"]) for r in rows))
        for i, group in enumerate(groups):
            mine = {
                ",".join(map(str, r["config"].values())): r["yardsticks"]
                for r in rows
                if (r["implementation"], r["precision"]) == group
            }
            at = [labels.index(label) + (i - (len(groups) - 1) / 2) * 0.8 / len(groups) for label in mine]
            axis.bar(at, list(mine.values()), 0.8 / len(groups), label=" ".join(group))
        for r in rows:
            at = labels.index(",".join(map(str, r["config"].values())))
            floor = r["gflop"] / r["gflop_per_second_of_yardstick"] * r["yardsticks"] / r["seconds"]
            axis.plot([at - 0.4, at + 0.4], [floor, floor], "k-", lw=1.5)
        axis.plot([], [], "k-", label="arithmetic alone")
        axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=7)
        axis.set_yscale("log")
        axis.set_ylabel("yardsticks")
        axis.set_title({"train": "one training step", "frame": "one frame"}[phase])
        axis.legend(fontsize=7)
    growing = [
        r
        for r in results
        if r["implementation"] == "dv" and r["precision"] == "fp32" and r["config"]["grid_features"] == 16
    ]
    axes[2].set_visible(len(growing) > 1)
    for phase in ("train", "frame"):
        rows = sorted((r for r in growing if r["phase"] == phase), key=lambda r: r["config"]["grid_side"])
        axes[2].plot([r["config"]["grid_side"] for r in rows], [r["yardsticks"] for r in rows], "o-", label=phase)
    axes[2].set(xlabel="grid side G", ylabel="yardsticks", title="growth with the grid, F = n = 16")
    axes[2].legend(fontsize=7)
    if growing:
        axes[2].loglog(base=2)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", action="append", help="S,P,G,F,n (may be repeated)")
    parser.add_argument("--phases", default="train,frame,loader")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench.json"))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(measure(Job(**json.loads(arguments.job)))))
        return
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    if arguments.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print("this CPU has no bf16 arithmetic; measuring fp32 only")
    print(HEAD)
    results = []
    for job in jobs(arguments):
        command = [sys.executable, __file__, "--job", json.dumps(job.__dict__)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
        )
        if done.returncode:
            sys.exit(f"error: {job} failed with exit code {done.returncode}")
        result = json.loads(done.stdout.splitlines()[-1])
        result["gflop"] = gigaflop(job)
        results.append(result)
        print(line(result), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1))
    plot(results, arguments.output.with_suffix(".png"))
    print(f"{arguments.output}, {arguments.output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
