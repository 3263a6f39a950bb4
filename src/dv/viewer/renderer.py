"""Which frame is drawn next, for several clients at once: coarse ones while a camera moves, full ones when it rests."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from dv.geometry.camera import Intrinsics
from dv.object_model import ObjectModel
from dv.viewer.frames import Drawing, Frame, Request
from dv.viewer.scene import Scene

log = logging.getLogger(__name__)
COARSE_SECONDS = 0.04  # that a frame takes while the camera moves
STRIP_SECONDS = 0.03  # after which a full frame lets others go first
REST_SECONDS = 0.12  # without a change, after which the full frame is drawn
FIRST_RATE = 20_000.0  # px per second, until the first frames have been measured
Show = Callable[[Frame, Drawing], None]


@dataclass(eq=False)
class Watcher:
    """A client: what it wants to see, how to show it, and what it has been shown."""

    show: Show
    request: Request | None = None
    changed: float = 0.0
    shown: tuple[Request, Intrinsics] | None = None
    drawing: Drawing | None = None
    rate: float = FIRST_RATE  # px per second
    served: float = 0.0  # when a part of a frame was last drawn for it
    frame_times: list[float] = field(default_factory=list)

    @property
    def has_current_frame(self) -> bool:
        """Whether the client sees a frame of what it wants, perhaps a coarse one."""
        return self.shown is not None and self.shown[0] is self.request

    @property
    def frames_per_second(self) -> float | None:
        """Of the last second, None if there were fewer than four frames."""
        recent = [t for t in self.frame_times if self.frame_times[-1] - t < 1.0]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 3 else None

    @property
    def is_up_to_date(self) -> bool:
        """Whether the client sees the full frame that it wants."""
        return self.request is None or self.shown == (self.request, self.request.full)


class Renderer:
    """Draws the frames of all clients, in whichever thread calls :meth:`work`.

    A failed frame is reported once and left out; it stops neither the other clients nor the caller.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._watchers: list[Watcher] = []
        self._tasks: deque[Callable[[], None]] = deque()
        self._woken = threading.Condition()
        self._failures: set[str] = set()

    def add(self, show: Show) -> Watcher:
        """Register a client, whose frames are passed to ``show``."""
        watcher = Watcher(show)
        with self._woken:
            self._watchers.append(watcher)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget a client; unknown ones are ignored."""
        with self._woken:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def want(self, watcher: Watcher, request: Request) -> None:
        """Note what a client wants to see now."""
        with self._woken:
            watcher.request, watcher.changed = request, time.perf_counter()
            self._woken.notify_all()

    def soon(self, task: Callable[[], None]) -> None:
        """Let :meth:`work` call something that reads the model, which a training changes in other moments."""
        with self._woken:
            self._tasks.append(task)
            self._woken.notify_all()

    def replace_model(self, model: ObjectModel | None, step: int) -> None:
        """Show another state of the model to all clients."""
        self.scene.replace_model(model, step)
        with self._woken:
            for watcher in self._watchers:
                watcher.shown = watcher.drawing = None
            self._woken.notify_all()

    @property
    def is_watched(self) -> bool:
        """Whether there is any client."""
        return bool(self._watchers)

    @property
    def is_idle(self) -> bool:
        """Whether all clients see what they want."""
        with self._woken:
            return not self._tasks and all(watcher.is_up_to_date for watcher in self._watchers)

    def wait(self, seconds: float) -> None:
        """Wait until a client wants something, at most for ``seconds``."""
        with self._woken:
            self._woken.wait(seconds)

    def work(self) -> float:
        """Draw a part of a frame, for about 40 ms, for the client that has waited longest.

        Returns:
            Seconds until there is something to draw; 0 if there may be more at once.
        """
        now = time.perf_counter()
        with self._woken:
            task = self._tasks.popleft() if self._tasks else None
            waiting = sorted((w for w in self._watchers if not w.is_up_to_date), key=lambda w: w.served)
            chosen = next((w for w in waiting if not w.has_current_frame or w.changed + REST_SECONDS <= now), None)
        if task is not None:
            self._attempt(task)
            return 0.0
        if chosen is None:
            pauses = [w.changed + REST_SECONDS - now for w in waiting]
            return max(0.001, min(pauses, default=1.0))
        self._draw(chosen)
        return 0.0

    def _draw(self, watcher: Watcher) -> None:
        request = watcher.request
        assert request is not None
        drawing, pixels = watcher.drawing, watcher.rate * STRIP_SECONDS
        if drawing is None or drawing.request is not request:
            camera = request.full
            if not watcher.has_current_frame and self.scene.draws_any_size:
                pixels = watcher.rate * COARSE_SECONDS
                camera = request.coarse(pixels)
                pixels *= 2  # the whole frame at once
            drawing = watcher.drawing = Drawing(self.scene, request, camera)
        if not self._attempt(partial(self._advance, watcher, drawing, pixels)):
            watcher.shown, watcher.drawing = (request, request.full), None

    def _advance(self, watcher: Watcher, drawing: Drawing, pixels: float) -> None:
        """Draw so many pixels more, measure how long that takes, and show the frame when it is complete."""
        started, rows = time.perf_counter(), drawing.rows
        frame = drawing.advance(pixels)
        if drawing.rows > rows:
            seconds = max(1e-6, time.perf_counter() - started)
            watcher.rate += 0.3 * ((drawing.rows - rows) * drawing.camera.width / seconds - watcher.rate)
        if frame is not None:
            watcher.show(frame, drawing)
        watcher.served = time.perf_counter()
        if frame is not None:
            watcher.drawing = None
            watcher.shown = drawing.request, drawing.camera
            watcher.frame_times = [*watcher.frame_times[-19:], watcher.served]

    def _attempt(self, task: Callable[[], None]) -> bool:
        """Return whether a task succeeds; whatever its failure is, other clients and a training must go on."""
        try:
            task()
        except Exception as error:
            message = f"cannot draw this view: {type(error).__name__}: {error}"
            if message not in self._failures:
                self._failures.add(message)
                log.warning(message)
            return False
        return True
