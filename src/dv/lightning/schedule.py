"""Learning-rate schedules, and an estimate of the fraction of the training that one step takes."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from dv.config.train import OptimizerConfig

SCALING_POWERS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}  # of the samples per step
IGNORED_STEPS = 1  # after the start or a resumption: kernels are compiled or loaded
WINDOW = 51  # steps whose median duration counts: durations drift, and some steps include a pause
CATCH_UP = 100  # steps over which is made up for what the median leaves out


def scaled_learning_rate(config: OptimizerConfig, rate: float, samples: int) -> float:
    """Scale a learning rate for steps that average the gradients of ``samples`` samples.

    >>> scaled_learning_rate(OptimizerConfig(1e-3, 1e-3, "sqrt", "constant", 0, 0.02), 1e-3, 4)
    0.002
    """
    return rate * float(samples ** SCALING_POWERS[config.batch_scaling])


def schedule_factor(config: OptimizerConfig, step: int, progress: float) -> float:
    """Return the factor by which the schedule multiplies all learning rates at a step.

    Args:
        config: schedule, warm-up steps and final fraction.
        step: number of the step, from 0.
        progress: fraction of the training that is over, in [0, 1].

    >>> config = OptimizerConfig(1e-3, 1e-3, "none", "exponential", 0, 0.01)
    >>> [round(schedule_factor(config, 100, progress), 3) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.1, 0.01]
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return warmup
    if config.schedule == "exponential":
        return warmup * float(config.final_fraction**progress)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)


def steps_made(elapsed: float, early_steps: float, early_step_time: float) -> float:
    """Return the fraction of all steps that are made when a fraction ``elapsed`` of the training's time is over.

    Args:
        elapsed: in [0, 1].
        early_steps: fraction of the steps that take another time than the others, the first ones, in [0, 1].
        early_step_time: duration of one of them, relative to a later step.

    >>> [round(steps_made(elapsed, 0.5, 0.25), 3) for elapsed in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    early_time = early_steps * early_step_time  # like the time elapsed in later steps, of which all would be 1
    time = elapsed * (early_time + 1 - early_steps)
    return min(1.0, time / early_step_time if time < early_time else early_steps + time - early_time)


class StepFraction:
    """Estimated fraction of the whole training, in (0, 1], that one step takes.

    It is 1 / ``max_steps`` or, if that is more, the median progress of recent steps, which the clock may determine. On
    a busy machine many steps take longer than the median, and some wait for a validation; what they took is added to
    the estimates of the following steps, at most as much again. The estimates of all steps then add up to the training.

    Args:
        max_steps: number of steps after which the training ends in any case.
    """

    def __init__(self, max_steps: int) -> None:
        self._minimum = 1 / max_steps
        self._ignored = IGNORED_STEPS + 1
        self._previous = 0.0
        self._missed = 0.0  # progress that no estimate contained
        self._recent: deque[float] = deque(maxlen=WINDOW)

    @property
    def value(self) -> float:
        """The estimate."""
        if not self._recent:
            return self._minimum
        usual = median(self._recent)
        return max(self._minimum, usual + min(usual, max(0.0, self._missed) / CATCH_UP))

    def update(self, progress: float) -> None:
        """Record the fraction of the training that is over, in [0, 1]; to be called before each step."""
        if self._ignored:
            self._ignored -= 1
        else:
            if self._recent:
                self._missed += progress - self._previous - self.value
            self._recent.append(progress - self._previous)
        self._previous = progress
