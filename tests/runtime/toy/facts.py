"""What the toy receives and publishes."""

from typing import Literal

from events.facts.base import Fact

# What the outside world does with one attempt of a call:
#   answers         does it and answers
#   refuses         a definite no
#   fails           does nothing and says so
#   loses           does it, but the answer is lost
#   hangs           does nothing and never answers
#   hangs_done      does it and never answers
#   breaks          an exception that nobody expected
#   waits           answers once the test opens the gate
Behaviour = Literal["answers", "refuses", "fails", "loses", "hangs", "hangs_done", "breaks", "waits"]


class Bumped(Fact, wire="toy.bumped.v1"):
    """The count of this order goes up."""

    by: int = 1
    label: str | None = None


class Poisoned(Fact, wire="toy.poisoned.v1"):
    """A fact that cannot be handled: `decide` raises, or the database refuses its state or cannot hold it."""

    how: Literal["decide", "contradicts", "store", "too_long_for_the_index"]


class RingWanted(Fact, wire="toy.ring_wanted.v1"):
    """Ring outside, which behaves like `plan`: an entry an attempt, the last one from then on."""

    plan: tuple[Behaviour, ...] = ("answers",)
    look_up_fails: bool = False


class Counted(Fact, wire="toy.counted.v1"):
    """How far the count has come."""

    count: int


class Answered(Fact, wire="toy.answered.v1"):
    """What came of a ring."""

    answer: str
    maybe_done: bool = False
