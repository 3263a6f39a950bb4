"""Time and memory of importing many photographs, beside plain decoding of the same files.

    python benchmarks/importing.py --photographs 2000 --megapixels 12

Photographs are noise over colour gradients, as JPEG of quality 90, on a ring around the origin; a few distinct files
are linked under many names. Every number is of a process of its own: ``decode`` only decodes all files, in as many
threads as there are CPUs; ``import`` is ``prepare.py source=transforms``, which also copies them; ``reduced`` writes
images of 1280 px instead; ``again`` repeats the first import.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DISTINCT = 20  # files


def write_photographs(folder: Path, count: int, megapixels: float) -> None:
    """Write JPEG files of 4:3 and a ``transforms.json`` with cameras that look at the origin."""
    (folder / "images").mkdir(parents=True)
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(width * 3 / 4)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 40, (height, width, 3), np.uint8)
    ramp = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None]
    frames = []
    for i in range(count):
        path = folder / "images" / f"IMG_{i:05d}.JPG"
        if i < DISTINCT:
            image = np.roll(noise, 7 * i, 0) + np.roll(ramp, width * i // DISTINCT, 1)
            path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
        else:
            os.link(folder / "images" / f"IMG_{i % DISTINCT:05d}.JPG", path)
        angle = 2 * np.pi * i / count
        backwards = np.array([np.cos(angle), np.sin(angle), 0.3 + 0.1 * np.sin(9 * angle)])
        backwards /= np.linalg.norm(backwards)
        right = np.cross([0, 0, 1.0], backwards)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(backwards, right), backwards, 3 * backwards], 1)
        frames.append({"file_path": f"images/{path.name}", "transform_matrix": pose.tolist()})
    meta = {"w": width, "h": height, "fl_x": 1.1 * width, "fl_y": 1.1 * width, "cx": width / 2, "cy": height / 2}
    (folder / "transforms.json").write_text(json.dumps({**meta, "frames": frames}))


def decode_all(folder: Path) -> None:
    """Decode all files, in threads."""
    paths = sorted((folder / "images").iterdir())
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for image in pool.map(lambda path: cv2.imread(str(path)), paths):
            assert image is not None


def measure(arguments: list[str]) -> tuple[float, float]:
    """Return seconds and peak memory in MiB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed with {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode:
        decode_all(options.decode)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        write_photographs(folder / "in", options.photographs, options.megapixels)
        common = [
            "prepare.py",
            "source=transforms",
            f"source.path={folder / 'in'}",
            f"hydra.run.dir={folder / 'hydra'}",
        ]
        runs = {
            "nothing": ["-c", "import dv.tasks.prepare"],
            "decode": [__file__, "--decode", str(folder / "in")],
            "import": [*common, f"output_dir={folder / 'full' / 'thing'}"],
            "again": [*common, f"output_dir={folder / 'full' / 'thing'}"],
            "reduced": [*common, f"output_dir={folder / 'small' / 'thing'}", "source.longest_side=1280"],
        }
        decoded = 4 * 3 * options.megapixels * 1e6 / 2**20
        print(
            f"{options.photographs} photographs of {options.megapixels:g} megapixels; four decoded: {decoded:.0f} MiB"
        )
        print(f"{'run':10}{'seconds':>10}{'ms each':>10}{'to decode':>12}{'peak MiB':>10}")
        results: dict[str, float] = {}
        for name, arguments in runs.items():
            seconds, memory = measure(arguments)
            results[name] = seconds
            each = 1000 * seconds / options.photographs
            ratio = f"{seconds / results['decode']:.2f}" if "decode" in results else ""
            print(f"{name:10}{seconds:10.1f}{each:10.1f}{ratio:>12}{memory:10.0f}", flush=True)
            if name == "again":
                shutil.rmtree(folder / "full")


if __name__ == "__main__":
    main()
