"""The number of steps that a training by the clock will have."""

import pytest

from dv.lightning.forecast import SLOW_STEPS, StepForecast


def seen(seconds, most=10**9, first=0, spent=0.0, limit=100.0):
    """The forecast after steps that took so long, of a training of ``limit`` seconds."""
    forecast = StepForecast(most)
    for number, duration in enumerate(seconds):
        forecast.see(first + number, spent / limit)
        spent += duration
    return forecast.steps


def test_a_slow_start_says_nothing():
    assert seen([5.0] * (SLOW_STEPS - 1) + [0.1] * 20) == pytest.approx(SLOW_STEPS - 1 + (100 - 45) / 0.1)


@pytest.mark.parametrize("count", [0, 1, SLOW_STEPS])
def test_all_allowed_steps_are_expected_until_some_are_timed(count):
    assert seen([0.1] * count, most=500) == 500


def test_the_steps_allowed_are_the_most():
    assert seen([0.1] * 50, most=300) == 300
    assert seen([0.1] * 50, most=3000) == pytest.approx(1000)


def test_a_resumed_training_is_timed_anew():
    """900 steps of another machine took 90 of 100 seconds, here a step takes half of one."""
    assert seen([0.5] * 15, first=900, spent=90.0) == pytest.approx(920)


def test_a_clock_that_stands_still_changes_nothing():
    assert seen([0.0] * 30, most=500) == 500
