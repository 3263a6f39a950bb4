"""Published numbers of the same objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dv.report.runs import Run

SIDE = 512  # px
CITATION = (
    "V. Sitzmann, J. Thies, F. Heide, M. Nießner, G. Wetzstein, M. Zollhöfer: "
    "DeepVoxels: Learning Persistent 3D Feature Embeddings, CVPR 2019"
)
DEEPVOXELS = {  # by object.name: dB, SSIM over the test views
    "vase": (27.99, 0.96),
    "greek": (32.35, 0.97),
    "armchair": (33.45, 0.99),
    "cube": (28.42, 0.97),
}
LATER = (
    "Mean PSNR over the four objects: DeepVoxels 30.55 dB; as published with NeRF (Mildenhall et al., ECCV 2020) "
    "SRN 33.20 dB, NeRF 40.15 dB."
)


def published(runs: Sequence[Run]) -> tuple[float, float] | None:
    """PSNR in dB and SSIM of DeepVoxels for the object of ``runs``, if their test views are the paper's, at 512².

    None for runs of several objects.
    """
    scores = {_published(run) for run in runs}
    return scores.pop() if len(scores) == 1 else None


def _published(run: Run) -> tuple[float, float] | None:
    """Of one run.

    Objects of the same names that :mod:`dv.tasks.prepare` made or changed say so in ``dataset.json``, if they are
    still there.
    """
    name, root = run.config.get("object.name"), run.config.get("object.root")
    source = "official"
    with suppress(OSError, ValueError, AttributeError):
        source = json.loads((Path(str(root)) / "test" / str(name) / "dataset.json").read_text()).get("source", source)
    evaluated = run.image_side == SIDE and "test/psnr" in run.measures
    return DEEPVOXELS.get(str(name)) if evaluated and source == "official" else None
