"""Fast checks of cameras against each other and the grid, and of images by their bytes; training runs them too."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from dv.data.calibration import Calibration
from dv.data.folder import Views
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, axis_cosines, to_camera
from dv.prepare.field_of_view import Window, in_window
from dv.prepare.photographs import shorten
from dv.prepare.placement import convergence, viewing_radius

MIN_VIEWS = 20
MAX_CUT = 0.25  # fraction of the ball inside the grid that may be out of view
MIN_INSIDE = 0.02  # fraction of the reconstructed points that should be in the grid
MAX_TEST_DEGREES = 45.0


def check_cameras(splits: dict[str, Views], calibration: Calibration) -> list[str]:
    """Return what is suspicious; none of it prevents training.

    Args:
        splits: views by split, at least ``train``.
        calibration: of the training views.

    Returns:
        One sentence per finding.
    """
    return [
        *_too_few(splits),
        *_duplicates(splits, calibration.placement.scale),
        *_odd_lens(calibration),
        *_grid_out_of_view(splits, calibration),
        *_grid_out_of_place(splits, calibration),
        *_distant_tests(splits),
    ]


def field_of_view(k: Intrinsics) -> float:
    """Return the field of view along the longer side in degrees."""
    return float(np.degrees(2 * np.arctan(max(k.width / k.fx, k.height / k.fy) / 2)))


def _too_few(splits: dict[str, Views]) -> list[str]:
    n = len(splits["train"])
    return [f"{n} training views are few; 50 or more are recommended"] if n < MIN_VIEWS else []


def _duplicates(splits: dict[str, Views], scale: float) -> list[str]:
    """Find views with the same pose, or the same image, as another."""
    messages = []
    for what in ("pose", "image"):
        first: dict[bytes, str] = {}
        pairs = []
        for split, views in splits.items():
            units = torch.tensor([1.0, 1, 1, scale]).double()
            poses = (views.poses / units * 1e6).round().long()
            for i, name in enumerate(views.names):
                value = poses[i] if what == "pose" else views.image(i)
                digest = hashlib.blake2b(value.numpy().tobytes()).digest()
                earlier = first.setdefault(digest, f"{split}/{name}")
                if earlier != f"{split}/{name}":
                    pairs.append(f"{earlier} and {split}/{name}")
        if pairs:
            messages.append(f"the same {what} twice: {shorten(pairs)}; remove one of each")
    return messages


def _odd_lens(calibration: Calibration) -> list[str]:
    k = calibration.intrinsics
    where = "cameras.json" if calibration.cameras else "intrinsics.txt"
    messages = []
    if not 2 < field_of_view(k) < 120:
        messages.append(f"a field of view of {field_of_view(k):.1f}° is unusual: is f in {where} in px of "
                        f"{k.width}×{k.height}?")  # fmt: skip
    if max(abs(k.cx / k.width - 0.5), abs(k.cy / k.height - 0.5)) > 0.2:
        messages.append(f"the principal point ({k.cx:.1f}, {k.cy:.1f}) is far from the middle of "
                        f"{k.width}×{k.height} px: are cx and cy in {where} in px of these?")  # fmt: skip
    return messages


def _window(k: Intrinsics) -> Window:
    return Window(-k.cx / k.fx, (k.width - k.cx) / k.fx, -k.cy / k.fy, (k.height - k.cy) / k.fy)


def _grid_out_of_view(splits: dict[str, Views], calibration: Calibration) -> list[str]:
    """Find views whose border, near plane or far plane cuts the ball inside the grid, and cameras inside the grid.

    Photographs of a thing in its surroundings, whose points are known, may show a part of it only.
    """
    p = calibration.placement
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(400, 3))
    ball *= p.scale / 2 * np.cbrt(rng.random((400, 1))) / np.linalg.norm(ball, axis=1, keepdims=True)
    found: dict[str, list[tuple[float, str]]] = {}
    for split, views in splits.items():
        points = to_camera(views.poses.numpy(), ball + p.origin)
        outside = np.array(
            [(~in_window(seen, _window(k))).mean() for seen, k in zip(points, views.cameras, strict=True)]
        )
        shown = outside < 1  # other views show surroundings only
        z, names = points[shown, :, 2], [name for name, is_shown in zip(views.names, shown, strict=True) if is_shown]
        fractions = {
            "the border of the image": outside[shown],
            f"the near plane ({p.near:.4g})": (z < p.near).mean(1),
            f"the far end of the frustum (near + 2·scale = {p.near + 2 * p.scale:.4g})": (
                z > p.near + 2 * p.scale
            ).mean(1),
        }
        if calibration.points is not None:
            del fractions["the border of the image"]
        if any(k.width != k.height for k in views.cameras):  # the paper's model, whose frustum ends, needs squares
            fractions = {what: fraction for what, fraction in fractions.items() if "frustum" not in what}
        for what, fraction in fractions.items():
            cut = [(float(s), f"{split}/{name}") for s, name in zip(fraction, names, strict=True) if s > MAX_CUT]
            found.setdefault(what, []).extend(cut)
    messages = [
        f"{what} cuts off part of the grid in {len(cut)} views, at most {100 * max(cut)[0]:.0f} % in {max(cut)[1]}; "
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
    return messages + ([f"{shorten(within)}: cameras inside the grid; make it smaller"] if within else [])


def _grid_out_of_place(splits: dict[str, Views], calibration: Calibration) -> list[str]:
    """Compare the grid with the points or, without them, with where the views converge and what is in view there."""
    p, train = calibration.placement, splits["train"]
    if calibration.points is not None:
        inside = np.all(np.abs(calibration.points.numpy() - p.origin) <= p.scale / 2, axis=1)
        if inside.mean() < MIN_INSIDE:
            return [f"{inside.sum()} of {len(inside)} points of points.npy lie in the grid: are origin and scale in "
                    "intrinsics.txt right?"]  # fmt: skip
        return []
    window = [_window(k) for k in train.cameras]
    poses = train.poses.numpy()
    try:
        meet = convergence(poses, window)
        radius = viewing_radius(poses, window, meet)
    except UserError as error:
        return [str(error)]
    where = "(" + ", ".join(f"{x:.4g}" for x in meet) + ")"
    distance = float(np.linalg.norm(meet - p.origin))
    if distance > max(p.scale / 2, radius):
        return [f"the views converge at {where}, {distance:.4g} from the grid's centre: is origin in intrinsics.txt "
                "right?"]  # fmt: skip
    if not 0.2 < p.scale / (2 * radius) < 4:
        return [f"the grid's side {p.scale:.4g} does not fit the sphere of diameter {2 * radius:.4g} that is in view: "
                "is scale in intrinsics.txt right?"]  # fmt: skip
    return []


def _distant_tests(splits: dict[str, Views]) -> list[str]:
    """Find validation and test views that look from a direction without training views."""
    messages = []
    for split in ("validation", "test"):
        if split in splits:
            cosines = axis_cosines(splits[split].poses, splits["train"].poses).amax(1).clamp(-1, 1)
            degrees = torch.rad2deg(torch.arccos(cosines)).numpy()
            far = [name for name, angle in zip(splits[split].names, degrees, strict=True) if angle > MAX_TEST_DEGREES]
            if far:
                messages.append(f"{len(far)} {split} views look from more than {MAX_TEST_DEGREES:.0f}° away from any "
                                f"training view, such as {far[0]}: nothing can be learned about them")  # fmt: skip
    return messages
