"""The trail of a saga: which fact came because of which, and how long that took. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from events.service import name_of
from saga_tracker.steps import STEPS

_LED_TO: dict[tuple[str, str], list[str]] = {}
for _step in STEPS:
    for _answer in _step.answers:
        _LED_TO.setdefault((_step.service, name_of(_answer)), []).append(name_of(_step.heard))


@dataclass(frozen=True, slots=True)
class Cause:
    """The fact that another came from. `directly`: without a call to the outside or a person in between."""

    fact_id: UUID
    name: str
    stated_at: datetime
    read_at: datetime
    directly: bool


def cause_of(fact: Mapping[str, Any], timeline: Sequence[Mapping[str, Any]]) -> Cause | None:
    """What a row of the trail came from, or None where it began with a request.

    A fact's causation id names another fact, or else the call or the request whose outcome it is. Then it
    is the last fact before it that made it this service's turn to state such a fact.
    """
    for other in timeline:
        if other["fact_id"] == fact["causation_id"]:
            return _cause(other, directly=True)
    led_to = _LED_TO.get((fact["stated_by"], name_of(fact["wire_name"])), ())
    earlier = [
        other
        for other in timeline
        if name_of(other["wire_name"]) in led_to and other["read_at"] <= fact["read_at"]
    ]
    if not earlier:
        return None
    return _cause(max(earlier, key=lambda other: (other["read_at"], other["fact_id"])), directly=False)


def why_doubtful(fact: Mapping[str, Any], cause: Cause | None, limit: timedelta) -> str | None:
    """Why what a fact says of the time cannot be true, by more than `limit`; None where it can.

    That it was read late is no reason: it may have been published late, or the tracker was away.
    """
    stated_at: datetime = fact["stated_at"]
    if stated_at > fact["read_at"] + limit:
        return "it was read before that"
    if cause is not None and stated_at < min(cause.stated_at, cause.read_at) - limit:
        return "what it came from was stated after that"
    return None


def _cause(row: Mapping[str, Any], *, directly: bool) -> Cause:
    return Cause(row["fact_id"], name_of(row["wire_name"]), row["stated_at"], row["read_at"], directly)
