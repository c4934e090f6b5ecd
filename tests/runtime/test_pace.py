"""How long a service rests between batches: not at all where work is seldom, long where it never ends."""

import pytest

from events.runtime.pace import Pace

WORK_SECONDS = 0.004


def play(pace: Pace, *, idle_seconds: float, batches: int = 1_000) -> float:
    """The last rest after so many batches with so much time between them."""
    rest = 0.0
    for _ in range(batches):
        pace.idled(idle_seconds)
        rest = pace.rest_seconds(WORK_SECONDS)
    return rest


def test_where_there_is_always_work_it_rests_longer_than_it_works() -> None:
    assert play(Pace(3, 1), idle_seconds=0) == pytest.approx(3 * WORK_SECONDS, rel=0.01)


def test_where_there_is_seldom_work_nobody_waits() -> None:
    assert play(Pace(3, 1), idle_seconds=0.1) < WORK_SECONDS / 4


def test_a_first_batch_after_a_long_pause_counts_as_one_of_an_idle_service() -> None:
    pace = Pace(3, 1)
    play(pace, idle_seconds=0)
    assert play(pace, idle_seconds=10, batches=1) < WORK_SECONDS / 50


def test_a_moment_without_work_makes_no_idle_service() -> None:
    pace = Pace(3, 1)
    play(pace, idle_seconds=0)
    assert play(pace, idle_seconds=0.02, batches=1) > 2.5 * WORK_SECONDS


def test_no_rest_is_longer_than_its_cap() -> None:
    assert Pace(3, 0.05).rest_seconds(20) == 0.05
