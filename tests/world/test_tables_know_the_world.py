"""Every situation the plays lead a service into has its line in that service's table."""

from typing import Any

from events.decision import GaveUp
from inventory_svc.decide import Shelf
from payment_svc.payment import UndoRefused
from tests.decide.test_tables_are_complete import TABLES
from tests.world.explore import explore
from tests.world.plays import (
    ABOVE_LIMIT,
    ADA,
    NO_PEARS,
    PLENTY,
    approval_expired,
    cancelled,
    posted,
    published,
    timed_out,
)
from tests.world.stage import Stage

PLAYS = [
    ((published(ADA, ABOVE_LIMIT), cancelled(ADA), timed_out(ADA)), PLENTY, 0),
    ((published(ADA, ABOVE_LIMIT), cancelled(ADA), timed_out(ADA)), NO_PEARS, 0),
    ((posted(ADA), timed_out(ADA)), PLENTY, 0),
    ((posted(ADA), timed_out(ADA)), NO_PEARS, 0),
    ((published(ADA, ABOVE_LIMIT), approval_expired(ADA)), PLENTY, 1),
    ((published(ADA), timed_out(ADA)), PLENTY, 1),
]


def situation(state: Any, message: Any) -> tuple[object, ...]:
    """What makes two lines of a table different situations."""
    row = state.reservation if isinstance(state, Shelf) else state
    call = type(message.call) if isinstance(message, GaveUp | UndoRefused) else None
    done = message.maybe_done if isinstance(message, GaveUp) else None
    return getattr(row, "status", None), getattr(row, "withdrawn", None), type(message), call, done


def test_tables_know_the_world() -> None:
    met: set[tuple[object, ...]] = set()
    for happenings, stock, acts in PLAYS:
        stage = Stage(ADA, stock=stock)
        explore(stage, stage.start(*happenings, acts=acts))
        met |= {(service, *situation(state, message)) for service, state, message in stage.situations}
    written = {
        (service, *situation(row.state, row.message)) for service, table in TABLES.items() for row in table
    }
    print(f"{len(met)} situations met, {len(written)} written down")
    assert "\n".join(sorted(map(str, met - written))) == ""
