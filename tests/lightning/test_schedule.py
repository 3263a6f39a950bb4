"""The part of a training by the clock that a step is."""

import pytest

from dv.lightning.schedule import LAST_STEPS, SLOW_STEPS, Pace


def seen(seconds, most=10**9, spent=0.0, limit=100.0):
    """The share before a step after steps that took so long, of a training of ``limit`` seconds."""
    pace = Pace(most)
    for duration in (*seconds, 0.0):
        pace.see(spent / limit)
        spent += duration
    return pace.share


def test_a_slow_start_says_nothing():
    assert seen([5.0] * SLOW_STEPS + [0.1] * 20) == pytest.approx(0.001)
    assert seen([5.0] * SLOW_STEPS, most=500) == 1 / 500


def test_steps_are_no_less_than_one_of_those_allowed():
    assert seen([0.1] * 50, most=300) == 1 / 300
    assert seen([0.1] * 50, most=3000) == pytest.approx(1 / 1000)


def test_it_is_that_of_the_steps_of_late():
    assert seen([0.1] * 200 + [0.2] * LAST_STEPS) == pytest.approx(0.002)


def test_pauses_do_not_count():
    assert seen([0.1] * 30 + [9.0] + [0.1] * 30 + [9.0] + [0.1] * 30) == pytest.approx(0.001)


def test_a_resumed_training_is_timed_anew():
    """Another machine's 90 of 100 seconds are over; here a step takes half of one."""
    assert seen([0.5] * 15, spent=90.0) == pytest.approx(0.005)


def test_a_clock_that_stands_still_changes_nothing():
    assert seen([0.0] * 30, most=500) == 1 / 500
