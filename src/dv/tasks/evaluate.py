"""``evaluate.py``: PSNR and SSIM of a trained model on held-out views, beside the nearest training view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from dv.errors import UserError
from dv.runtime.launch import gather, place, run_on_ranks
from dv.tasks.command import run

if TYPE_CHECKING:
    from torch import Tensor

    from dv.tasks.restore import Restored

SHEET_VIEWS = 6


class Scored(NamedTuple):
    """A view: its scores, by kind, and the picture prediction | truth | depth."""

    number: int
    scores: dict[str, dict[str, float]]
    strip: bytes
    shown: list[Tensor] | None


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Score every view of a split, print the table, write ``metrics.json`` and pictures; returns the metrics.

    Pictures are prediction | truth | depth, of every view in the folder ``<split>_views``, and of views spread over the
    split in the contact sheet ``<split>_views.png``. Several processes share the views.
    """
    from dv.tasks.settings import check_devices, processes_here

    config.trainer.gpus = check_devices(config.trainer.gpus)
    metrics: dict[str, Any] = run_on_ranks(evaluate_on_rank, config, processes_here(config), config.trainer.nodes)
    return metrics


def evaluate_on_rank(config: DictConfig) -> dict[str, Any] | None:
    """What every process of an evaluation does; rank 0 writes what all have scored, and returns the metrics."""
    from dv.images import contact_sheet, write_png
    from dv.runtime.files import whole_folder
    from dv.tasks.restore import restore
    from dv.tasks.settings import write_json

    restored = restore(config)
    views = restored.source.views(config.split)
    if config.border < 0 or 2 * config.border >= views.images.shape[-1]:
        raise UserError(f"border={config.border} leaves nothing of {views.images.shape[-1]} px; use a smaller border")
    rank, ranks, _ = place()
    scored = gather(list(_score(restored, config, list(range(rank, len(views), ranks)))))
    if rank:
        return None
    scored.sort()
    metrics: dict[str, Any] = {key: _mean([view.scores[key] for view in scored]) for key in scored[0].scores}
    metrics |= {"split": config.split, "ckpt": str(restored.checkpoint.path), "image_side": views.images.shape[-1]}
    metrics["views"] = [{"name": views.names[view.number], **view.scores["mean"]} for view in scored]
    output_dir = Path(config.output_dir or restored.run_dir)
    with whole_folder(output_dir / f"{config.split}_views") as strips:
        for view in scored:
            (strips / f"{views.names[view.number]}.png").write_bytes(view.strip)
    write_json(output_dir / "metrics.json", metrics)
    sheet = contact_sheet([view.shown for view in scored if view.shown], gap=4, least_side=192)
    write_png(output_dir / f"{config.split}_views.png", sheet)
    print(table(metrics))
    if not restored.has_depth:
        print("model=no_occlusion has no depth: the contact sheet shows prediction | truth only")
    print(f"metrics: {output_dir / 'metrics.json'}\nviews:   {output_dir / f'{config.split}_views'}[.png]")
    return metrics


def _score(restored: Restored, config: DictConfig, indices: list[int]) -> Iterator[Scored]:
    """Score the views ``indices`` of the split."""
    import torch
    from tqdm import tqdm

    from dv.geometry.camera import axis_cosines
    from dv.images import contact_sheet, depth_picture, png
    from dv.lightning.object_module import to_model
    from dv.losses import cut_border
    from dv.metrics import to_unit

    views, train = restored.source.views(config.split), restored.source.views("train")
    intrinsics = restored.source.calibration(_split_with_folder(restored, config.split)).intrinsics
    cosines = axis_cosines(views.poses, train.poses)
    if config.split == "train":
        cosines.fill_diagonal_(-torch.inf)  # the nearest other view
    nearest = cosines.argmax(1).tolist()
    score = _scorer(config.lpips)
    on_sheet = set(torch.linspace(0, len(views) - 1, min(SHEET_VIEWS, len(views))).round().int().tolist())
    rendered = restored.views(views.poses[indices], intrinsics, config.batch_size) if indices else ()
    progress = tqdm(rendered, f"evaluating {config.split}", len(indices), unit="view")
    for i, (picture, depth) in zip(indices, progress, strict=True):
        output, truth = to_unit(picture[None].float()).cpu(), to_unit(to_model(views.images[i : i + 1]))
        baseline = to_unit(to_model(train.images[nearest[i]][None]))
        scores = {}
        for name, image in (("mean", output), ("baseline", baseline)):
            scores[name] = score(image, truth)
            scores[f"{name}_border"] = score(cut_border(image, config.border), cut_border(truth, config.border))
        extra = [] if depth is None else [depth_picture(depth.cpu(), truth.shape[-1])]
        strip = [output[0], truth[0], *extra]
        order = ("mean", "mean_border", "baseline", "baseline_border")
        yield Scored(i, {k: scores[k] for k in order}, png(contact_sheet([strip])), strip if i in on_sheet else None)


def table(metrics: dict[str, Any]) -> str:
    """The means as a table for the terminal."""
    keys = list(metrics["mean"])
    lines = [f"{'':<24}" + "".join(f"{key.upper():>10}" for key in keys)]
    names = {
        "mean": "model, full frame",
        "mean_border": "model, border cut",
        "baseline": "nearest view, full frame",
        "baseline_border": "nearest view, border cut",
    }
    for key, name in names.items():
        lines.append(f"{name:<24}" + "".join(f"{metrics[key][k]:>10.{2 if k == 'psnr' else 3}f}" for k in keys))
    return "\n".join([f"{len(metrics['views'])} {metrics['split']} views (PSNR in dB)", *lines])


def _split_with_folder(restored: Restored, split: str) -> str:
    """The split whose ``intrinsics.txt`` belongs to the views: held-out views are training views."""
    return split if restored.source.folder(split).is_dir() else "train"


def _scorer(use_lpips: bool | str) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """Function of image and truth ``[1, 3, H, W]`` in [0, 1] to a dict of scores."""
    from importlib.util import find_spec

    from dv.metrics import psnr, ssim

    there = find_spec("lpips") is not None
    if use_lpips is True and not there:
        raise UserError("lpips=true needs the optional extra: pip install 'dv[lpips]'")
    network = None
    if use_lpips and there:
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


def main() -> None:
    """Command line."""
    run("evaluate", evaluate)


if __name__ == "__main__":
    main()
