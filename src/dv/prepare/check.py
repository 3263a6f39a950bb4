"""``prepare.py source=check``: report everything that is wrong or suspicious about an object at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imageio.v3 as iio
import numpy as np
import torch

from dv.data.calibration import Calibration
from dv.data.folder import Views
from dv.data.object import SPLITS, ObjectSource
from dv.data.poses import read_pose, sees_grid
from dv.errors import UserError
from dv.prepare.camera_checks import check_cameras, field_of_view
from dv.prepare.camera_plot import contact_sheet_with_grid, plot_scene
from dv.prepare.image_checks import check_images
from dv.runtime.files import atomic_file
from dv.runtime.foreign_files import files_in


@dataclass(frozen=True)
class Finding:
    """A sentence about something wrong, which training refuses (``error``), or suspicious (``warning``)."""

    severity: Literal["error", "warning"]
    message: str


def check_object(source: ObjectSource, output_dir: Path) -> list[Finding]:
    """Print a report on all splits and write ``contact_sheet.png`` and ``scene.png``.

    Args:
        source: the object.
        output_dir: where to write.

    Returns:
        The findings, which are printed too.

    Raises:
        UserError: after the report, if there is something that training refuses.
    """
    splits, findings = _read_splits(source)
    if "train" in splits:
        calibration = source.calibration()
        warnings = check_cameras(splits, calibration) + check_images(splits["train"], calibration)
        findings += [Finding("warning", message) for message in warnings]
        output_dir.mkdir(parents=True, exist_ok=True)
        sheet, scene = output_dir / "contact_sheet.png", output_dir / "scene.png"
        with atomic_file(sheet) as temporary:
            iio.imwrite(temporary, contact_sheet_with_grid(splits, calibration.placement))
        poses = {split: views.poses.numpy() for split, views in splits.items()}
        with atomic_file(scene) as temporary:
            points = None if calibration.points is None else calibration.points.numpy()
            plot_scene(temporary, poses, calibration.placement, splits["train"].cameras[0], points)
        print("\n".join(_summary(source, splits, calibration)))
        print(f"images: {sheet}, {scene}")
    for finding in findings:
        print(f"{finding.severity}: {finding.message}")
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise UserError(f"{source.name} in {source.root} has {len(errors)} faults that training refuses: see above")
    if not findings:
        print("nothing suspicious")
    return findings


def _read_splits(source: ObjectSource) -> tuple[dict[str, Views], list[Finding]]:
    """Read all splits; faults become findings."""
    splits: dict[str, Views] = {}
    findings = []
    for split in SPLITS:
        if split != "train" and not source.folder(split).is_dir() and "train" not in splits:
            continue  # it would be held out of training views that could not be read
        try:
            splits[split] = source.views(split) if split == "train" or "train" in splits else source.read(split)
        except UserError as error:
            wrong_axes = _wrong_axes(source, split)
            findings.append(Finding("error", wrong_axes or str(error)))
    return splits, findings


def _wrong_axes(source: ObjectSource, split: str) -> str | None:
    """Name the convention in which the poses of a split would see the grid, if they hardly see it as they are."""
    folder = source.folder(split)
    try:
        calibration = source.calibration(split)
        poses = [read_pose(path, calibration.world_to_camera) for path in files_in(folder / "pose", {".txt"})]
    except UserError:
        return None
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
    conversions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "as they are": lambda pose: pose,
        "in OpenGL axes (negate the second and third column of each)": lambda pose: pose @ flip,
        "world-to-camera (write 1 as the sixth line of intrinsics.txt)": torch.linalg.inv,
        "world-to-camera in OpenGL axes (invert each, then negate columns two and three)": (
            lambda pose: torch.linalg.inv(pose) @ flip
        ),
    }
    seeing = {
        kind: np.mean([sees_grid(convert(pose), calibration) for pose in poses])
        for kind, convert in conversions.items()
    }
    best = max(seeing, key=lambda kind: seeing[kind])
    if not poses or seeing["as they are"] > 0.5 or seeing[best] < 0.9:
        return None
    return f"{folder / 'pose'}: {len(poses)} poses hardly see the grid; they would if they were {best}"


def _summary(source: ObjectSource, splits: dict[str, Views], calibration: Calibration) -> list[str]:
    k, p = calibration.intrinsics, calibration.placement
    poses = np.concatenate([views.poses.numpy() for views in splits.values()])
    distances = np.linalg.norm(poses[:, :3, 3] - p.origin, axis=1)
    counts = ", ".join(f"{len(views)} {split}" for split, views in splits.items())
    x, y, z = p.origin
    read = splits["train"].largest
    others = len(set(calibration.cameras.values())) - 1
    several = f" and {others} other cameras" if others > 0 else ""
    return [
        f"{source.name} in {source.root}: {counts} views of {k.width}×{k.height} px{several}, "
        f"read at {read.width}×{read.height} px",
        f"field of view {field_of_view(k):.1f}°, principal point ({k.cx:.1f}, {k.cy:.1f}), "
        f"pixel_center {k.pixel_center:g}",
        f"grid of side {p.scale:.4g} around ({x:.4g}, {y:.4g}, {z:.4g}), near plane {p.near:.4g}; "
        f"cameras {distances.min():.4g} to {distances.max():.4g} from its centre",
    ]
