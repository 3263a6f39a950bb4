"""Error of rendered depth against the depth of the scene that a synthetic object was rendered from.

python benchmarks/depth.py outputs/train/vase/RUN/checkpoints/best.ckpt --shape vase --views 5
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from frames import opened

from dv.synthetic.mitsuba_scene import load_scene, mitsuba_module, render_depth
from dv.synthetic.render import SCENES


def depth_errors(ckpt: Path, shape: str, count: int) -> tuple[np.ndarray, float]:
    """Absolute errors of pixels that see the object, in sides of the grid, and the share of them that show none."""
    restored = opened(ckpt, torch.device("cpu"), "32-true")
    source, scale = restored.source, restored.placement.scale
    mitsuba_module().set_variant("scalar_rgb")
    scene = load_scene(SCENES[shape]())
    views = source.views("test")
    chosen = torch.linspace(0, len(views) - 1, count).round().long()
    errors, missed, seen = [], 0, 0
    rendered = restored.views(views.poses[chosen], source.calibration("test").intrinsics, 1)
    for pose, (_, depth) in zip(views.poses[chosen], rendered, strict=True):
        assert depth is not None
        truth = render_depth(scene, pose.numpy(), depth.shape[-1])  # the paper's model has it at feature_side
        there = np.isfinite(truth)
        error = np.abs(depth[0].numpy() - truth)[there] / scale
        errors.append(error)
        missed, seen = missed + int((error > 0.25).sum()), seen + len(error)
    return np.concatenate(errors), missed / seen


def main() -> None:
    """Print the median and the 90th percentile, in percent of the grid's side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--shape", choices=sorted(SCENES), required=True)
    parser.add_argument("--views", type=int, default=5, help="test views, spread over the split")
    arguments = parser.parse_args()
    errors, missed = depth_errors(arguments.ckpt, arguments.shape, arguments.views)
    median, ninth = 100 * np.quantile(errors, [0.5, 0.9])
    print(
        f"depth error of {len(errors)} pixels, % of the grid's side: median {median:.2f}, 90 % below {ninth:.2f}; "
        f"{100 * missed:.1f} % more than a quarter off"
    )


if __name__ == "__main__":
    main()
