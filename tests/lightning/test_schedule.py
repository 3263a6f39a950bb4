"""Progress by the clock, and the estimated fraction of the training that one step takes."""

import numpy as np
import pytest

from dv.lightning.schedule import IGNORED_STEPS, WINDOW, StepFraction, steps_made


def fraction_after(seconds, max_steps=10**9, spent=0.0, limit=100.0):
    """Return the estimate after steps of the given durations, in a training of ``limit`` seconds."""
    fraction = StepFraction(max_steps)
    for duration in (*seconds, 0.0):
        fraction.update(spent / limit)
        spent += duration
    return fraction.value


def test_a_slow_start_is_ignored():
    assert fraction_after([5.0] * IGNORED_STEPS + [0.1] * 20) == pytest.approx(0.001)
    assert fraction_after([5.0] * IGNORED_STEPS, max_steps=500) == 1 / 500


def test_the_fraction_is_at_least_one_of_max_steps():
    assert fraction_after([0.1] * 50, max_steps=300) == 1 / 300
    assert fraction_after([0.1] * 50, max_steps=3000) == pytest.approx(1 / 1000)


def test_the_fraction_follows_recent_steps():
    assert fraction_after([0.1] * 200 + [0.2] * (WINDOW // 2)) == pytest.approx(0.00122, rel=0.01)
    assert fraction_after([0.1] * 200 + [0.2] * WINDOW) == pytest.approx(0.00218, rel=0.01), "and makes up for the lag"
    assert fraction_after([0.1] * 200 + [0.2] * 800) == pytest.approx(0.002, rel=1e-3)


def test_a_pause_at_most_doubles_the_fraction_and_is_made_up_for():
    pause = [0.1] * 30 + [9.0]
    assert fraction_after(pause) == pytest.approx(0.00189, rel=0.01)
    assert fraction_after(pause + [0.1] * 400) == pytest.approx(0.001, rel=0.02)
    assert fraction_after([0.1] * 30 + [90.0]) == pytest.approx(0.002)


@pytest.mark.parametrize("seed", range(3))
def test_the_fractions_of_all_steps_add_up_to_the_training(seed):
    """A quarter of the steps take three times as long, as on a busy machine, and some wait for a validation."""
    rng, fraction, spent, total = np.random.default_rng(seed), StepFraction(10**9), 0.0, 0.0
    while spent < 100.0:
        fraction.update(spent / 100.0)
        total += fraction.value
        spent += 0.05 * rng.choice([1.0, 3.0], p=[0.75, 0.25]) + 2.0 * (rng.random() < 0.002)
    assert total == pytest.approx(1.0, abs=0.05)


def test_a_resumed_training_is_timed_from_scratch():
    """90 of 100 seconds were spent on another machine; here a step takes half a second."""
    assert fraction_after([0.5] * 15, spent=90.0) == pytest.approx(0.005)


def test_a_stopped_clock_changes_nothing():
    assert fraction_after([0.0] * 30, max_steps=500) == 1 / 500


@pytest.mark.parametrize(("early_steps", "early_time"), [(0.3, 0.4), (0.0, 0.4), (1.0, 0.4), (0.5, 1.0), (0.2, 3.0)])
def test_the_clock_tells_how_many_steps_are_made(early_steps, early_time):
    """A clock that runs while 1000 steps are made, the early ones of another duration."""
    steps = 1000
    durations = [early_time if step < early_steps * steps else 1.0 for step in range(steps)]
    for step in range(0, steps + 1, 50):
        elapsed = sum(durations[:step]) / sum(durations)
        assert steps_made(elapsed, early_steps, early_time) == pytest.approx(step / steps, abs=1e-6)
    assert steps_made(1.0, early_steps, early_time) <= 1
