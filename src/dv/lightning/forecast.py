"""How many steps a training will have that the clock may end."""

from __future__ import annotations

SLOW_STEPS = 10  # after the start or after resuming, which say nothing of how long a step takes


class StepForecast:
    """Steps of a whole training, as many as ``most`` or, by the clock, as the time left is enough for.

    Until :data:`SLOW_STEPS` and one more have been seen, ``most`` are expected.

    Args:
        most: steps after which the training ends in any case.
    """

    def __init__(self, most: int) -> None:
        self.steps: float = most
        self._most = most
        self._seen = 0
        self._began = 0, 0.0

    def see(self, step: int, progress: float) -> None:
        """Before each step, its number and the part of the time, in [0, 1], that is over."""
        self._seen += 1
        began, then = self._began
        if self._seen <= SLOW_STEPS:
            self._began = step, progress
        elif progress > then:
            self.steps = min(self._most, step + (1 - progress) * (step - began) / (progress - then))
