"""Every order of deliveries and every outcome of every call.

At any moment there may be a cancellation, timeouts, a decision about a held payment or its expiry, and what a
person does about a failure; and whatever was received may be received again, later, any number of times.

ENDS are all the ways an order ends. PLAYS say what happens, in how many worlds, and which ends it has. Both
are exact, so that a change of the protocol shows here; a run prints what it found.
"""

from dataclasses import dataclass
from functools import partial

import pytest

from events.decision import Command
from events.facts import Fact
from fulfillment_svc import decide as fulfillment
from fulfillment_svc.shipment import EASYPOST, Prepared, RefundEnded, RefundPending, RefundRejected
from inventory_svc.decide import Stock
from payment_svc.decide import DEFAULT, decide
from payment_svc.payment import Pending, Registered, Stands
from tests.decide.given import LIMIT_MINOR
from tests.world.explore import End, Exploration, explore
from tests.world.plays import (
    ABOVE_LIMIT,
    ADA,
    NO_PEARS,
    PLENTY,
    approval_expired,
    came_back,
    cancelled,
    posted,
    published,
    timed_out,
)
from tests.world.stage import Bug, Stage

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

    a refund that had been published failed after all
s   cancelled  released   refund_failed  -                NEEDS_MANUAL
t   cancelled  released   refund_failed  rejected         NEEDS_MANUAL
u   cancelled  released   refund_failed  fenced           NEEDS_MANUAL
v   cancelled  released   refund_failed  cancelled        NEEDS_MANUAL

    with a star: not the outside world, a person says so
