"""Structure from motion with COLMAP: cameras and points from overlapping pictures."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

from tqdm import tqdm

from dv.errors import UserError
from dv.importers.frames import Frame

ROBUST_SCALE = 0.5  # px: residuals well above it are mismatches
OUTLIER = 2.0  # px
OVERLAP, LOOP_STEP = 10, 5  # frames of a video
PORTION = 64  # pairs


@dataclass(frozen=True)
class StructureSettings:
    """How to reconstruct: the ``source`` configuration of a capture.

    ``camera_params`` are the parameters of ``camera_model`` (COLMAP's names and order) in px of the photographs, where
    they are known; they are then kept as they are.
    """

    matching: str = "exhaustive"
    cameras: str = "auto"
    camera_model: str = "SIMPLE_RADIAL"
    camera_params: list[float] | None = None
    max_features: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        for key, value, known in (
            ("matching", self.matching, ("exhaustive", "sequential")),
            ("cameras", self.cameras, ("auto", "single", "several")),
        ):
            if value not in known:
                raise UserError(f"source.{key}={value} must be one of {', '.join(known)}")
        if not isinstance(self.max_features, int) or self.max_features < 100:
            raise UserError(f"source.max_features={self.max_features} must be a whole number of at least 100")


def colmap_module() -> Any:
    """pycolmap. Raises :class:`UserError` where it is not installed."""
    try:
        import pycolmap
    except ImportError:
        raise UserError("this needs pycolmap: pip install 'dv[capture]'") from None
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    return pycolmap


def reconstruct(frames: list[Frame], folder: Path, settings: StructureSettings) -> Any:
    """The largest ``pycolmap.Reconstruction`` of the frames, which lie below ``folder/pictures``.

    Features and matches are kept in ``folder/database.db``, where an interrupted run goes on. The incremental model is
    refined once more with a robust loss, which mismatches hardly move. Raises :class:`UserError` if nothing can be
    reconstructed.
    """
    colmap = colmap_module()
    colmap.set_random_seed(settings.seed)
    database, pictures = folder / "database.db", folder / "pictures"
    by_camera = _by_camera(frames, settings)
    _extract(colmap, by_camera, database, pictures, settings)
    _match(colmap, frames, database, settings)
    known = settings.camera_params is not None
    models = _map(colmap, database, pictures, folder / "models", len(frames), settings, loose=False)
    if _registered(models) < 0.5 * len(frames):
        models += _map(colmap, database, pictures, folder / "models", len(frames), settings, loose=True)
    if not models:
        raise UserError(
            "no two pictures could be put into relation: photographs must overlap by two thirds, show texture and "
            "move around the thing, not turn on the spot; try more pictures, or source.max_features=16384"
        )
    best = max(models, key=lambda model: cast(int, model.num_reg_images()))
    _refine(colmap, best, known)
    return best


def _registered(models: list[Any]) -> int:
    return max((model.num_reg_images() for model in models), default=0)


def _by_camera(frames: list[Frame], settings: StructureSettings) -> list[list[Frame]]:
    """Frames that share a camera: all, none, or those of one device and size."""
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


def _extract(
    colmap: Any, by_camera: list[list[Frame]], database: Path, pictures: Path, settings: StructureSettings
) -> None:
    options = colmap.FeatureExtractionOptions()
    options.sift.max_num_features = settings.max_features
    options.sift.estimate_affine_shape = True  # the sides of a thing, seen askew from one picture to the next
    total = sum(map(len, by_camera))

    def extract(token: Any) -> None:
        for group in by_camera:
            reader = colmap.ImageReaderOptions()
            reader.camera_model = settings.camera_model
            camera = _camera(colmap, group[0], settings)
            if camera is not None:
                reader.camera_params = ",".join(map(repr, camera.params.tolist()))
            names = [frame.path.name for frame in group]
            there = _camera_of(colmap, database, names)
            if there is not None:
                reader.existing_camera_id = there
            mode = colmap.CameraMode.SINGLE
            colmap.extract_features(database, pictures, names, mode, reader, options, cancellation_token=token)

    _with_progress(colmap, "finding features", total, "picture", lambda: _count(database, "descriptors"), extract)


def _camera(colmap: Any, frame: Frame, settings: StructureSettings) -> Any:
    """The camera to start from: as given, as EXIF data say, or None for COLMAP's guess."""
    width, height = frame.size
    focal = frame.focal or 1.2 * max(width, height)
    try:
        camera = colmap.Camera.create_from_model_name(0, settings.camera_model, focal, width, height)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"source.camera_model={settings.camera_model} is not a model of COLMAP's") from error
    if settings.camera_params is not None:
        if len(settings.camera_params) != len(camera.params):
            raise UserError(
                f"source.camera_params must be the {len(camera.params)} numbers {camera.params_info} of "
                f"{settings.camera_model}, not {len(settings.camera_params)}"
            )
        camera.params = settings.camera_params
        return camera
    return camera if frame.focal else None


