"""Everything wrong or suspicious about an object's pictures, poses and grid, at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray

from dv.data.folder import Calibration, Views, read_pose, sees_grid
from dv.data.object import SPLITS, ObjectSource
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, axis_cosines
from dv.prepare.camera_plot import box_edges, scene_picture
from dv.prepare.photographs import few
from dv.prepare.placement import Array, Window, convergence, in_camera, viewing_radius

FEW_VIEWS = 20
CUT_SHARE = 0.25  # of the grid's ball out of the picture
FAR_TEST_DEGREES = 45.0
HULL_SIDE, SILHOUETTE_SIDE, SILHOUETTE = 32, 64, 0.1
SHEET_VIEWS, SHEET_COLUMNS, SHEET_SIDE = 48, 8, 160


@dataclass(frozen=True)
class Finding:
    """One line on what is wrong (training refuses it) or suspicious."""

    severity: Literal["error", "warning"]
    message: str


def check_cameras(splits: dict[str, Views], calibration: Calibration) -> list[Finding]:
    """The fast part, which training runs too: cameras against each other and the grid, pictures by their bytes.

    Nothing that it finds keeps training from running.
    """
    messages = [
        *_counts(splits),
        *_twice(splits, calibration.placement.scale),
        *_lens(calibration),
        *_grid_in_view(splits, calibration),
        *_grid_in_place(splits, calibration),
        *_far_tests(splits),
    ]
    return [Finding("warning", message) for message in messages]


def check_pictures(splits: dict[str, Views], calibration: Calibration) -> list[Finding]:
    """The slow part: exposure, sharpness, and whether the grid holds what the pictures show."""
    train = splits["train"]
    grey = train.images.float().mean(1).numpy() / 255
    nearest = axis_cosines(train.poses, train.poses).topk(min(5, len(train))).indices.numpy()
    messages = []
    blank = [name for name, picture in zip(train.names, grey, strict=True) if picture.std() < 0.01]
    if blank:
        messages.append(f"{few(blank)}: of one colour; remove these views")
    brightness = np.log(np.maximum(grey.mean((1, 2)), 1e-3))
    jumps = _outliers(brightness - np.median(brightness[nearest], axis=1), least=0.2)
    if len(jumps):
        messages.append(f"{few([train.names[i] for i in jumps])}: much brighter or darker than the views beside them; "
                        "was exposure fixed? remove or correct them, or train with "
                        "experiment=radiance model.exposure_rate=0.1")  # fmt: skip
    sharpness = np.log([max(float(cv2.Laplacian(picture, cv2.CV_32F).var()), 1e-9) for picture in grey])
    dull = sharpness - np.median(sharpness[nearest], axis=1)
    blurred = [i for i in _outliers(dull, least=1.0) if dull[i] < 0]
    if blurred:
        messages.append(f"{few([train.names[i] for i in blurred])}: blurred beside their neighbours; remove them")
    return [Finding("warning", message) for message in [*messages, *_hull(train, calibration)]]


def check_object(source: ObjectSource, output_dir: Path) -> list[Finding]:
    """Report on all splits, write ``contact_sheet.png`` and ``scene.png`` to ``output_dir``, return the findings.

    Raises :class:`UserError` after all that if there is something that training refuses.
    """
    splits, findings = _read(source)
    calibration = None
    if "train" in splits:
        calibration = source.calibration()
        findings += check_cameras(splits, calibration) + check_pictures(splits, calibration)
        output_dir.mkdir(parents=True, exist_ok=True)
        sheet, scene = output_dir / "contact_sheet.png", output_dir / "scene.png"
        _write_whole(sheet, lambda path: iio.imwrite(path, contact_sheet(splits, calibration)))
        poses = {split: views.poses.numpy() for split, views in splits.items()}
        _write_whole(scene, lambda path: scene_picture(path, poses, calibration.placement, calibration.intrinsics))
        print("\n".join(_summary(source, splits, calibration)))
        print(f"pictures: {sheet}, {scene}")
    for finding in findings:
        print(f"{finding.severity}: {finding.message}")
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise UserError(f"{source.name} in {source.root} has {len(errors)} faults that training refuses: see above")
    if not findings:
        print("nothing suspicious")
    return findings


def _read(source: ObjectSource) -> tuple[dict[str, Views], list[Finding]]:
    splits: dict[str, Views] = {}
    findings = []
    for split in SPLITS:
        if split != "train" and not source.folder(split).is_dir() and "train" not in splits:
            continue  # to be held out of training views that could not be read
        try:
            splits[split] = source.views(split) if split == "train" or "train" in splits else source.read(split)
        except UserError as error:
            axes = _other_axes(source, split)
            findings.append(Finding("error", axes or str(error)))
    return splits, findings


def _other_axes(source: ObjectSource, split: str) -> str | None:
    """What the poses of a split seem to be, if they hardly see the grid but would in other axes."""
    folder = source.folder(split)
    try:
        calibration = source.calibration(split)
        poses = [read_pose(path, calibration.world_to_camera) for path in sorted((folder / "pose").glob("*.txt"))]
    except UserError:
        return None
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
    kinds: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "as they are": lambda pose: pose,
        "OpenGL's axes (turn the second and third column of each around)": lambda pose: pose @ flip,
        "world-to-camera (write 1 as the sixth line of intrinsics.txt)": torch.linalg.inv,
        "world-to-camera in OpenGL's axes (invert each, then turn columns two and three around)": (
            lambda pose: torch.linalg.inv(pose) @ flip
        ),
    }
    seen = {kind: np.mean([sees_grid(turn(pose), calibration) for pose in poses]) for kind, turn in kinds.items()}
    best = max(seen, key=lambda kind: seen[kind])
    if not poses or seen["as they are"] > 0.5 or seen[best] < 0.9:
        return None
    return f"{folder / 'pose'}: {len(poses)} poses hardly see the grid; they would if they were {best}"


def _summary(source: ObjectSource, splits: dict[str, Views], calibration: Calibration) -> list[str]:
    k, p = calibration.intrinsics, calibration.placement
    poses = np.concatenate([views.poses.numpy() for views in splits.values()])
    distances = np.linalg.norm(poses[:, :3, 3] - p.origin, axis=1)
    counts = ", ".join(f"{len(views)} {split}" for split, views in splits.items())
    x, y, z = p.origin
    square = "" if calibration.height == calibration.width else "; the central square is used"
    return [
        f"{source.name} in {source.root}: {counts} views of {calibration.height}×{calibration.width} px{square}, "
        f"read at {splits['train'].images.shape[-1]} px",
        f"field of view {_field_of_view(k):.1f}°, principal point ({k.cx:.1f}, {k.cy:.1f}), "
        f"pixel_center {k.pixel_center:g}",
        f"grid of side {p.scale:.4g} around ({x:.4g}, {y:.4g}, {z:.4g}), near plane {p.near:.4g}; "
        f"cameras {distances.min():.4g} to {distances.max():.4g} from its centre",
    ]


def _field_of_view(k: Intrinsics) -> float:
    return float(np.degrees(2 * np.arctan(k.side / 2 / k.f)))


def _counts(splits: dict[str, Views]) -> list[str]:
    n = len(splits["train"])
    return [f"{n} training views are few; 50 or more are good"] if n < FEW_VIEWS else []


def _twice(splits: dict[str, Views], scale: float) -> list[str]:
    """Views with the same pose, or the same picture, as another."""
    messages = []
    for what in ("pose", "picture"):
        first: dict[bytes, str] = {}
        pairs = []
        for split, views in splits.items():
            units = torch.tensor([1.0, 1, 1, scale]).double()
            numbers = (views.poses / units * 1e6).round().long().numpy() if what == "pose" else views.images.numpy()
            for name, value in zip(views.names, numbers, strict=True):
                earlier = first.setdefault(value.tobytes(), f"{split}/{name}")
                if earlier != f"{split}/{name}":
                    pairs.append(f"{earlier} and {split}/{name}")
        if pairs:
            messages.append(f"the same {what} twice: {few(pairs)}; remove one of each")
    return messages


def _lens(calibration: Calibration) -> list[str]:
    k = calibration.intrinsics
    messages = []
    if not 2 < _field_of_view(k) < 120:
        messages.append(f"a field of view of {_field_of_view(k):.1f}° is odd: is f in intrinsics.txt in px of "
                        f"{calibration.height}×{calibration.width}?")  # fmt: skip
    if max(abs(k.cx - k.side / 2), abs(k.cy - k.side / 2)) > 0.2 * k.side:
        messages.append(f"the principal point ({k.cx:.1f}, {k.cy:.1f}) is far from the middle of {k.side:g} px: are cx "
                        "and cy in intrinsics.txt in px of the stated height and width?")  # fmt: skip
    return messages


def _window(k: Intrinsics) -> Window:
    return Window(-k.cx / k.f, (k.side - k.cx) / k.f, -k.cy / k.f, (k.side - k.cy) / k.f)


def _grid_in_view(splits: dict[str, Views], calibration: Calibration) -> list[str]:
    """Views whose picture, near plane or frustum's end cuts the ball in the grid, and cameras in the grid."""
    p, w = calibration.placement, _window(calibration.intrinsics)
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(400, 3))
    ball *= p.scale / 2 * np.cbrt(rng.random((400, 1))) / np.linalg.norm(ball, axis=1, keepdims=True)
    found: dict[str, list[tuple[float, str]]] = {}
    for split, views in splits.items():
        points = in_camera(views.poses.numpy(), ball + p.origin)
        x, y, z = np.moveaxis(points, 2, 0)
        outside = (z <= 0) | (x < w.left * z) | (x > w.right * z) | (y < w.top * z) | (y > w.bottom * z)
        shares = {
            "the picture's edge": outside.mean(1),
            f"the near plane ({p.near:.4g})": (z < p.near).mean(1),
            f"the far end of the frustum (near + 2·scale = {p.near + 2 * p.scale:.4g})": (
                z > p.near + 2 * p.scale
            ).mean(1),
        }
        for what, share in shares.items():
            cut = [(float(s), f"{split}/{name}") for s, name in zip(share, views.names, strict=True) if s > CUT_SHARE]
            found.setdefault(what, []).extend(cut)
    messages = [
        f"{len(cut)} views have the grid cut by {what}, the most {max(cut)[1]} ({100 * max(cut)[0]:.0f} % of it); "
        "check origin, scale and near plane in intrinsics.txt"
        for what, cut in found.items()
        if cut
    ]
    within = [
        f"{split}/{name}"
        for split, views in splits.items()
        for name, center in zip(views.names, views.poses[:, :3, 3].numpy(), strict=True)
        if np.abs(center - p.origin).max() < p.scale / 2
    ]
    return messages + ([f"{few(within)}: cameras inside the grid; make it smaller"] if within else [])


