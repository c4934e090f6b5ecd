"""Every order of deliveries, every outcome of every call, a withdrawal and a redelivery at any moment.

ENDS are all the ways an order ends. PLAYS say what happens, in how many worlds, and which ends it has. Both
are exact, so that a change of the protocol shows here; a run prints what it found.
"""

from dataclasses import dataclass
from typing import Literal

import pytest

from events.decision import Command
from events.facts import Fact
from inventory_svc.decide import Stock
from tests.world.explore import End, Exploration, explore
from tests.world.plays import (
    ABOVE_LIMIT,
    ADA,
    NO_PEARS,
    PLENTY,
    cancelled,
    posted,
    published,
    timed_out,
)
from tests.world.stage import Stage

ENDS = """
    order      inventory  payment        fulfillment      verdict
a   confirmed  sold       captured       dispatched       COMPLETED
b   confirmed  sold       captured       dispatch_failed  NEEDS_MANUAL
c   cancelled  rejected   -              -                CANCELLED
d   cancelled  released   declined       -                CANCELLED
e   cancelled  released   refunded       rejected         CANCELLED
f   placed     reserved   refund_failed  -                NEEDS_MANUAL
g   placed     reserved   refund_failed  rejected         NEEDS_MANUAL
h   placed     reserved   captured       cancel_failed    NEEDS_MANUAL
i   cancelled  rejected   fenced         fenced           CANCELLED
j   cancelled  fenced     fenced         fenced           CANCELLED
k   cancelled  released   fenced         fenced           CANCELLED
l   cancelled  released   declined       fenced           CANCELLED
m   cancelled  released   refunded       fenced           CANCELLED
n   cancelled  released   refunded       cancelled        CANCELLED
o   withdrawn  reserved   refund_failed  fenced           NEEDS_MANUAL
p   withdrawn  reserved   refund_failed  rejected         NEEDS_MANUAL
q   withdrawn  reserved   refund_failed  cancelled        NEEDS_MANUAL
r   withdrawn  reserved   captured       cancel_failed    NEEDS_MANUAL
"""


@dataclass(frozen=True)
class Play:
    name: str
    happenings: tuple[Fact | Command, ...]
    worlds: int
    ends: str
    stock: tuple[Stock, ...] = PLENTY
    redelivered: Literal["never", "same id", "new id"] = "never"

    def perform(self) -> Exploration:
        stage = Stage(ADA, stock=self.stock, inbox=self.redelivered != "new id")
        start = stage.start(*self.happenings, redeliveries=0 if self.redelivered == "never" else 1)
        return explore(stage, start)


CANCELLED, LATE = cancelled(ADA), timed_out(ADA)
POSTED, PUBLISHED = posted(ADA), published(ADA)
DEAR_POSTED, DEAR_PUBLISHED = posted(ADA, ABOVE_LIMIT), published(ADA, ABOVE_LIMIT)

UNDISTURBED, WITHDRAWN = "abdefgh", "abdejklmnopqr"

PLAYS = [
    Play("posted", (POSTED,), 1_808, UNDISTURBED),
    Play("posted, cancelled", (POSTED, CANCELLED), 8_156, WITHDRAWN),
    Play("posted, cancelled and late", (POSTED, CANCELLED, LATE), 25_772, WITHDRAWN),
    Play("published", (PUBLISHED,), 1_115, UNDISTURBED),
    Play("published, late", (PUBLISHED, LATE), 4_501, WITHDRAWN),
    Play("published, cancelled and late", (PUBLISHED, CANCELLED, LATE), 13_922, WITHDRAWN),
    Play("posted, no stock", (POSTED,), 46, "c", NO_PEARS),
    Play("posted, no stock, cancelled and late", (POSTED, CANCELLED, LATE), 1_252, "cij", NO_PEARS),
    Play("published, no stock, cancelled and late", (PUBLISHED, CANCELLED, LATE), 640, "cij", NO_PEARS),
    Play("posted, dear", (DEAR_POSTED,), 1_856, UNDISTURBED),
    Play("posted, dear, cancelled and late", (DEAR_POSTED, CANCELLED, LATE), 26_698, WITHDRAWN),
    Play("published, dear, cancelled and late", (DEAR_PUBLISHED, CANCELLED, LATE), 14_404, WITHDRAWN),
    Play("posted, late, twice", (POSTED, LATE), 84_291, WITHDRAWN, redelivered="same id"),
    Play("posted, dear, late, restated", (DEAR_POSTED, LATE), 87_073, WITHDRAWN, redelivered="new id"),
    Play("published, dear, late, twice", (DEAR_PUBLISHED, LATE), 46_694, WITHDRAWN, redelivered="same id"),
    Play("published, dear, late, restated", (DEAR_PUBLISHED, LATE), 46_694, WITHDRAWN, redelivered="new id"),
    Play(
        "published, no stock, late, restated", (PUBLISHED, LATE), 1_607, "cij", NO_PEARS, redelivered="new id"
    ),
]


def letters() -> dict[tuple[str, ...], str]:
    _, _, *lines = ENDS.splitlines()
    return {tuple(statuses): letter for letter, *statuses in map(str.split, lines)}


def in_letters(ends: set[End]) -> str:
    """The ends by their letters in ENDS, and in full if they are not there."""
    known = letters()
    found = {(end.order, end.inventory, end.payment, end.fulfillment, end.verdict) for end in ends}
    strange = "".join(f"; {' '.join(end)}" for end in sorted(found - known.keys()))
    return "".join(sorted(known[end] for end in found & known.keys())) + strange


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.name)
def test_every_order_ends_consistent(play: Play) -> None:
    found = play.perform()
    ends = {order for orders in found.ends for order in orders}
    print(f"{play.name}: {found.worlds} worlds, {found.moves} moves, ends {in_letters(ends)}")
    assert (found.worlds, in_letters(ends)) == (play.worlds, play.ends)
    assert_everyone_is_told(ends)
    assert_a_person_is_needed_only_where_an_undo_failed(ends)


def assert_everyone_is_told(ends: set[End]) -> None:
    """A customer is told of every end, or cannot be reached; of an order left open, nothing is said."""
    for end in ends:
        wanted = {"notified", "failed"} if end.order in ("confirmed", "cancelled") else {"-"}
        assert {other.notification for other in ends if other[:4] == end[:4]} == wanted


def assert_a_person_is_needed_only_where_an_undo_failed(ends: set[End]) -> None:
    for end in ends:
        failed = end.payment == "refund_failed" or end.fulfillment in ("cancel_failed", "dispatch_failed")
        assert (end.verdict == "NEEDS_MANUAL") == failed


def test_every_end_is_reached_by_some_play() -> None:
    assert set(letters().values()) == {letter for play in PLAYS for letter in play.ends}
