"""What the saga tracker publishes: who is late, and what a person asks of a service."""

from typing import Annotated
from uuid import UUID

from pydantic import NonNegativeInt, StringConstraints

from events.facts.base import Fact, Note, Person, Reason, SupersededFact, Token

ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,32}$")]


class SagaRedriven(Fact, wire="saga.redriven.v1"):
    """A step is late: its service was sent the fact that made it its turn once more, under the same id."""

    service: ServiceName
    redriven_id: UUID


class SagaTimedOut(Fact, wire="saga.timed_out.v2"):
    """A step of this order is late for good; order_svc, which owns its fate, decides what follows.

    `customer` is whose order it is, as far as is known: order_svc may not know of it. `reason`: who was late,
    and why, as far as that is known.
    """

    waiting_for: Reason
    customer: Token | None = None
    reason: Reason | None = None


class SagaTimedOutV1(SupersededFact, wire="saga.timed_out.v1"):
    """The first shape of `timed_out`: whoever owns the order's fate had to know of it."""

    waiting_for: Reason

    def upcast(self) -> SagaTimedOut:
        """The same fact, of a customer it does not name."""
        return SagaTimedOut(order_id=self.order_id, waiting_for=self.waiting_for)


class SagaOverdue(Fact, wire="saga.overdue.v1"):
    """A step that no withdrawal can replace is late for good: a person should look, until it is done."""

    service: ServiceName
    because_of_id: UUID
    waiting_for: Reason


class ApprovalExpired(Fact, wire="saga.approval_expired.v1"):
    """Nobody decided in time about a held payment: it is refused."""

    waited_seconds: NonNegativeInt


class RetryRequested(Fact, wire="saga.retry_requested.v1"):
    """A person has a service try again what failed for good."""

    service: ServiceName
    by: Person
    note: Note


class Settled(Fact, wire="saga.settled.v1"):
    """A person settled outside what a service could not do: it states its missing fact, with their name."""

    service: ServiceName
    by: Person
    note: Note