def _grid_in_place(splits: dict[str, Views], calibration: Calibration) -> list[str]:
    """The grid against the point where the views converge, and the volume there that they have in view."""
    p, w = calibration.placement, _window(calibration.intrinsics)
    poses = splits["train"].poses.numpy()
    try:
        meet = convergence(poses, w)
        radius = viewing_radius(poses, w, meet)
    except UserError as error:
        return [f"{error}"]
    where = "(" + ", ".join(f"{x:.4g}" for x in meet) + ")"
    away = float(np.linalg.norm(meet - p.origin))
    if away > max(p.scale / 2, radius):
        return [f"the views converge at {where}, {away:.4g} from the grid's centre: is origin in intrinsics.txt right?"]
    if not 0.2 < p.scale / (2 * radius) < 4:
        return [f"the grid's side {p.scale:.4g} does not suit what the views have in view, a sphere of diameter "
                f"{2 * radius:.4g}: is scale in intrinsics.txt right?"]  # fmt: skip
    return []


def _far_tests(splits: dict[str, Views]) -> list[str]:
    messages = []
    for split in ("validation", "test"):
        if split in splits:
            cosines = axis_cosines(splits[split].poses, splits["train"].poses).amax(1).clamp(-1, 1)
            degrees = torch.rad2deg(torch.arccos(cosines)).numpy()
            far = [name for name, angle in zip(splits[split].names, degrees, strict=True) if angle > FAR_TEST_DEGREES]
            if far:
                messages.append(f"{len(far)} {split} views look from more than {FAR_TEST_DEGREES:.0f}° away from any "
                                f"training view, such as {far[0]}: nothing can be learnt about them")  # fmt: skip
    return messages


