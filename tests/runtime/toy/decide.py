"""What the toy makes of each fact, command and outcome."""

from dataclasses import dataclass, replace
from typing import assert_never
from uuid import UUID

from events.decision import Call, Command, Contradiction, Decision, GaveUp, Outcome
from tests.runtime.toy.facts import Answered, Behaviour, Bumped, Counted, Poisoned, RingWanted

LONGER_THAN_AN_INDEX_ENTRY = 50_000


class Bump(Command):
    """Count up. By nothing is a mistake, and raises."""

    by: int = 1


class RaiseTo(Command):
    """Count up to this, unless it is there already: asking twice is asking once, as it should be."""

    count: int


class Ring(Call, name="ring"):
    """Ring once."""

    plan: tuple[Behaviour, ...]
    look_up_fails: bool = False


@dataclass(frozen=True, slots=True)
class Rang(Outcome):
    """A ring was answered or refused."""

    call: Ring
    answer: str


@dataclass(frozen=True, slots=True)
class Tally:
    """One order's count, and the answer to its ring."""

    order_id: UUID
    count: int = 0
    label: str | None = None
    answer: str | None = None


def decide(
    tally: Tally | None, message: Bumped | Poisoned | RingWanted | Bump | RaiseTo | Rang | GaveUp[Ring]
) -> Decision[Tally | None, Counted | Answered, Ring]:
    match message:
        case Bumped():
            return count(tally, message.order_id, message.by, message.label)
        case Bump():
            if message.by == 0:
                raise ValueError("nothing to count")
            return count(tally, message.order_id, message.by, None)
        case RaiseTo():
            reached = tally.count if tally else 0
            if reached >= message.count:
                return Decision(tally)
            return count(tally, message.order_id, message.count - reached, None)
        case Poisoned():
            return suffer(tally, message)
        case RingWanted():
            ring = Ring(order_id=message.order_id, plan=message.plan, look_up_fails=message.look_up_fails)
            return Decision(tally or Tally(message.order_id), calls=(ring,))
        case Rang():
            return answered(tally, message.call.order_id, message.answer, maybe_done=False)
        case GaveUp():
            return answered(tally, message.call.order_id, message.reason, maybe_done=message.maybe_done)
        case _:
            assert_never(message)


def count(
    tally: Tally | None, order_id: UUID, by: int, label: str | None
) -> Decision[Tally | None, Counted | Answered, Ring]:
    before = tally or Tally(order_id)
    after = replace(before, count=before.count + by, label=label or before.label)
    return Decision(after, facts=(Counted(order_id=order_id, count=after.count),))


def suffer(tally: Tally | None, poison: Poisoned) -> Decision[Tally | None, Counted | Answered, Ring]:
    before = tally or Tally(poison.order_id)
    match poison.how:
        case "decide":
            raise ArithmeticError("this fact makes no sense")
        case "contradicts":
            raise Contradiction("something else is known of this order")
        case "store":
            return Decision(replace(before, count=-1))
        case "too_long_for_the_index":
            # Compressed away, unless it does not repeat itself.
            label = "".join(str(number) for number in range(LONGER_THAN_AN_INDEX_ENTRY))
            return Decision(replace(before, label=label))


def answered(
    tally: Tally | None, order_id: UUID, answer: str, *, maybe_done: bool
) -> Decision[Tally | None, Counted | Answered, Ring]:
    fact = Answered(order_id=order_id, answer=answer, maybe_done=maybe_done)
    return Decision(replace(tally or Tally(order_id), answer=answer), facts=(fact,))
