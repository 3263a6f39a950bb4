"""``evaluate.py``: PSNR and SSIM of a trained model on held-out views, compared with the nearest training view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from dv.config.render import EvaluateConfig
from dv.data.folder import Views
from dv.errors import UserError
from dv.geometry.camera import axis_cosines
from dv.images import contact_sheet, depth_image, encode_png, to_model_range, write_png
from dv.losses import cut_border
from dv.metrics import fit_gain, psnr, ssim, to_unit
from dv.object_model import RenderedView
from dv.radiance import RadianceGrid
from dv.rendering.restore import Restored, restore
from dv.runtime.devices import count_gpus
from dv.runtime.files import atomic_folder, write_json
from dv.runtime.launch import gather, rank_info, run_on_ranks
from dv.tasks.align import align_pose
from dv.tasks.command import run

RANK_TASK = "dv.tasks.evaluate:evaluate_on_rank"
SHEET_VIEWS = 6
SCORE_NAMES = {
    "mean": "model, full frame",
    "mean_border": "model, border cut",
    "mean_gain": "  with a fitted gain",
    "aligned_border": "  from an aligned pose",
    "aligned_gain": "  and with a fitted gain",
    "baseline": "nearest view, full frame",
    "baseline_border": "nearest view, border cut",
}


class ScoredView(NamedTuple):
    """A view with its scores by :data:`SCORE_NAMES`, and its images prediction | truth | depth.

    ``sheet_row`` has the images of the views on the contact sheet, None for other views.
    """

    number: int
    scores: dict[str, dict[str, float]]
    png: bytes
    sheet_row: list[Tensor] | None


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score every view of a split, print a table, write ``metrics.json`` and images, and return the metrics.

    Images are prediction | truth | depth: of every view in the folder ``<split>_views``, and of views spread over the
    split in the contact sheet ``<split>_views.png``. Several processes share the views.
    """
    trainer = replace(config.trainer, gpus=count_gpus(config.trainer.gpus))
    config = replace(config, trainer=trainer)
    metrics: dict[str, Any] = run_on_ranks(RANK_TASK, config, trainer.processes_here, trainer.nodes)
    return metrics


def evaluate_on_rank(config: EvaluateConfig) -> dict[str, Any] | None:
    """Score this rank's share of the views; rank 0 writes the results of all ranks and returns the metrics."""
    restored = restore(config)
    if config.supersampling:
        restored.supersample(config.supersampling)
    views = restored.source.views(config.split)
    smallest = min(min(k.width, k.height) for k in views.cameras)
    if 2 * config.border >= smallest:
        raise UserError(f"border={config.border} leaves no pixel of {smallest} px; use a smaller border")
    rank, ranks, _ = rank_info()
    scored = gather(list(_score(restored, config, list(range(rank, len(views), ranks)))))
    if rank:
        return None
    scored.sort()
    names = [name for name in SCORE_NAMES if name in scored[0].scores]
    metrics: dict[str, Any] = {name: _mean([view.scores[name] for view in scored]) for name in names}
    metrics |= {
        "split": config.split,
        "ckpt": str(restored.checkpoint.path),
        "image_size": [views.largest.width, views.largest.height],
    }
    metrics["views"] = [{"name": views.names[view.number], **view.scores["mean"]} for view in scored]
    output_dir = Path(config.output_dir or restored.run_dir)
    with atomic_folder(output_dir / f"{config.split}_views") as folder:
        for view in scored:
            (folder / f"{views.names[view.number]}.png").write_bytes(view.png)
    write_json(output_dir / "metrics.json", metrics)
    sheet = contact_sheet([view.sheet_row for view in scored if view.sheet_row], gap=4, min_side=192)
    write_png(output_dir / f"{config.split}_views.png", sheet)
    print(format_table(metrics))
    if not restored.model.has_depth:
        print("this model renders no depth: the contact sheet shows prediction | truth only")
    print(f"metrics: {output_dir / 'metrics.json'}\nviews:   {output_dir / f'{config.split}_views'}[.png]")
    return metrics


