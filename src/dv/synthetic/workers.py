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

from tqdm import tqdm

from dv.errors import UserError
from dv.runtime.files import atomic_file
from dv.synthetic.mitsuba_scene import import_mitsuba, load_scene, render_rgba
from dv.synthetic.shapes import Array, MeshShape

_scene: Any = None  # of a worker process


class View(NamedTuple):
    """An image to render."""

    path: Path
    pose: Array  # [4, 4]
    seed: int  # of the samples


def render_views(
    views: Sequence[View],
    shapes: list[MeshShape],
    variant: str,
    image_side: int,
    samples_per_pixel: int,
    workers: int,
    progress: "tqdm[Any]",
) -> None:
    """Render images over a white background and write them as PNG files; call this from the main thread.

    Args:
        views: The images to render.
        shapes: The meshes, see :func:`dv.synthetic.mitsuba_scene.load_scene`.
        variant: "diffuse" or "specular".
        image_side: Width and height of the images in pixels.
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
        futures = [executor.submit(_render_view, view, image_side, samples_per_pixel) for view in views]
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
    global _scene
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    mitsuba = import_mitsuba()
    mitsuba.set_variant("scalar_rgb")
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    import drjit

    drjit.set_thread_count(1)
    _scene = load_scene(shapes, variant)


def _exit_with_parent() -> None:
    """Exit when the parent does: a killed parent cannot end its workers, which would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _render_view(view: View, image_side: int, samples_per_pixel: int) -> None:
    import mitsuba as mi

    rgba = render_rgba(_scene, view.pose, image_side, samples_per_pixel, view.seed)
    over_white = rgba[..., :3] + (1 - rgba[..., 3:])
    bitmap = mi.Bitmap(over_white).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, srgb_gamma=True)
    with atomic_file(view.path) as temporary:
        bitmap.write(str(temporary))
