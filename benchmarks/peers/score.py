"""PSNR and SSIM of rendered test views, with dv's own metrics and the border cut as ``evaluate.py`` cuts it.

    python benchmarks/peers/score.py EXPORTED RESULT …

EXPORTED is what ``prepare.py source=export`` wrote; each RESULT holds ``rgb/*.png``, test views named by their
number from 0 on, and may hold ``training.json`` with ``seconds`` and ``steps``. Writes RESULT/score.json and prints a
Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exported import read_views
from torch import Tensor

from dv.decoding import read_pixels
from dv.losses import cut_border
from dv.metrics import psnr, ssim

BORDER = 5  # px


def read_images(exported: Path, result: Path, border: int = BORDER) -> tuple[Tensor, Tensor]:
    """Read a folder of images and their true images, each ``[V, 3, H, W]`` in [0, 1] without the border.

    Args:
        exported: the object.
        result: contains ``rgb/``.
        border: px along each edge that are left out.

    Raises:
        SystemExit: if there is no image.
    """
    files = sorted((result / "rgb").glob("*.png"))
    if not files:
        raise SystemExit(f"{result / 'rgb'}: no images")
    truth = torch.from_numpy(read_views(exported, "test").images)[[int(file.stem) for file in files]]
    output = torch.stack([_read(file) for file in files])
    return cut_border(output, border), cut_border(truth.permute(0, 3, 1, 2), border)


def score(exported: Path, result: Path, border: int = BORDER) -> dict[str, Any]:
    """Score a folder of images, see :func:`read_images`.

    Returns:
        ``psnr`` in dB and ``ssim``, means over the images, ``views``, their number, and what ``training.json``
        contains.
    """
    output, truth = read_images(exported, result, border)
    training = result / "training.json"
    return {
        "psnr": round(psnr(output, truth).mean().item(), 2),
        "ssim": round(ssim(output, truth).mean().item(), 4),
        "views": len(output),
        **(json.loads(training.read_text()) if training.is_file() else {}),
    }


def _read(file: Path) -> Tensor:
    """Read a PNG of 8 or 16 bits, ``[3, H, W]`` in [0, 1]."""
    pixels = read_pixels(file)
    return torch.from_numpy(pixels / np.float32(np.iinfo(pixels.dtype).max)).permute(2, 0, 1)


def table(scores: dict[str, dict[str, Any]]) -> str:
    """Format scores by name as a Markdown table."""
    lines = ["| | seconds | steps | memory, GB | views | LPIPS | PSNR, SSIM |", "|---|---|---|---|---|---|---|"]
    for name, s in scores.items():
        known = [str(s.get(key, "")) for key in ("seconds", "steps", "memory", "views", "lpips")]
        lines.append(f"| {' | '.join([name, *known])} | {s['psnr']:.2f} dB, {s['ssim']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Score folders and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path)
    parser.add_argument("result", type=Path, nargs="+")
    parser.add_argument("--border", type=int, default=BORDER, help="px that are cut from each edge")
    arguments = parser.parse_args()
    scores = {}
    for result in arguments.result:
        scores[result.name] = score(arguments.exported, result, arguments.border)
        (result / "score.json").write_text(json.dumps(scores[result.name], indent=1) + "\n")
    print(table(scores))


if __name__ == "__main__":
    main()