def _score(restored: Restored, config: EvaluateConfig, indices: list[int]) -> Iterator[ScoredView]:
    """Score the views ``indices`` of the split."""
    views, train = restored.source.views(config.split), restored.source.views("train")
    cosines = axis_cosines(views.poses, train.poses)
    if config.split == "train":
        cosines.fill_diagonal_(-torch.inf)  # the nearest other view
    nearest = cosines.argmax(1).tolist()
    score = _scorer(config.lpips)
    on_sheet = set(torch.linspace(0, len(views) - 1, min(SHEET_VIEWS, len(views))).round().int().tolist())
    rendered = restored.render_views(views.poses[indices], [views.cameras[i] for i in indices], config.batch_size)
    progress = tqdm(rendered, f"evaluating {config.split}", len(indices), unit="view")
    for i, view in zip(indices, progress, strict=True):
        output, truth = to_unit(view.image[None].float()).cpu(), to_unit(to_model_range(views.image(i)[None]))
        baseline = to_unit(to_model_range(train.image(nearest[i])[None]))
        if baseline.shape != truth.shape:
            baseline = functional.interpolate(baseline, truth.shape[2:], mode="bilinear", antialias=True)
        inner = cut_border(truth, config.border)
        scores = {}
        for name, image in (("mean", output), ("baseline", baseline)):
            scores[name] = score(image, truth)
            scores[f"{name}_border"] = score(cut_border(image, config.border), inner)
        scores["mean_gain"] = score(_with_fitted_gain(cut_border(output, config.border), inner), inner)
        if config.align_poses:
            aligned = cut_border(to_unit(_render_aligned(restored, views, i).image[None].float()).cpu(), config.border)
            scores["aligned_border"] = score(aligned, inner)
            scores["aligned_gain"] = score(_with_fitted_gain(aligned, inner), inner)
        row = [output[0], truth[0]]
        if view.depth is not None:
            row.append(depth_image(view.depth.cpu(), truth.shape[2], truth.shape[3]))
        yield ScoredView(i, scores, encode_png(contact_sheet([row])), row if i in on_sheet else None)


def _with_fitted_gain(image: Tensor, truth: Tensor) -> Tensor:
    """Fit the gain of each channel of an image ``[1, 3, H, W]`` in [0, 1] to its truth."""
    pixels, true_pixels = (x[0].flatten(1).T for x in (image, truth))
    return fit_gain(pixels, true_pixels).T.view_as(image).clamp(0, 1)


def _render_aligned(restored: Restored, views: Views, i: int) -> RenderedView:
    """Render view ``i`` from the pose near its own from which the model renders it best.

    Raises:
        UserError: if the model has no gradients by poses.
    """
    model = restored.model
    if not isinstance(model, RadianceGrid):
        raise UserError(f"align_poses=true needs a radiance grid, not model.kind={restored.checkpoint.kind}")
    pose = align_pose(model, views.poses[i].to(restored.device), views.cameras[i], views.image(i))
    return model.render(pose, views.cameras[i])


def format_table(metrics: dict[str, Any]) -> str:
    """Format the mean scores as a table for the terminal."""
    keys = list(metrics["mean"])
    lines = [f"{'':<24}" + "".join(f"{key.upper():>10}" for key in keys)]
    for name in (name for name in SCORE_NAMES if name in metrics):
        title = SCORE_NAMES[name]
        lines.append(f"{title:<24}" + "".join(f"{metrics[name][k]:>10.{2 if k == 'psnr' else 3}f}" for k in keys))
    return "\n".join([f"{len(metrics['views'])} {metrics['split']} views (PSNR in dB)", *lines])


def _scorer(use_lpips: bool | str) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """Return a function from an image and its truth, ``[1, 3, H, W]`` in [0, 1], to scores by name."""
    installed = find_spec("lpips") is not None
    if use_lpips is True and not installed:
        raise UserError("lpips=true needs the optional extra: pip install 'dv[lpips]'")
    network = None
    if use_lpips and installed:
        import lpips

        network = lpips.LPIPS(net="alex", verbose=False).eval()

    def score(image: Tensor, truth: Tensor) -> dict[str, float]:
        values = {"psnr": psnr(image, truth).item(), "ssim": ssim(image, truth).item()}
        if network is not None:
            values["lpips"] = network(image * 2 - 1, truth * 2 - 1).item()
        return values

    return score


def _mean(values: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(v[key] for v in values) / len(values) for key in values[0]}


if __name__ == "__main__":
    run("evaluate")
