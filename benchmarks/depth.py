"""Error of rendered depth maps of a synthetic object against the depth of its Mitsuba scene.

python benchmarks/depth.py outputs/train/vase/RUN/checkpoints/best.ckpt --shape vase --views 5
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from frames import open_checkpoint

from dv.synthetic.mitsuba_scene import import_mitsuba, load_scene, render_depth, square_film
from dv.synthetic.render import SCENES


def depth_errors(ckpt: Path, shape: str, count: int) -> tuple[np.ndarray, float]:
    """Measure the depth error of test views.

    Args:
        ckpt: checkpoint of a model that was trained on a synthetic object.
        shape: name of the object's scene.
        count: number of test views, spread over the split.

    Returns:
        Absolute errors of all pixels that show the object, as fractions of the grid's side, and the fraction of these
        pixels whose error is above a quarter.
    """
    restored = open_checkpoint(ckpt, torch.device("cpu"), "32-true")
    source, scale = restored.source, restored.placement.scale
    import_mitsuba().set_variant("scalar_rgb")
    scene = load_scene(SCENES[shape]())
    views = source.views("test")
    chosen = torch.linspace(0, len(views) - 1, count).round().long()
    errors = []
    rendered = restored.render_views(views.poses[chosen], [views.cameras[i] for i in chosen], 1)
    for pose, view in zip(views.poses[chosen], rendered, strict=True):
        assert view.depth is not None
        truth = render_depth(
            scene, pose.numpy(), square_film(view.depth.shape[-1])
        )  # DeepVoxels' depth has feature_side
        errors.append(np.abs(view.depth[0].numpy() - truth)[np.isfinite(truth)] / scale)
    joined = np.concatenate(errors)
    return joined, float((joined > 0.25).mean())


def main() -> None:
    """Print the median and the 90th percentile of the error in percent of the grid's side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--shape", choices=sorted(SCENES), required=True)
    parser.add_argument("--views", type=int, default=5, help="test views, spread over the split")
    arguments = parser.parse_args()
    errors, outliers = depth_errors(arguments.ckpt, arguments.shape, arguments.views)
    median, percentile = 100 * np.quantile(errors, [0.5, 0.9])
    print(
        f"depth error of {len(errors)} pixels in % of the grid's side: median {median:.2f}, 90th percentile "
        f"{percentile:.2f}; {100 * outliers:.1f} % of the pixels are off by more than a quarter of the side"
    )


if __name__ == "__main__":
    main()
