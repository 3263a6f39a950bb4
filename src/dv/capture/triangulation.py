"""Points of surfaces from photographs whose cameras are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from tqdm import tqdm

from dv.capture.structure_from_motion import extract_features, match_pairs, with_progress
from dv.geometry.camera import Intrinsics
from dv.importers.colmap import colmap_module, reliable_points
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph
from dv.prepare.placement import Array
from dv.prepare.rectify import full_camera, rectify

LARGEST_SIDE = 1600  # px of the images in which features are found
MAX_FEATURES = 8192  # per image
NEIGHBOURS = 12  # images with which each image is matched
ADVICE = {"advice": "source.triangulate=false does without points"}


def triangulate(photographs: list[Photograph], work: Path) -> Array:
    """Find features in photographs with COLMAP, match those of neighbouring cameras and triangulate them.

    Cameras stay as they are. Matches that they contradict are dropped.

    Args:
        photographs: at least two.
        work: an empty folder for intermediate files.

    Returns:
        Points ``[N, 3]`` in the world of the poses; none if nothing could be matched.

    Raises:
        UserError: if pycolmap is not installed or a photograph cannot be read.
    """
    colmap = colmap_module()
    colmap.set_random_seed(0)
    images, database = work / "images", work / "database.db"
    images.mkdir(parents=True)
    poses = {f"{i:06d}.png": photograph.pose for i, photograph in enumerate(photographs)}
    by_lens: dict[Lens, list[str]] = {}
    named = zip(poses, photographs, strict=True)
    for name, photograph in tqdm(named, "reading photographs", len(poses), leave=False, unit="image"):
        camera, k = full_camera(photograph.lens), _reduced(photograph.lens)
        image = rectify(photograph, camera, (k.width, k.height), np.ones(3), mask=None)
        iio.imwrite(images / name, image.permute(1, 2, 0).numpy())
        by_lens.setdefault(photograph.lens, []).append(name)

    def extract(token: Any) -> None:
        options = colmap.FeatureExtractionOptions()
        options.sift.max_num_features = MAX_FEATURES
        for lens, names in by_lens.items():
            k = _reduced(lens)
            reader = colmap.ImageReaderOptions()
            reader.camera_model = "PINHOLE"
            reader.camera_params = ",".join(repr(float(x)) for x in (k.fx, k.fy, k.cx, k.cy))
            extract_features(colmap, names, database, images, reader, options, token, done)

    done = [0]
    with_progress(colmap, "finding features", len(poses), "image", lambda: done[0], extract, **ADVICE)
    match_pairs(colmap, list(poses), neighbours(np.stack(list(poses.values()))), database, **ADVICE)
    model = _with_known_poses(colmap, database, poses)
    result = [model]

    def run(token: Any) -> None:
        result[0] = colmap.triangulate_points(model, database, images, work, cancellation_token=token)

    with_progress(colmap, "triangulating", 1, "model", lambda: 0, run, **ADVICE)
    return reliable_points(result[0])


def neighbours(poses: Array) -> list[tuple[int, int]]:
    """Return the pairs of cameras of poses ``[V, 4, 4]`` of which one is among the nearest to the other.

    The distance of two cameras is that of their positions, relative to their mean distance from their mean, and of
    their viewing directions.
    """
    centers = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    spread = max(float(np.linalg.norm(centers, axis=1).mean()), 1e-12)
    cameras = np.concatenate([centers / spread, poses[:, :3, 2]], 1)
    points = torch.from_numpy(cameras)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").numpy()  # exact, and small
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : NEIGHBOURS + 1]
    return sorted({(min(i, j), max(i, j)) for i, row in enumerate(nearest.tolist()) for j in row if i != j})


def _reduced(lens: Lens) -> Intrinsics:
    """Return the undistorted camera of a lens at the size at which features are found."""
    camera = full_camera(lens)
    k = min(1.0, LARGEST_SIDE / max(camera.width, camera.height))
    return camera.resized(max(1, round(k * camera.width)), max(1, round(k * camera.height)))


def _with_known_poses(colmap: Any, database: Path, poses: dict[str, Array]) -> Any:
    """Return a ``pycolmap.Reconstruction`` of the images in the database, without points."""
    model = colmap.Reconstruction()
    with colmap.Database.open(database) as opened:
        for camera in opened.read_all_cameras():
            model.add_camera(camera)
        for rig in opened.read_all_rigs():
            model.add_rig(rig)
        images = {image.image_id: image for image in opened.read_all_images()}
        for frame in opened.read_all_frames():
            (data,) = frame.image_ids
            frame.rig_from_world = colmap.Rigid3d(np.linalg.inv(poses[images[data.id].name])[:3])
            model.add_frame(frame)
        for image in images.values():
            model.add_image(image)
        for frame in model.frames.values():
            model.register_frame(frame.frame_id)
    return model
