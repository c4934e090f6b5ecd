"""The shapes in which the tracker answers over HTTP. Ages are in seconds, by the database's clock."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel

from events.http.problems import Problem
from events.http.tokens import Role
from events.service import name_of
from saga_tracker.availability import Availability
from saga_tracker.causes.cause import DEAD_LETTER, Cause, Waiting, act_about
from saga_tracker.causes.repository import Found
from saga_tracker.projection import State
from saga_tracker.reading.reader import Progress
from saga_tracker.settings import TrackerSettings
from saga_tracker.timeline import causation_of, why_doubtful

# --- Where a page ended, as text that the next request gives back


MAX_CURSOR_CHARACTERS = 200

Cursor = Annotated[
    str | None, Query(max_length=MAX_CURSOR_CHARACTERS, description="`next_cursor` of a page.")
]


def cursor_after(at: datetime, row_id: UUID) -> str:
    """The cursor of a page whose last row is this one."""
    return urlsafe_b64encode(f"{at.isoformat()} {row_id}".encode()).decode()


def place_in(cursor: str) -> tuple[datetime, UUID]:
    """Where the page before ended. Raises Problem for what no page has given."""
    try:
        at, row_id = urlsafe_b64decode(cursor).decode().split(" ")
        place = datetime.fromisoformat(at), UUID(row_id)
        if place[0].tzinfo is None:
            raise ValueError("an instant needs an offset")
    except (ValueError, binascii.Error):
        raise Problem(422, "the cursor is not one that this endpoint has given") from None
    return place


class WaitView(BaseModel):
    """Any one of `facts` from `service` ends it; `person` says that somebody has to act for it.

    `due_at`: when the tracker does something about it. `redriven_at`: when it sent the service the fact
    before it once more. `overdue_at`: when it gave up that the service will answer by itself. `service_down`:
    the service cannot work, so its time stands still. `service_locked`: some of its orders, this one perhaps,
    wait for a lock. `cause`: why the service has not answered, by its own word when it was asked last; `act`:
    what a person can do about it.
    """

    service: str
    facts: list[str]
    since: datetime
    because_of: str
    because_of_id: UUID
    person: bool
    due_at: datetime | None = None
    redriven_at: datetime | None = None
    overdue_at: datetime | None = None
    service_down: "OutageView | None" = None
    service_locked: "LockView | None" = None
    cause: Cause | None = None
    act: str | None = None


class OutageView(BaseModel):
    """Since when a service has been down, and until when no order is late for that."""

    since: datetime
    why: str
    stands_still_until: datetime


class LockView(BaseModel):
    """Since when orders of a service wait for a lock in its database, and which session holds that."""

    since: datetime
    session: str


class SagaView(BaseModel):
    """Where one order stands. Ages are in seconds, by the database's clock.

    `reconstructed`: some of its facts were never read, and follow from what the services say.
    """

    order_id: UUID
    state: State
    since: datetime
    in_state_seconds: float
    waits: list[WaitView]
    timed_out: bool
    started_at: datetime
    ended_at: datetime | None
    duration_seconds: float
    reason: str | None
    trace_id: str | None
    fact_count: int
    reconstructed: bool = False


class CausationView(BaseModel):
    """The fact that led to another. Not `directly`: a call to the outside or a person was in between."""

    fact_id: UUID
    name: str
    directly: bool


class FactView(BaseModel):
    """One fact of a saga's timeline, and how long after its beginning and its cause it was read.

    `stated_at` is what its publisher says of the time; `doubtful` says why that cannot be true.
    """

    fact_id: UUID
    name: str
    wire_name: str
    stated_by: str
    stated_at: datetime
    doubtful: str | None
    read_at: datetime
    causation_id: UUID | None
    causation: CausationView | None
    since_start_seconds: float
    since_causation_seconds: float | None
    stream_offset: int
    body: dict[str, Any]


class DeadLetterOfSaga(BaseModel):
    """A message that a service could not handle for a saga, and what has become of that."""

    letter_id: UUID
    service: str
    reason: str
    wire_name: str | None
    state: str


class SagaWithTimeline(SagaView):
    """A saga and every fact of it, in the order in which they were read, and where to see its trace.

    `dead_letters`: the last messages of it that a service gave up, whatever has become of them.
    """

    trace_url: str | None
    dead_letters: list[DeadLetterOfSaga]
    facts: list[FactView]


class SagaPage(BaseModel):
    """Some sagas; `next_cursor` asks for those after them."""

    sagas: list[SagaView]
    next_cursor: str | None


class MinuteView(BaseModel):
    """How many sagas in the minute that began then."""

    minute: datetime
    sagas: int


class DurationView(BaseModel):
    """How long the last sagas took that ended in this state."""

    state: State
    sagas: int
    p50_seconds: float
    p99_seconds: float


class StreamView(BaseModel):
    """How far the view has come. `lag` is about how many messages it is behind the stream."""

    reading: bool
    stream_offset: int
    lag: int
    last_message_seconds_ago: float
    unreadable: int


class GapView(BaseModel):
    """Facts between these instants were never read; None is the beginning."""

    why: str
    after_at: datetime | None
    before_at: datetime


class Stats(BaseModel):
    """Figures about all sagas. `leader` is the tracker that acts on deadlines now."""

    states: dict[State, int]
    timed_out: int
    oldest_waiting: SagaView | None
    started_per_minute: list[MinuteView]
    ended_per_minute: list[MinuteView]
    durations: list[DurationView]
    stream: StreamView
    leader: str | None
    gaps: list[GapView] = []


def saga_with_timeline(
    saga: Mapping[str, Any],
    timeline: Sequence[Mapping[str, Any]],
    letters: Sequence[Mapping[str, Any]],
    settings: TrackerSettings,
    availability: Availability,
    role: Role,
) -> SagaWithTimeline:
    """A row of the view and the rows of its timeline, as somebody in this role may see them.

    Its trace is a page of Jaeger's, if there is one.
    """
    timeline = [{**fact, "body": as_seen_by(role, fact["body"], settings)} for fact in timeline]
    doubt = timedelta(seconds=settings.clock_doubt_seconds)
    facts = [_fact(fact, timeline, saga["started_at"], doubt) for fact in timeline]
    jaeger_url = settings.jaeger_url
    trace_url = f"{jaeger_url}/trace/{saga['trace_id']}" if jaeger_url and saga["trace_id"] else None
    waits = [
        wait | {"service_down": _outage(wait, availability), "service_locked": _lock(wait, availability)}
        for wait in saga["waits"]
    ]
    dead_letters = [DeadLetterOfSaga(**letter) for letter in letters]
    return SagaWithTimeline(
        **{**saga, "waits": waits}, trace_url=trace_url, dead_letters=dead_letters, facts=facts
    )


MASKED = "(masked)"


def as_seen_by(role: Role, body: Any, settings: TrackerSettings) -> Any:
    """What a fact says, without the fields that are hidden from this role, and with others masked."""
    if isinstance(body, list):
        return [as_seen_by(role, each, settings) for each in body]
    if not isinstance(body, dict):
        return body
    masked, hidden = settings.masked_fields, settings.hidden_fields
    return {
        name: MASKED
        if name in masked and not role.covers(masked[name])
        else as_seen_by(role, value, settings)
        for name, value in body.items()
        if name not in hidden or role.covers(hidden[name])
    }


def with_causes(
    saga: Mapping[str, Any], causes: Mapping[str, Found], letters: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """A row of the view, each wait with why it lasts, by service, and with what to do about it."""
    return {**saga, "waits": [_with_cause(saga["order_id"], wait, causes, letters) for wait in saga["waits"]]}


def _with_cause(
    order_id: UUID,
    wait: Mapping[str, Any],
    causes: Mapping[str, Found],
    letters: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    found = causes.get(wait["service"])
    cause = found.cause if found and found.because_of_id == UUID(str(wait["because_of_id"])) else None
    letter = next(
        (one for one in letters if one["service"] == wait["service"] and one["state"] == "open"), None
    )
    if letter is not None and not wait["person"]:
        cause = _given_up(letter)
    waiting = Waiting(
        order_id, wait["service"], wait["because_of"], wait["person"], wait.get("overdue_at") is not None
    )
    act = act_about(waiting, cause) if cause is not None or wait["person"] else None
    return {**wait, "cause": cause, "act": act}


def _given_up(letter: Mapping[str, Any]) -> Cause:
    """That a service gave up a message of an order, which is a dead letter."""
    return Cause(
        kind=DEAD_LETTER,
        what=letter["wire_name"] or "a message",
        attempt=letter["attempts"] or 0,
        of=letter["attempts"],
        code=letter["reason"],
        error=letter["reason"],
        letter_id=letter["letter_id"],
        since=letter["arrived_at"],
        known_at=letter["arrived_at"],
    )


def _outage(wait: Mapping[str, Any], availability: Availability) -> OutageView | None:
    outage = availability.outage_of(wait["service"])
    if outage is None or wait["person"]:
        return None
    return OutageView(since=outage.since, why=outage.why, stands_still_until=outage.until)


def _lock(wait: Mapping[str, Any], availability: Availability) -> LockView | None:
    lock = availability.lock_of(wait["service"])
    if lock is None or lock.session is None or wait["person"]:
        return None
    return LockView(since=lock.since, session=lock.session)


def stats(figures: Mapping[str, Sequence[Mapping[str, Any]]], progress: Progress) -> Stats:
    """What the queries of `figures` found, and how the reader is doing."""
    states = dict.fromkeys(State, 0) | {State(row["state"]): row["sagas"] for row in figures["states"]}
    position = figures["position"][0]
    return Stats(
        states=states,
        timed_out=sum(row["timed_out"] for row in figures["states"]),
        oldest_waiting=next((SagaView(**row) for row in figures["oldest_waiting"]), None),
        started_per_minute=[MinuteView(**row) for row in figures["started"]],
        ended_per_minute=[MinuteView(**row) for row in figures["ended"]],
        durations=[DurationView(**row) for row in figures["durations"]],
        stream=StreamView(
            reading=progress.reading,
            stream_offset=position["stream_offset"],
            lag=progress.behind(position["stream_offset"]),
            last_message_seconds_ago=position["moved_seconds_ago"],
            unreadable=position["unreadable"],
        ),
        gaps=[GapView(**{name: row[name] for name in GapView.model_fields}) for row in figures["gaps"]],
        leader=next((row["holder"] for row in figures["leader"]), None),
    )


def _fact(
    fact: Mapping[str, Any], timeline: Sequence[Mapping[str, Any]], started_at: datetime, doubt: timedelta
) -> FactView:
    causation = causation_of(fact, timeline)
    read_at: datetime = fact["read_at"]
    return FactView(
        **fact,
        name=name_of(fact["wire_name"]),
        doubtful=why_doubtful(fact, causation, doubt),
        causation=CausationView(fact_id=causation.fact_id, name=causation.name, directly=causation.directly)
        if causation
        else None,
        since_start_seconds=(read_at - started_at).total_seconds(),
        since_causation_seconds=(read_at - causation.read_at).total_seconds() if causation else None,
    )