def _camera_of(colmap: Any, database: Path, names: list[str]) -> int | None:
    """Camera of the pictures that an interrupted run has been through."""
    if not database.is_file():
        return None
    with colmap.Database.open(database) as opened:
        cameras = [image.camera_id for image in opened.read_all_images() if image.name in set(names)]
    return cameras[0] if cameras else None


def matched_pairs(count: int, matching: str) -> list[tuple[int, int]]:
    """Which of ``count`` pictures in order are compared: all with all, or as a video's frames.

    Those are compared with the next ten and, since whoever walks around a thing comes back to where he began, every
    fifth with all others of these.
    """
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    if matching == "exhaustive":
        return pairs
    return [(i, j) for i, j in pairs if j - i <= OVERLAP or i % LOOP_STEP == j % LOOP_STEP == 0]


def _match(colmap: Any, frames: list[Frame], database: Path, settings: StructureSettings) -> None:
    """In portions, each of which is in the database when it is done: pairs that are there are not compared again."""
    names = sorted(frame.path.name for frame in frames)
    pairs = [f"{names[i]} {names[j]}" for i, j in matched_pairs(len(names), settings.matching)]
    done = [0]

    def match(token: Any) -> None:
        options = colmap.ImportedPairingOptions()
        options.match_list_path = database.with_name("pairs.txt")
        for start in range(0, len(pairs), PORTION):
            portion = pairs[start : start + PORTION]
            options.match_list_path.write_text("\n".join(portion) + "\n")
            colmap.match_image_pairs(database, pairing_options=options, cancellation_token=token)
            if token.is_cancelled:
                return
            done[0] += len(portion)

    _with_progress(colmap, "matching", len(pairs), "pair", lambda: done[0], match)


def _map(
    colmap: Any, database: Path, pictures: Path, models: Path, total: int, settings: StructureSettings, *, loose: bool
) -> list[Any]:
    """All models that incremental mapping finds; ``loose`` asks less of the first pair and of every further picture."""
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir()
    options = colmap.IncrementalPipelineOptions()
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = settings.seed
    options.min_model_size = 3
    if settings.camera_params is not None:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
    if loose:
        options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle = 40, 6.0
        options.mapper.abs_pose_min_num_inliers, options.mapper.abs_pose_min_inlier_ratio = 15, 0.15
    found: dict[int, Any] = {}
    placed = [0]

    def count() -> None:
        placed[0] += 1

    def run(token: Any) -> None:
        found.update(
            colmap.incremental_mapping(
                database, pictures, models, options, next_image_callback=count, cancellation_token=token
            )
        )

    _with_progress(colmap, "placing cameras", total, "picture", lambda: min(placed[0], total), run)
    return list(found.values())


def _refine(colmap: Any, model: Any, known: bool) -> None:
    """Bundle adjustment with a Cauchy loss; on photographs with ground truth it left a quarter of the error."""
    options = colmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_extra_params = not known
    options.ceres.loss_function_type = colmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = ROBUST_SCALE
    for _ in range(2):
        config = colmap.BundleAdjustmentConfig()
        for image in model.reg_image_ids():
            config.add_image(image)
        config.fix_gauge(colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        colmap.create_default_bundle_adjuster(options, config, model).solve()
        colmap.ObservationManager(model).filter_all_points3D(OUTLIER, 1.5)


def _count(database: Path, table: str) -> int:
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
            return int(opened.execute(f"select count(*) from {table}").fetchone()[0])
    except sqlite3.Error:  # not there yet, or being written
        return 0


def _with_progress(
    colmap: Any, label: str, total: int, unit: str, done: Callable[[], int], work: Callable[[Any], None]
) -> None:
    """Run ``work`` beside a progress bar; Ctrl-C ends it at its next safe point."""
    token = colmap.CancellationToken()
    failed: list[BaseException] = []
    finished = Event()  # Thread.join forgets a thread that runs on when Ctrl-C ends the waiting (Python 3.11)

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
        if type(error) in (RuntimeError, ValueError):  # COLMAP's own complaints
            raise UserError(f"{label}: {error}; run again, which goes on where this stopped") from error
        raise error