def _outliers(values: Array, least: float) -> NDArray[np.intp]:
    """Where ``values`` are off by more than ``least`` and by more than eight robust standard deviations."""
    off = np.abs(values - np.median(values))
    spread = 1.4826 * float(np.median(off))
    return np.flatnonzero(off > max(least, 8 * spread))


def _hull(views: Views, calibration: Calibration) -> list[str]:
    """Whether the visual hull of the silhouettes (Laurentini 1994) lies in the grid; only for plain backgrounds."""
    p, k = calibration.placement, calibration.intrinsics.at_side(SILHOUETTE_SIDE)
    silhouettes = []
    for image in views.images.numpy():
        small = cv2.resize(image.transpose(1, 2, 0), (SILHOUETTE_SIDE,) * 2, interpolation=cv2.INTER_AREA) / 255
        border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
        off = np.abs(small - np.median(border, axis=0)).max(2) > SILHOUETTE
        if (np.abs(border - np.median(border, axis=0)).max(1) > SILHOUETTE).mean() > 0.2:
            return []
        silhouettes.append(cv2.dilate(off.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    axis = (np.arange(HULL_SIDE) + 0.5) / HULL_SIDE * 2 - 1
    voxels = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) * p.scale + p.origin
    seen, on = np.zeros(len(voxels)), np.zeros(len(voxels))
    for pose, silhouette in zip(views.poses.numpy(), silhouettes, strict=True):
        x, y, z = in_camera(pose[None], voxels)[0].T
        column = np.floor(k.f * x / z + k.cx + 0.5 - k.pixel_center).astype(int)
        row = np.floor(k.f * y / z + k.cy + 0.5 - k.pixel_center).astype(int)
        visible = (z > 0) & (column >= 0) & (row >= 0) & (column < SILHOUETTE_SIDE) & (row < SILHOUETTE_SIDE)
        seen += visible
        on[visible] += silhouette[row[visible], column[visible]]
    hull = voxels[(seen > 0.6 * len(views)) & (on > 0.97 * seen)]
    if not len(hull):
        return ["no point of the grid's surroundings is on the object in all pictures: poses or intrinsics do not fit "
                "the pictures, or the grid misses the object"]  # fmt: skip
    low, high = hull.min(0), hull.max(0)
    voxel = 2 * p.scale / HULL_SIDE
    outside = (np.abs(hull - p.origin) > p.scale / 2 + voxel).any(1)
    if outside.mean() < 0.02:
        return []
    center, side = (low + high) / 2, 1.1 * float((high - low).max())
    x, y, z = center
    return [f"{100 * outside.mean():.0f} % of what the silhouettes enclose lies outside the grid, which cuts or misses "
            f"the object; it would fit into a side of {side:.4g} around {x:.4g} {y:.4g} {z:.4g} (lines 4 and 2 of "
            "intrinsics.txt)"]  # fmt: skip


def contact_sheet(splits: dict[str, Views], calibration: Calibration) -> NDArray[np.uint8]:
    """Views of every split with their names and the grid's box drawn on them, ``[H, W, 3]``; of many, 48 a split."""
    k, p = calibration.intrinsics.at_side(SHEET_SIDE), calibration.placement
    sheets = []
    for split, views in splits.items():
        cells = []
        for i in range(0, len(views), -(-len(views) // SHEET_VIEWS)):
            image = views.images[i].permute(1, 2, 0).numpy()
            cell = cv2.resize(image, (SHEET_SIDE, SHEET_SIDE), interpolation=cv2.INTER_AREA)
            for edge in box_edges(p):
                ends = in_camera(views.poses[i : i + 1].numpy(), edge)[0]
                if (ends[:, 2] > 0).all():
                    at = k.f * ends[:, :2] / ends[:, 2:] + (k.cx, k.cy) - k.pixel_center
                    a, b = (tuple(int(16 * x) for x in point.clip(-1000, 1000)) for point in at)
                    cv2.line(cell, a, b, (255, 0, 160), 1, cv2.LINE_AA, 4)
            label = np.full((18, SHEET_SIDE, 3), 255, np.uint8)
            cv2.putText(label, f"{split}/{views.names[i]}"[-26:], (2, 13), 0, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
            cells.append(np.pad(np.concatenate([cell, label]), ((2, 2), (2, 2), (0, 0)), constant_values=255))
        cells += [np.full_like(cells[0], 255)] * (-len(cells) % SHEET_COLUMNS)
        rows = [np.concatenate(cells[i : i + SHEET_COLUMNS], 1) for i in range(0, len(cells), SHEET_COLUMNS)]
        sheets.append(np.concatenate(rows))
    return np.concatenate(sheets)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    aside = path.with_name(f".{path.name}")
    write(aside)
    os.replace(aside, path)
