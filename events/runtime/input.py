"""What reaches a service's `decide`, and what it descends from."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from events.messaging.subscriber import Arrived


@dataclass(frozen=True, slots=True)
class Input:
    """A fact that was received, the outcome of a call, or a command, on its way to `decide`.

    A fact counts once by its id; an outcome while its call's row is there; a command always. `causation_id`
    is the fact's, the call's or the command's id. `done` receives the order's state once it is committed.
    `again`: it came by way of the tracker, as that keeps it: perhaps of an older release, which knows fewer
    fields. `failures`: how often this service has failed at it.
    """

    kind: Literal["fact", "outcome", "command"]
    order_id: UUID
    payload: Any
    causation_id: UUID
    traceparent: str | None
    done: "asyncio.Future[Any] | None" = field(default=None, compare=False)
    again: bool = False
    failures: int = 0

    @property
    def in_inbox(self) -> bool:
        """Whether it counts once by an entry in the inbox, which the outcome of a call does by its row."""
        return self.kind == "fact" or (self.kind == "command" and self.payload.once_id is not None)

    @property
    def name(self) -> str:
        """A fact's wire name; the type of a command or an outcome."""
        return self.payload.wire_name if self.kind == "fact" else type(self.payload).__name__


@dataclass(frozen=True, slots=True)
class Entry:
    """What waits for the next batch: a delivery, decoded when its batch begins, or an input.

    `locked_since`: when it first met a lock, by `time.monotonic`; 0 if it has not.
    """

    message: Arrived | None = None
    item: Input | None = None
    locked_since: float = 0.0
