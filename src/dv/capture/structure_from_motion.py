"""Structure from motion with COLMAP: cameras and points from overlapping images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

from tqdm import tqdm

from dv.capture.frames import Frame
from dv.config.prepare import CaptureSource
from dv.errors import UserError
from dv.importers.colmap import colmap_module

ROBUST_SCALE = 0.5  # px: residuals well above it have little weight
MAX_REPROJECTION_ERROR = 2.0  # px
OVERLAP, LOOP_STEP = 10, 5  # frames of a video
FEATURE_BATCH = 16  # images whose features are found between two updates of the progress
BATCH = 64  # pairs of images that are matched between two commits


def reconstruct(frames: list[Frame], folder: Path, settings: CaptureSource) -> Any:
    """Run structure from motion.

    Features and matches are kept in ``folder/database.db``, from which an interrupted run is resumed. The incremental
    model is refined with a robust loss, on which mismatches have little influence.

    Args:
        frames: images in ``folder/pictures``.
        folder: the work folder.
        settings: of the reconstruction.

    Returns:
        The ``pycolmap.Reconstruction`` with the most images.

    Raises:
        UserError: if nothing can be reconstructed.
    """
    colmap = colmap_module()
    colmap.set_random_seed(settings.seed)
    database, images = folder / "database.db", folder / "pictures"
    by_camera = _group_by_camera(frames, settings)
    _extract_features(colmap, by_camera, database, images, settings)
    names = sorted(frame.path.name for frame in frames)
    match_pairs(colmap, names, matched_pairs(len(names), settings.matching), database)
    models = _map_incrementally(colmap, database, images, folder / "models", len(frames), settings, relaxed=False)
    if max((model.num_reg_images() for model in models), default=0) < 0.5 * len(frames):
        models += _map_incrementally(colmap, database, images, folder / "models", len(frames), settings, relaxed=True)
    if not models:
        raise UserError(
            "no two images could be related: photographs must overlap by two thirds, show texture and be taken from "
            "different positions around the object, not by rotating the camera; try more photographs, or "
            "source.max_features=16384"
        )
    largest = max(models, key=lambda model: cast(int, model.num_reg_images()))
    _refine(colmap, largest, intrinsics_known=settings.camera_params is not None)
    return largest


def _group_by_camera(frames: list[Frame], settings: CaptureSource) -> list[list[Frame]]:
    """Group the frames that share a camera: all, none, or those of one device and size."""
    key: Callable[[Frame], object] = {
        "single": lambda frame: frame.size,
        "several": lambda frame: frame.path,
        "auto": lambda frame: frame.device,
    }[settings.cameras]
    groups: dict[object, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    if settings.cameras == "single" and len(groups) > 1:
        raise UserError(f"source.cameras=single, but the photographs have {len(groups)} sizes; use source.cameras=auto")
    return list(groups.values())


def _extract_features(
    colmap: Any, by_camera: list[list[Frame]], database: Path, images: Path, settings: CaptureSource
) -> None:
    options = colmap.FeatureExtractionOptions()
    options.sift.max_num_features = settings.max_features
    options.sift.estimate_affine_shape = True  # surfaces are seen at very different angles
    total, done = sum(map(len, by_camera)), [0]

    def extract(token: Any) -> None:
        for group in by_camera:
            reader = colmap.ImageReaderOptions()
            reader.camera_model = settings.camera_model
            camera = _initial_camera(colmap, group[0], settings)
            if camera is not None:
                reader.camera_params = ",".join(map(repr, camera.params.tolist()))
            names = [frame.path.name for frame in group]
            extract_features(colmap, names, database, images, reader, options, token, done)

    with_progress(colmap, "finding features", total, "image", lambda: done[0], extract)


def extract_features(
    colmap: Any, names: list[str], database: Path, images: Path, reader: Any, options: Any, token: Any, done: list[int]
) -> None:
    """Find the features of images of one camera in batches; those that an interrupted run has stored are kept.

    The database is never read while COLMAP writes it: it would end the process.

    Args:
        colmap: the module.
        names: of the images.
        database: to which features are added.
        images: folder of the images.
        reader: ``pycolmap.ImageReaderOptions`` with the camera.
        options: ``pycolmap.FeatureExtractionOptions``.
        token: says whether to stop.
        done: its only item is increased by the images that are done.
    """
    for start in range(0, len(names), FEATURE_BATCH):
        batch = names[start : start + FEATURE_BATCH]
        existing = _existing_camera(colmap, database, names)
        if existing is not None:
            reader.existing_camera_id = existing
        mode = colmap.CameraMode.SINGLE
        colmap.extract_features(database, images, batch, mode, reader, options, cancellation_token=token)
        if token.is_cancelled:
            return
        done[0] += len(batch)


def _initial_camera(colmap: Any, frame: Frame, settings: CaptureSource) -> Any:
    """Return the camera to start from: as given, or from the EXIF data; None for COLMAP's guess."""
    width, height = frame.size
    focal = frame.focal or 1.2 * max(width, height)
    try:
        camera = colmap.Camera.create_from_model_name(0, settings.camera_model, focal, width, height)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"source.camera_model={settings.camera_model} is not a camera model of COLMAP") from error
    if settings.camera_params is not None:
        if len(settings.camera_params) != len(camera.params):
            raise UserError(
                f"source.camera_params must be the {len(camera.params)} numbers {camera.params_info} of "
                f"{settings.camera_model}, not {len(settings.camera_params)}"
            )
        camera.params = settings.camera_params
        return camera
    return camera if frame.focal else None


