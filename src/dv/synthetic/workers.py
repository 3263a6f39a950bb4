"""Rendering views in parallel processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from dv.errors import UserError
from dv.runtime.files import atomic_file
from dv.synthetic.mitsuba_scene import Film, import_mitsuba, load_scene, render_rgba
from dv.synthetic.shapes import Array, MeshShape
from dv.synthetic.truth import load_truth, write_truth

_scene: Any = None  # of a worker process
_truth: Any = None  # likewise, of an object in its surroundings


class View(NamedTuple):
    """An image to render."""

    path: Path
    pose: Array  # [4, 4]
    seed: int  # of the samples
    stops: float = 0.0  # exposure: the linear image is multiplied with 2 to this power


def render_views(
    views: Sequence[View],
    shapes: list[MeshShape],
    variant: str,
    film: Film,
    samples_per_pixel: int,
    workers: int,
    progress: "tqdm[Any]",
) -> None:
    """Render images over a white background and write them as PNG files; call this from the main thread.

    Of an object in surroundings, mask and depth are written too.

    Args:
        views: The images to render.
        shapes: The meshes, see :func:`dv.synthetic.mitsuba_scene.load_scene`.
        variant: "diffuse" or "specular".
        film: Size and focal length of the images.
        samples_per_pixel: Number of camera rays per pixel.
        workers: Number of processes; 0 starts one per available CPU.
        progress: Updated after every image.

    Raises:
        UserError: A process was killed. Images that exist by then are complete.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), len(views))
    other_children = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _start_worker, (shapes, variant))
    # Workers inherit the ignored signal: Ctrl-C reaches only this process, which then ends them.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        futures = [executor.submit(_render_view, view, film, samples_per_pixel) for view in views]
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        for future in as_completed(futures):
            future.result()
            progress.update()
    except BrokenProcessPool:
        raise UserError("a rendering process was killed (out of memory?); run again to continue") from None
    finally:
        # After a failure or Ctrl-C, do not wait for the views that are being rendered.
        if not all(future.done() for future in futures):
            for process in set(multiprocessing.active_children()) - other_children:
                process.terminate()
        executor.shutdown(cancel_futures=True)


def _start_worker(shapes: list[MeshShape], variant: str) -> None:
    global _scene, _truth
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    mitsuba = import_mitsuba()
    mitsuba.set_variant("scalar_rgb")
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    import drjit

    drjit.set_thread_count(1)
    _scene = load_scene(shapes, variant)
    if any(shape.surroundings for shape in shapes):
        _truth = load_truth(shapes)


def _exit_with_parent() -> None:
    """Exit when the parent does: a killed parent cannot end its workers, which would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _render_view(view: View, film: Film, samples_per_pixel: int) -> None:
    import mitsuba as mi

    if _truth is not None:  # before the image, whose file says that the view is complete
        write_truth(_truth, view.path, view.pose, film, view.seed)
    rgba = render_rgba(_scene, view.pose, film, samples_per_pixel, view.seed)
    over_white = (rgba[..., :3] + (1 - rgba[..., 3:])) * np.float32(2**view.stops)
    bitmap = mi.Bitmap(over_white).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, srgb_gamma=True)
    with atomic_file(view.path) as temporary:
        bitmap.write(str(temporary))
