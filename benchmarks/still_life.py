"""Depth and mask of the thing of a still life against the truth that prepare.py wrote beside its images.

python benchmarks/still_life.py outputs/train/still_life/RUN/checkpoints/last.ckpt
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from frames import open_checkpoint


def compare_with_truth(ckpt: Path) -> tuple[np.ndarray, list[float]]:
    """Render the test views as they are, and the thing alone.

    Args:
        ckpt: checkpoint of a radiance grid that was trained on a still life.

    Returns:
        Absolute depth errors of the pixels that show the thing, as fractions of the box's side; and for each view the
        intersection over union of the mask where opacity is above one half.
    """
    restored = open_checkpoint(ckpt, torch.device("cpu"), "32-true")
    views, folder = restored.source.views("test"), restored.source.folder("test")
    unit = json.loads((folder / "depth.json").read_text())["world_units_per_count"]
    masks = [cv2.imread(str(folder / "mask" / f"{name}.png"), cv2.IMREAD_UNCHANGED) > 127 for name in views.names]
    depths = [cv2.imread(str(folder / "depth" / f"{name}.png"), cv2.IMREAD_UNCHANGED) * unit for name in views.names]
    errors = []
    for view, mask, depth in zip(restored.render_views(views.poses, views.cameras, 1), masks, depths, strict=True):
        assert view.depth is not None
        errors.append(np.abs(view.depth[0].numpy() - depth)[mask] / restored.placement.scale)
    restored.model.isolate()
    overlaps = []
    for view, mask in zip(restored.render_views(views.poses, views.cameras, 1), masks, strict=True):
        assert view.opacity is not None
        found = view.opacity[0].numpy() > 0.5
        overlaps.append(float((found & mask).sum() / (found | mask).sum()))
    return np.concatenate(errors), overlaps


def main() -> None:
    """Print the median and the 90th percentile of the depth error, and the mean and the lowest overlap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    errors, overlaps = compare_with_truth(parser.parse_args().ckpt)
    median, percentile = 100 * np.quantile(errors, [0.5, 0.9])
    print(
        f"depth error of {len(errors)} pixels in % of the box's side: median {median:.2f}, 90th percentile "
        f"{percentile:.2f}; mask IoU of {len(overlaps)} views: mean {np.mean(overlaps):.3f}, lowest {min(overlaps):.3f}"
    )


if __name__ == "__main__":
    main()