def _existing_camera(colmap: Any, database: Path, names: list[str]) -> int | None:
    """Return the camera that an interrupted run has created for these images."""
    if not database.is_file():
        return None
    with colmap.Database.open(database) as opened:
        cameras = [image.camera_id for image in opened.read_all_images() if image.name in set(names)]
    return cameras[0] if cameras else None


def matched_pairs(count: int, matching: str) -> list[tuple[int, int]]:
    """Choose which of ``count`` ordered images are matched.

    Args:
        count: number of images.
        matching: ``exhaustive`` for all pairs; ``sequential`` for frames of a video, each of which is matched with the
            next ten, and every fifth with every other fifth, since a walk around an object ends where it began.

    Returns:
        Pairs of indices.
    """
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    if matching == "exhaustive":
        return pairs
    return [(i, j) for i, j in pairs if j - i <= OVERLAP or i % LOOP_STEP == j % LOOP_STEP == 0]


def match_pairs(colmap: Any, names: list[str], chosen: list[tuple[int, int]], database: Path, **advice: str) -> None:
    """Match images in batches; matches that an interrupted run has stored are kept.

    Args:
        colmap: the module.
        names: of the images.
        chosen: indices of the pairs.
        database: with the features of all images.
        advice: as of :func:`with_progress`.
    """
    pairs = [f"{names[i]} {names[j]}" for i, j in chosen]
    done = [0]

    def match(token: Any) -> None:
        options = colmap.ImportedPairingOptions()
        options.match_list_path = database.with_name("pairs.txt")
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            options.match_list_path.write_text("\n".join(batch) + "\n")
            colmap.match_image_pairs(database, pairing_options=options, cancellation_token=token)
            if token.is_cancelled:
                return
            done[0] += len(batch)

    with_progress(colmap, "matching", len(pairs), "pair", lambda: done[0], match, **advice)


def _map_incrementally(
    colmap: Any, database: Path, images: Path, models: Path, total: int, settings: CaptureSource, *, relaxed: bool
) -> list[Any]:
    """Return all models of incremental mapping; ``relaxed`` lowers the requirements for registering an image."""
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir()
    options = colmap.IncrementalPipelineOptions()
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = settings.seed
    options.min_model_size = 3
    if settings.camera_params is not None:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
    if relaxed:
        options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle = 40, 6.0
        options.mapper.abs_pose_min_num_inliers, options.mapper.abs_pose_min_inlier_ratio = 15, 0.15
    found: dict[int, Any] = {}
    registered = [0]

    def count() -> None:
        registered[0] += 1

    def run(token: Any) -> None:
        found.update(
            colmap.incremental_mapping(
                database, images, models, options, next_image_callback=count, cancellation_token=token
            )
        )

    with_progress(colmap, "placing cameras", total, "image", lambda: min(registered[0], total), run)
    return list(found.values())


def _refine(colmap: Any, model: Any, *, intrinsics_known: bool) -> None:
    """Adjust all cameras and points with a Cauchy loss; it divides errors by four on photographs with ground truth."""
    options = colmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_extra_params = not intrinsics_known
    options.ceres.loss_function_type = colmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = ROBUST_SCALE
    for _ in range(2):
        config = colmap.BundleAdjustmentConfig()
        for image in model.reg_image_ids():
            config.add_image(image)
        config.fix_gauge(colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        colmap.create_default_bundle_adjuster(options, config, model).solve()
        colmap.ObservationManager(model).filter_all_points3D(MAX_REPROJECTION_ERROR, 1.5)


def with_progress(
    colmap: Any,
    label: str,
    total: int,
    unit: str,
    done: Callable[[], int],
    work: Callable[[Any], None],
    advice: str = "run the same command again to continue",
) -> None:
    """Run ``work`` in a thread with a progress bar; Ctrl-C stops it at its next safe point.

    Args:
        colmap: the module.
        label: what is done.
        total: number of units.
        unit: what is counted.
        done: returns how many units are done.
        work: gets a token that says whether to stop.
        advice: what to do after an error of COLMAP.
    """
    token = colmap.CancellationToken()
    failed: list[BaseException] = []
    finished = Event()  # Thread.join returns at once after Ctrl-C has interrupted it (Python 3.11)

    def guarded() -> None:
        try:
            work(token)
        except BaseException as error:
            failed.append(error)
        finally:
            finished.set()

    with tqdm(total=total, desc=label, leave=False, unit=unit, mininterval=1) as progress:
        Thread(target=guarded).start()
        try:
            while not finished.wait(0.2):
                progress.update(max(0, done() - progress.n))
        except KeyboardInterrupt:
            token.cancel()
            finished.wait()
            raise
    for error in failed:
        if type(error) in (RuntimeError, ValueError):  # raised by COLMAP itself
            raise UserError(f"{label}: {error}; {advice}") from error
        raise error
