"""What the notebooks share: running a command, and showing images.

Environment variables, with which tests run the notebooks within seconds:

- ``DV_NOTEBOOK_FOLDER``: folder of all data and results, by default ``outputs/notebooks`` in the clone.
- ``DV_NOTEBOOK_STEPS``: steps of every training, instead of a time.
- ``DV_NOTEBOOK_SIDE``: side of synthetic images in px, by default 128.
- ``DV_NOTEBOOK_PHOTOGRAPHS``: folder of photographs for the third notebook.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np

os.chdir(Path(__file__).resolve().parents[1])  # commands are typed in the folder of the clone
FOLDER = Path(os.environ.get("DV_NOTEBOOK_FOLDER", "outputs/notebooks"))
SIDE = int(os.environ.get("DV_NOTEBOOK_SIDE", "128"))
plt.rcParams["figure.constrained_layout.use"] = True


def length(limit: str | int) -> str:
    """Return the overrides that end a training after a time (DD:HH:MM:SS) or a number of steps.

    DV_NOTEBOOK_STEPS replaces either.
    """
    steps = os.environ.get("DV_NOTEBOOK_STEPS", limit)
    return f"trainer.max_time={steps}" if ":" in str(steps) else f"trainer.max_steps={steps} trainer.max_time=null"


def run(command: str) -> None:
    """Run ``python …`` as a terminal would, with the Python of this notebook, and show what it prints.

    Raises:
        RuntimeError: if the command fails, which stops the notebook.
    """
    print("$", " ".join(command.split()), flush=True)
    arguments = [sys.executable, *shlex.split(command)[1:]]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while printed := process.stdout.read1():
            print(printed.decode(errors="replace"), end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"the command ended with exit code {process.returncode}; see above")


def show(images: Sequence[Any], titles: Sequence[str] = (), *, columns: int = 6, width: float = 12) -> None:
    """Show images ``[H, W, 3]`` in rows of ``columns``."""
    rows = -(-len(images) // columns)
    height, across = np.shape(images[0])[:2]
    size = (width, rows * (width / columns * height / across + 0.3 * bool(titles)))
    _, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(images):
            ax.imshow(images[i])
        if i < len(titles):
            ax.set_title(titles[i], fontsize=10)
    plt.show()


def draw_box(ax: Any, placement: Any) -> None:
    """Draw the edges of the grid's box into 3D axes."""
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    for a, b in itertools.combinations(corners, 2):
        if np.abs(a - b).sum() == 1:
            ax.plot(*(np.array([a, b]) * placement.scale + placement.origin).T, color="black", linewidth=0.8)


def film_frame(folder: Path, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Read frame ``i`` of a film of ``render.py``: colours ``[H, W, 3 or 4]`` in [0, 1], and camera z ``[H, W]``."""
    color, depth = (cv2.imread(str(folder / x / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED) for x in ("rgb", "depth"))
    color = cv2.cvtColor(color, cv2.COLOR_BGRA2RGBA if color.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    unit = json.loads((folder / "depth.json").read_text())["world_units_per_count"]
    return color / np.iinfo(color.dtype).max, depth * unit