A   confirmed  sold       captured       dispatched*      COMPLETED
D   cancelled  released   refunded*      -                CANCELLED
E   cancelled  released   refunded*      rejected         CANCELLED
M   cancelled  released   refunded*      fenced           CANCELLED
N   cancelled  released   refunded*      cancelled        CANCELLED
S   cancelled  released   refunded       cancelled*       CANCELLED
T   cancelled  released   refunded*      cancelled*       CANCELLED
G   placed     reserved   refund_failed  cancelled*       NEEDS_MANUAL
Q   withdrawn  reserved   refund_failed  cancelled*       NEEDS_MANUAL
"""


@dataclass(frozen=True)
class Play:
    """A person acts `acts` times on what `acts_on` failed at."""

    name: str
    happenings: tuple[Fact | Command, ...]
    worlds: int
    ends: str
    stock: tuple[Stock, ...] = PLENTY
    acts: int = 0
    acts_on: tuple[str, ...] = ("payment", "fulfillment")

    def perform(self) -> Exploration:
        stage = Stage(ADA, stock=self.stock, acts_on=self.acts_on, redrives=True)
        return explore(stage, stage.start(*self.happenings, acts=self.acts), reconciling=True)


CANCELLED, EXPIRED = cancelled(ADA), approval_expired(ADA)
LATE, LATE_AGAIN = timed_out(ADA, "payment.captured"), timed_out(ADA, "order.cancelled")
POSTED, PUBLISHED = posted(ADA), published(ADA)
DEAR_POSTED, DEAR_PUBLISHED = posted(ADA, ABOVE_LIMIT), published(ADA, ABOVE_LIMIT)

UNDISTURBED, WITHDRAWN = "abdefgh", "abdejklmnopqr"

PLAYS = [
    Play("posted", (POSTED,), 1_960, UNDISTURBED),
    Play("posted, cancelled", (POSTED, CANCELLED), 8_658, WITHDRAWN),
    Play("posted, cancelled, late", (POSTED, CANCELLED, LATE), 27_240, WITHDRAWN),
    Play("posted, cancelled, late twice", (POSTED, CANCELLED, LATE, LATE_AGAIN), 64_404, WITHDRAWN),
    Play("published", (PUBLISHED,), 1_225, UNDISTURBED),
    Play("published, cancelled, late twice", (PUBLISHED, CANCELLED, LATE, LATE_AGAIN), 51_214, WITHDRAWN),
    Play("posted, no stock", (POSTED,), 46, "c", NO_PEARS),
    Play("posted, no stock, cancelled, late", (POSTED, CANCELLED, LATE), 1_252, "cij", NO_PEARS),
    Play(
        "published, no stock, cancelled, late twice",
        (PUBLISHED, CANCELLED, LATE, LATE_AGAIN),
        2_464,
        "cij",
        NO_PEARS,
    ),
    Play("posted, dear, expired", (DEAR_POSTED, EXPIRED), 6_060, UNDISTURBED),
    Play("posted, dear, expired, late", (DEAR_POSTED, EXPIRED, LATE), 26_640, WITHDRAWN),
    Play(
        "published, dear, expired, cancelled, late",
        (DEAR_PUBLISHED, EXPIRED, CANCELLED, LATE),
        62_840,
        WITHDRAWN,
    ),
    Play("published, seen to twice", (PUBLISHED,), 61_913, UNDISTURBED + "ADEGST", acts=2),
    Play("published, late, seen to", (PUBLISHED, LATE), 84_009, WITHDRAWN + "ADEMNQS", acts=1),
    Play(
        "published, dear, expired, seen to", (DEAR_PUBLISHED, EXPIRED), 35_203, UNDISTURBED + "ADEGS", acts=1
    ),
    Play(
        "published, seen to that the customer is told",
        (PUBLISHED,),
        7_849,
        UNDISTURBED,
        acts=1,
        acts_on=("notification",),
    ),
    Play("published, the mail comes back", (PUBLISHED, came_back(ADA)), 2_702, UNDISTURBED),
]


# With a provider that gives ids, and takes on what it does later: an authorisation, a refund.
THERE = Bug("payment", partial(decide, approval_limits_minor={DEFAULT: LIMIT_MINOR}, provider="stripe"))
PLAYS_THERE = [
    ("posted", (POSTED,), UNDISTURBED),
    ("posted, cancelled, late", (POSTED, CANCELLED, LATE), WITHDRAWN),
    ("posted, dear, expired", (DEAR_POSTED, EXPIRED), UNDISTURBED),
]


@pytest.mark.parametrize(
    ("happenings", "expected"), [play[1:] for play in PLAYS_THERE], ids=[play[0] for play in PLAYS_THERE]
)
def test_every_order_ends_consistent_whatever_is_pending_on_the_way(
    happenings: tuple[Fact | Command, ...], expected: str
) -> None:
    stage = Stage(ADA, stock=PLENTY, redrives=True, bug=THERE)
    found = explore(stage, stage.start(*happenings), reconciling=True)
    ends = {order for orders in found.ends for order in orders}
    print(f"{found.worlds} worlds, {found.moves} moves, ends {in_dead_letters(ends)}")
    assert in_dead_letters(ends) == expected
    assert_a_person_is_needed_only_where_an_undo_failed(ends)
    met = {type(message) for service, _, message in stage.situations if service == "payment"}
    assert {Registered, Pending, Stands} <= met


# What becomes of a payment by itself, an event of the provider's says: a pending one ends, an authorisation
# expires before its capture, a refund fails after it was published, a charge is disputed.
PLAYS_WITH_EVENTS = [
    ("posted", (POSTED,), 1, 0, False, UNDISTURBED + "st"),
    ("posted, two events", (POSTED,), 2, 0, True, "abdefgt"),
    ("posted, seen to", (POSTED,), 1, 1, True, "abdefgtADE"),
    ("posted, cancelled", (POSTED, CANCELLED), 1, 0, True, WITHDRAWN + "tuv"),
]


@pytest.mark.parametrize(
    ("happenings", "events", "acts", "brief", "expected"),
    [play[1:] for play in PLAYS_WITH_EVENTS],
    ids=[play[0] for play in PLAYS_WITH_EVENTS],
)
def test_every_order_ends_consistent_whatever_becomes_of_its_payment_by_itself(
    happenings: tuple[Fact | Command, ...], events: int, acts: int, brief: bool, expected: str
) -> None:
    stage = Stage(ADA, stock=PLENTY, brief=brief, bug=THERE)
    found = explore(stage, stage.start(*happenings, acts=acts, events=events), reconciling=True)
    ends = {order for orders in found.ends for order in orders}
    print(f"{found.worlds} worlds, {found.moves} moves, ends {in_dead_letters(ends)}")
    assert in_dead_letters(ends) == expected
    assert_a_person_is_needed_only_where_an_undo_failed(ends)


# With a carrier that gives ids, and of which it is known later whether a label's money comes back: if it does
# not, the order has gone on meanwhile.
LABELS = Bug("fulfillment", partial(fulfillment.decide, carrier=EASYPOST))
PLAYS_WITH_LABELS = [
    ("posted", (POSTED,), 0),
    ("posted, cancelled", (POSTED, CANCELLED), 0),
    ("posted, cancelled, seen to", (POSTED, CANCELLED), 2),
]


@pytest.mark.parametrize(
    ("happenings", "acts"),
    [play[1:] for play in PLAYS_WITH_LABELS],
    ids=[play[0] for play in PLAYS_WITH_LABELS],
)
def test_every_order_ends_consistent_whatever_becomes_of_its_label(
    happenings: tuple[Fact | Command, ...], acts: int
) -> None:
    stage = Stage(
        ADA, stock=PLENTY, redrives=not acts, brief=bool(acts), bug=LABELS, acts_on=("fulfillment",)
    )
    found = explore(stage, stage.start(*happenings, acts=acts), reconciling=True)
    ends = {order for orders in found.ends for order in orders}
    print(f"{found.worlds} worlds, {found.moves} moves, ends {in_dead_letters(ends)}")
    assert_a_person_is_needed_only_where_an_undo_failed(ends)
    # Customers have their money back, and their order's end, whatever becomes of the label.
    late = {end for end in ends if end.fulfillment == "cancel_failed" and end.order == "cancelled"}
    assert {end.payment for end in late} == {"refunded"}
    met = {type(message) for service, _, message in stage.situations if service == "fulfillment"}
    assert {Prepared, RefundPending, RefundEnded, RefundRejected} <= met


def letters() -> dict[tuple[str, ...], str]:
    lines = [line.split() for line in ENDS.splitlines() if line[:1].strip()]
    return {tuple(statuses): letter for letter, *statuses in lines}


def in_dead_letters(ends: set[End]) -> str:
    """The ends by their dead letters in ENDS, and in full if they are not there."""
    known = letters()
    found = {(end.order, end.inventory, end.payment, end.fulfillment, end.verdict) for end in ends}
    strange = "".join(f"; {' '.join(end)}" for end in sorted(found - known.keys()))
    dead_letters_found = sorted(
        (known[end] for end in found & known.keys()), key=lambda one: (one.isupper(), one)
    )
    return "".join(dead_letters_found) + strange


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.name)
def test_every_order_ends_consistent(play: Play) -> None:
    found = play.perform()
    ends = {order for orders in found.ends for order in orders}
    print(f"{play.name}: {found.worlds} worlds, {found.moves} moves, ends {in_dead_letters(ends)}")
    assert (found.worlds, in_dead_letters(ends)) == (play.worlds, play.ends)
    assert_everyone_is_notified(ends, by_a_person="notification" in play.acts_on)
    assert_a_person_is_needed_only_where_an_undo_failed(ends)


def assert_everyone_is_notified(ends: set[End], *, by_a_person: bool) -> None:
    """A customer is told of every end, or cannot be reached; of an order left open, nothing is said."""
    known_how = {"notified", "failed"} | ({"notified*"} if by_a_person else set())
    for end in ends:
        wanted = known_how if end.order in ("confirmed", "cancelled") else {"-"}
        assert {other.notification for other in ends if other[:4] == end[:4]} == wanted


def assert_a_person_is_needed_only_where_an_undo_failed(ends: set[End]) -> None:
    for end in ends:
        failed = end.payment == "refund_failed" or end.fulfillment in ("cancel_failed", "dispatch_failed")
        assert (end.verdict == "NEEDS_MANUAL") == failed


def test_every_end_is_reached_by_some_play() -> None:
    assert set(letters().values()) == {
        *(letter for play in PLAYS for letter in play.ends),
        *(letter for *_, ends in PLAYS_WITH_EVENTS for letter in ends),
    }


@pytest.mark.parametrize(
    ("happenings", "acts", "brief"),
    [((POSTED, CANCELLED), 0, False), ((POSTED, CANCELLED, LATE), 2, True)],
    ids=["cancelled", "cancelled, late, seen to"],
)
def test_the_tracker_never_says_too_soon_that_all_is_over(
    happenings: tuple[Fact | Command, ...], acts: int, brief: bool
) -> None:
    stage = Stage(ADA, stock=PLENTY, brief=brief)
    found = explore(stage, stage.start(*happenings, acts=acts), watching=True)
    print(f"{found.worlds} worlds watched")
    assert found.ends
