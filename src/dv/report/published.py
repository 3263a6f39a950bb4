"""Published scores of the same objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dv.data.record import read_record
from dv.report.runs import Run

IMAGE_SIDE = 512  # pixels
CITATION = (
    "V. Sitzmann, J. Thies, F. Heide, M. Nießner, G. Wetzstein, M. Zollhöfer: "
    "DeepVoxels: Learning Persistent 3D Feature Embeddings, CVPR 2019"
)
DEEPVOXELS = {  # object.name → PSNR in dB and SSIM, means over the test views
    "vase": (27.99, 0.96),
    "greek": (32.35, 0.97),
    "armchair": (33.45, 0.99),
    "cube": (28.42, 0.97),
}
LATER_METHODS = (
    "Mean PSNR over the four objects: DeepVoxels 30.55 dB; as published with NeRF (Mildenhall et al., ECCV 2020) "
    "SRN 33.20 dB, NeRF 40.15 dB."
)


def published_scores(runs: Sequence[Run]) -> tuple[float, float] | None:
    """Return PSNR in dB and SSIM that the DeepVoxels paper reports for the object of ``runs``.

    None unless all runs are of the same object and were evaluated on the paper's test views at 512² pixels.
    """
    scores = {_published_scores(run) for run in runs}
    return scores.pop() if len(scores) == 1 else None


def _published_scores(run: Run) -> tuple[float, float] | None:
    """Return the scores for one run.

    :mod:`dv.tasks.prepare` marks objects of the same name that it made or changed in ``dataset.json``; without that
    file an object counts as the published one.
    """
    name, root = run.config.get("object.name"), run.config.get("object.root")
    source = read_record(Path(str(root)) / "test" / str(name), strict=False).get("source", "official")
    evaluated = run.image_side == IMAGE_SIDE and "test/psnr" in run.measures
    return DEEPVOXELS.get(str(name)) if evaluated and source == "official" else None
