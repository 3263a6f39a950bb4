"""What part of a training a step is, when the clock may end it."""

from __future__ import annotations

from collections import deque
from statistics import median

SLOW_STEPS = 10  # after the start or after resuming, which say nothing of how long a step takes
LAST_STEPS = 51  # whose median counts: steps become dearer and cheaper, and some have a pause before them


class Pace:
    """The part of the whole training, in (0, 1], that a step is at present.

    It is one of ``most`` steps, or as much of the time as the last steps took, where that is more.

    Args:
        most: steps after which the training ends in any case.
    """

    def __init__(self, most: int) -> None:
        self._least = 1 / most
        self._skip = SLOW_STEPS + 1
        self._before = 0.0
        self._last: deque[float] = deque(maxlen=LAST_STEPS)

    @property
    def share(self) -> float:
        """Of the training, that a step is."""
        return max(self._least, median(self._last)) if self._last else self._least

    def see(self, progress: float) -> None:
        """Before each step, what part of the time, in [0, 1], is over."""
        if self._skip:
            self._skip -= 1
        else:
            self._last.append(progress - self._before)
        self._before = progress
