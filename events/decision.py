"""The vocabulary of a service's `decide`: its input, and the decision it makes.

    decide(state, message) -> Decision(state, facts, calls)

A message is a fact, a command (a request of a person or a program) or the outcome of a call it asked for.
It has no clock, no randomness and no I/O; the runtime does everything else.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

StateT_co = TypeVar("StateT_co", covariant=True)
FactT_co = TypeVar("FactT_co", covariant=True)
CallT_co = TypeVar("CallT_co", covariant=True)
RetryPolicy = Literal["step", "undo", "message", "pending"]


@dataclass(frozen=True, slots=True)
class Decision(Generic[StateT_co, FactT_co, CallT_co]):
    """What a service makes of a message: its next state, facts to publish, calls to make."""

    state: StateT_co
    facts: tuple[FactT_co, ...] = ()
    calls: tuple[CallT_co, ...] = ()


class Command(BaseModel):
    """A request that concerns one order; the answer is read off the state it leads to.

    One with a `once_id` counts once, as a fact does: it is entered in the inbox by it.
    """

    model_config = ConfigDict(frozen=True)

    order_id: UUID

    @property
    def once_id(self) -> UUID | None:
        """By what its repetitions are known; None where each counts."""
        return None


class Call(BaseModel):
    """Something to ask of the outside world, durably, until its outcome is known.

    A subclass names itself in the calls table: `class Capture(Call, name="capture")`. Its `retry_policy` says
    how many attempts it is worth: those of a `step` that can still be called off, of an `undo` whose failure
    is a case for a person, of a `message` that may arrive late, or of what is `pending` elsewhere for days.

    What was definitely refused is refused for ever under its idempotency key; the next `round` has another.
    """

    model_config = ConfigDict(frozen=True)

    name: ClassVar[str]
    retry_policy: ClassVar[RetryPolicy]

    order_id: UUID
    round: int = 1

    def __init_subclass__(cls, *, name: str = "", retry_policy: RetryPolicy = "step", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, name: str = "", retry_policy: RetryPolicy = "step", **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.name, cls.retry_policy = name, retry_policy

    @property
    def party(self) -> str | None:
        """Whom it asks, where the call itself knows, by the name that errors begin with."""
        return None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, process and retry of this call, so that it counts once."""
        key = f"{self.name}:{self.order_id}"
        return key if self.round == 1 else f"{key}:{self.round}"


class Outcome:
    """What became of a call. Outcomes are small frozen dataclasses beside the `decide` they inform."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class GaveUp(Outcome, Generic[CallT_co]):
    """Every attempt failed. `maybe_done` says that the work may have been done all the same."""

    call: CallT_co
    reason: str
    maybe_done: bool


class CausalityViolated(Exception):
    """A fact arrived whose own cause this service never committed: data was lost or a fact forged."""


class Contradiction(Exception):
    """A fact that contradicts what is known. No delay makes it true: it is a dead letter at once.

    `reason` is a short code; the text says what it contradicts, and is logged: no amount, no customer.
    """

    def __init__(self, detail: str, reason: str = "contradicts") -> None:
        super().__init__(detail)
        self.reason = reason
