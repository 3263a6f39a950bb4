"""Measure everything on a GPU that needs one, by one command of at most 12 minutes.

    python benchmarks/gpu.py outputs/gpu
    python benchmarks/gpu.py outputs/try --device cpu --side 32 --seconds 5    # tries the commands

In this order: the tests of parity and of GPUs; ``experiment=radiance_gpu`` on four objects at 512² (PSNR and SSIM of
the test views, seconds, frames per second); the paper's step and frame in bf16, compiled, beside the plain baseline.
``DIR/gpu.json`` is written after every command. One that fails or is out of time does not end the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
OBJECTS = ("vase", "cube", "pedestal", "chair")
TESTS = ("tests/test_parity.py", "tests/ops/test_compositing_cuda.py", "tests/tasks/test_gpu.py")
TRY = ("grid.side=32", "model.rays=2048", "trainer.precision=32-true")  # sizes for a CPU
VIEWS = "source.train_views=8", "source.validation_views=2", "source.test_views=2"  # likewise
SAMPLES = 16  # per pixel of the objects' images; 64 would take longer than everything else
SPEED_SIZES = {"cuda": "512,64,32,64,64", "cpu": "64,16,8,4,4"}
LAST_LINES = 6  # of a command's output that are kept


@dataclass
class Result:
    """What a command did.

    Attributes:
        command: its words.
        seconds: that it took.
        code: exit status; None if it was out of time.
        output: its last lines.
        figures: what it wrote.
    """

    command: list[str]
    seconds: float
    code: int | None
    output: list[str]
    figures: dict[str, Any]


class Runner:
    """Runs commands until a deadline, and keeps their results in a JSON file.

    Args:
        path: of the JSON file.
        seconds: until the deadline.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.deadline = time.monotonic() + seconds
        self.results: dict[str, Result] = {}

    def run(self, name: str, *command: str, limit: float, figures: Path | None = None) -> None:
        """Run a Python command, and write all results.

        Args:
            name: of its result, and of the file with its output.
            command: words after ``python``.
            limit: seconds after which it is stopped, as it is at the deadline.
            figures: JSON file that it writes.
        """
        start, path = time.monotonic(), self.path.with_name(f"{name.replace(': ', '_')}.log")
        code: int | None = None
        with path.open("w") as output, suppress(subprocess.TimeoutExpired):
            seconds = max(0.1, min(limit, self.deadline - start))
            words = [sys.executable, *command]
            code = subprocess.run(words, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=seconds).returncode
        lines = path.read_text().replace("\r", "\n").strip().splitlines()[-LAST_LINES:]
        found = json.loads(figures.read_text()) if code == 0 and figures else {}
        self.results[name] = Result(list(command), round(time.monotonic() - start, 1), code, lines, found)
        everything = {name: asdict(result) for name, result in self.results.items()}
        self.path.write_text(json.dumps({"device": device_name(), "results": everything}, indent=1))
        print(f"{name}: {'out of time' if code is None else f'exit status {code}'}, {self.results[name].seconds} s")


def device_name() -> str:
    """Return the name of the GPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def measure(runner: Runner, folder: Path, device: str, side: int, seconds: int) -> None:
    """Run everything.

    Args:
        runner: runs the commands.
        folder: for data and runs.
        device: ``cuda`` or ``cpu``.
        side: of the objects' images, px.
        seconds: of each training.
    """
    clock = f"trainer.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}"
    settings = [clock, f"trainer.gpus={int(device == 'cuda')}", *(TRY if device == "cpu" else ())]
    render = [f"source.image_side={side}", f"source.samples_per_pixel={SAMPLES}", *(VIEWS if device == "cpu" else ())]
    runner.run("tests", "-m", "pytest", "-q", "-m", "not slow", *TESTS, limit=150)
    for name in OBJECTS:
        run, of = folder / name, [f"object={name}", f"object.root={folder / 'data' / name}"]
        runner.run(f"{name}: prepare", "prepare.py", "source=synthetic", *of, *render, limit=120)
        train = ["train.py", "experiment=radiance_gpu", *of, *settings]
        runner.run(f"{name}: train", *train, f"hydra.run.dir={run}", "trainer.progress_bar=false", limit=seconds + 90)
        ckpt, scores = run / "checkpoints" / "best.ckpt", run / "evaluate"
        evaluate = ["evaluate.py", f"ckpt={ckpt}", settings[1], f"output_dir={scores}"]
        runner.run(f"{name}: evaluate", *evaluate, limit=60, figures=scores / "metrics.json")
        runner.run(f"{name}: frames", "benchmarks/frames.py", str(ckpt), "--device", device, limit=60)
    speed = folder / "speed.json"
    sizes = ["--sizes", SPEED_SIZES[device], "--phases", "train,frame", "--output", str(speed)]
    runner.run("speed", "benchmarks/speed.py", "--device", device, *sizes, limit=240, figures=speed)


def main() -> None:
    """Measure, and say where the results are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--side", type=int, default=512, help="of the objects' images, px")
    parser.add_argument("--seconds", type=int, default=60, help="of each training")
    parser.add_argument("--minutes", type=float, default=12, help="after which everything ends")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no GPU; --device cpu --side 32 --seconds 5 tries the commands")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(folder / "gpu.json", 60 * arguments.minutes)
    measure(runner, folder, arguments.device, arguments.side, arguments.seconds)
    print(f"results: {runner.path}")
    if failed := [name for name, result in runner.results.items() if result.code != 0]:
        sys.exit(f"error: not measured: {', '.join(failed)}; their last lines are in {runner.path}")


if __name__ == "__main__":
    main()
