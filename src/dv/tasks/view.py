"""``view.py``: an interactive page of a trained model, or of an object before any training."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dv.checkpoint import read_checkpoint
from dv.config.render import ViewConfig
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.rendering.restore import Restored, any_placement, load, restore
from dv.tasks.command import in_sweep, run
from dv.viewer.scene import Scene
from dv.viewer.start import start_viewer

if TYPE_CHECKING:
    from dv.viewer.server import Viewer

WAIT_SECONDS = 0.2  # at most, for a client, until signals are looked at
LOOK_SECONDS = 1.0  # between looks at the checkpoint's file
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def view(config: ViewConfig) -> None:
    """Serve the page until Ctrl-C or SIGTERM. A checkpoint that is written anew while it is viewed is shown anew.

    Raises:
        UserError: if there is nothing to show, or the port is in use.
    """
    if in_sweep():
        raise UserError("view.py shows one thing; give one ckpt= or object=, without -m")
    shown: tuple[WatchedFile, Restored] | None = None
    if config.ckpt:
        file = WatchedFile(Path(config.ckpt))  # before it is read, so that no change is missed
        restored = restore(config)
        shown, scene = (file, restored), _scene(restored)
    else:
        scene = _scene_of_object(config)
    viewer = start_viewer(scene, config.viewer.host, config.viewer.port)
    print(f"{scene.source.name}: {viewer.url} (Ctrl-C stops)", flush=True)
    if config.viewer.host not in LOOPBACK:
        print(f"everyone who reaches {config.viewer.host}:{viewer.port} can look", flush=True)
    try:
        with stop_signals() as received:
            while not received:
                if (pause := viewer.work()) > 0:
                    viewer.renderer.wait(min(pause, WAIT_SECONDS))
                if shown is not None and shown[0].has_changed():
                    _show_again(viewer, shown[1])
        print("stopped", flush=True)
    finally:
        viewer.stop()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list: an exception could be lost where Python ignores exceptions."""
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _scene(restored: Restored) -> Scene:
    restored.model.use_mean_exposure()
    return Scene(restored.source, restored.placement, restored.model, restored.checkpoint.step, restored.precision)


def _scene_of_object(config: ViewConfig) -> Scene:
    """Return the scene of an object without a model.

    Raises:
        UserError: if no object is given either.
    """
    if not config.object.root:
        raise UserError("nothing to show; give ckpt=PATH of a checkpoint, or object=NAME")
    source = ObjectSource.from_config(
        config.object, background=config.data.background or "white", skip=config.data.skip or 0
    )
    return Scene(source, any_placement(source))


class WatchedFile:
    """Tells when a file has been written anew; while it still grows, it has not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._seen = self._state()
        self._looked = time.perf_counter()

    def has_changed(self) -> bool:
        """Return whether the file is another one than when this last returned True; looks once a second."""
        now = time.perf_counter()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        before, self._seen = self._seen, self._state()
        if self._seen is None or self._seen != before or self._seen == self._known:
            return False
        self._known = self._seen
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:  # just being replaced
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def _show_again(viewer: Viewer, restored: Restored) -> None:
    """Show the checkpoint that has been written; if it cannot be read, say so and keep what is shown."""
    try:
        checkpoint, shown = read_checkpoint(restored.checkpoint.path), restored.checkpoint
        if (checkpoint.kind, checkpoint.placement) != (shown.kind, shown.placement):
            raise UserError(f"{shown.path} now holds a model of another kind or object; start view.py again to see it")
        again = load(checkpoint, restored.source, restored.placement, restored.device, restored.precision)
    except UserError as error:
        print(f"kept step {viewer.scene.step}: {error}", flush=True)
        return
    again.model.use_mean_exposure()
    viewer.replace_model(again.model, checkpoint.step)
    print(f"step {checkpoint.step}: {checkpoint.path}", flush=True)


if __name__ == "__main__":
    run("view")
