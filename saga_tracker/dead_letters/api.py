"""Dead letters over HTTP. Viewers see them; what is in them, and to act, is for operators."""

from typing import Annotated, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from events.http.authentication import OPERATOR, VIEWER, Identity, Operator
from events.http.limits import InDigits, StrictRoute
from events.http.problems import RETRY_AFTER_SECONDS, Problem
from events.storage.database import CONTENTION, Connection, Database
from saga_tracker.dead_letters import repository, views
from saga_tracker.dead_letters.dead_letter import MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS, DeadLetterState
from saga_tracker.dead_letters.replay import NotSent, Replayed, replay
from saga_tracker.dead_letters.repository import DeadLetterFilter, Place
from saga_tracker.dead_letters.views import (
    MAX_SHOWN_BYTES,
    Act,
    DeadLetterPage,
    DeadLetterView,
    Groups,
    GroupView,
    NotedAct,
    ReplayOutcome,
    Selection,
    WholeDeadLetter,
)
from saga_tracker.http import audit
from saga_tracker.http.audit import Entry
from saga_tracker.http.views import Cursor, cursor_after, place_in
from saga_tracker.scheduler.redrive import Publisher
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES

MAX_PAGE = 500
MAX_GROUPS = 500
MAX_AUDIT_OF_DEAD_LETTER = 100

router = APIRouter(prefix="/dead-letters", tags=["dead letters"], route_class=StrictRoute)

UNKNOWN = {"description": "There is no such dead letter"}
NOT_OPEN = {"description": "It is not open, or was answered already"}


class Desk(Protocol):
    """What the routes need of the running tracker."""

    @property
    def database(self) -> Database: ...

    @property
    def publisher(self) -> Publisher: ...

    @property
    def settings(self) -> TrackerSettings: ...


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.runtime
    return desk


Tracker = Annotated[Desk, Depends(_desk)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE), InDigits]
ServiceName = Annotated[str | None, Query(json_schema_extra={"enum": SERVICES})]
Reason = Annotated[str | None, Query(max_length=MAX_REASON_CHARACTERS)]
WireName = Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)]


@router.get("", dependencies=[VIEWER])
async def find(
    tracker: Tracker,
    service: ServiceName = None,
    reason: Reason = None,
    wire_name: WireName = None,
    order_id: UUID | None = None,
    state: DeadLetterState | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> DeadLetterPage:
    """Dead letters for which all criteria given hold, the last to arrive first."""
    _know(service)
    wanted = DeadLetterFilter(service, reason, wire_name, order_id, state.value if state else None)
    after = Place(*place_in(cursor)) if cursor else None
    async with tracker.database.transaction() as connection:
        rows = await repository.dead_letters_where(connection, wanted, after, limit + 1)
    dead_letters = [DeadLetterView(**row) for row in rows[:limit]]
    last = dead_letters[-1] if len(rows) > limit else None
    next_cursor = cursor_after(last.arrived_at, last.letter_id) if last else None
    return DeadLetterPage(dead_letters=dead_letters, next_cursor=next_cursor)


@router.get("/groups", dependencies=[VIEWER])
async def groups(tracker: Tracker) -> Groups:
    """How many dead letters there are of each service, reason and fact."""
    async with tracker.database.transaction() as connection:
        rows = await repository.groups(connection, MAX_GROUPS)
    return Groups(groups=[GroupView(**row) for row in rows])


@router.get("/{letter_id}", dependencies=[OPERATOR], responses={404: UNKNOWN})
async def see(letter_id: UUID, tracker: Tracker) -> WholeDeadLetter:
    """One dead letter with the message in it, its headers and its history."""
    async with tracker.database.transaction() as connection:
        found = await repository.dead_letter(connection, letter_id, MAX_SHOWN_BYTES)
        entries = await audit.of_dead_letter(connection, letter_id, MAX_AUDIT_OF_DEAD_LETTER)
    if found is None:
        raise _no_such(letter_id)
    return views.whole_dead_letter(*found, entries)


@router.post("/replay")
async def replay_some(selection: Selection, who: Operator, tracker: Tracker) -> ReplayOutcome:
    """Replay dead letters by their ids, or the open ones of a group, the first to arrive first."""
    if selection.ids is not None:
        if selection.service or selection.reason or selection.wire_name:
            raise Problem(422, "give either ids, or a service and a reason")
        letter_ids = list(dict.fromkeys(selection.ids))
        done = await _replay(tracker, letter_ids, who, selection)
        missing = set(letter_ids).difference(done.replayed, done.skipped)
        return _outcome(done, sorted(missing), 0)
    if selection.service is None or selection.reason is None:
        raise Problem(422, "give either ids, or a service and a reason")
    _know(selection.service)
    wanted = DeadLetterFilter(selection.service, selection.reason, selection.wire_name)
    most = tracker.settings.replay_dead_letters
    async with tracker.database.transaction() as connection:
        letter_ids = await repository.open_dead_letter_ids(connection, wanted, most)
    done = await _replay(tracker, letter_ids, who, selection)
    async with tracker.database.transaction() as connection:
        remaining = await repository.count_open(connection, wanted)
    return _outcome(done, [], remaining)


@router.post("/{letter_id}/replay", responses={404: UNKNOWN, 409: NOT_OPEN})
async def replay_one(letter_id: UUID, act: Act, who: Operator, tracker: Tracker) -> DeadLetterView:
    """Send a dead letter's message to its service again, or have the service try again what it is a case of.

    One that was replayed or discarded before is refused (409).
    """
    done = await _replay(tracker, [letter_id], who, act)
    async with tracker.database.transaction() as connection:
        dead_letter = await _read(connection, letter_id)
        if done.replayed:
            return dead_letter
        if dead_letter.state is DeadLetterState.OPEN:
            raise Problem(
                409, f"its case has been answered already: see /audit?order_id={dead_letter.order_id}"
            )
        raise _not_open(dead_letter)


@router.post("/{letter_id}/discard", responses={404: UNKNOWN, 409: NOT_OPEN})
async def discard(letter_id: UUID, act: NotedAct, who: Operator, tracker: Tracker) -> DeadLetterView:
    """Nothing is to be done about a dead letter. It is kept; one that is not open is refused (409)."""
    try:
        async with tracker.database.transaction() as connection:
            if not await repository.take(connection, [letter_id]):
                raise _no_such(letter_id)
            dead_letter = await _read(connection, letter_id)
            if dead_letter.state is not DeadLetterState.OPEN:
                raise _not_open(dead_letter)
            about = dead_letter.service, dead_letter.order_id, letter_id
            entry = Entry.of(who, "discarded", act.note, *about)
            await audit.enter(connection, [entry])
            await repository.mark(connection, [letter_id], DeadLetterState.DISCARDED)
            return await _read(connection, letter_id)
    except CONTENTION:
        raise _busy() from None


async def _replay(tracker: Desk, letter_ids: list[UUID], who: Identity, act: Act) -> Replayed:
    done = Replayed()
    try:
        await replay(tracker.settings, tracker.database, letter_ids, who=who, note=act.note, done=done)
    except NotSent as error:
        raise _later(f"the broker did not confirm: {error}", done) from error
    except CONTENTION:
        raise _busy(done) from None
    finally:
        if done.replayed:
            tracker.publisher.look_in_table()
    return done


def _outcome(done: Replayed, missing: list[UUID], remaining: int) -> ReplayOutcome:
    return ReplayOutcome(
        replayed=len(done.replayed), skipped=len(done.skipped), missing=missing, remaining=remaining
    )


async def _read(connection: Connection, letter_id: UUID) -> DeadLetterView:
    found = await repository.dead_letter(connection, letter_id, 0)
    if found is None:
        raise _no_such(letter_id)
    return DeadLetterView(**{name: found[0][name] for name in DeadLetterView.model_fields})


def _know(service: str | None) -> None:
    if service is not None and service not in SERVICES:
        raise Problem(422, f"no service is named {service!r}", known=SERVICES)


def _no_such(letter_id: UUID) -> Problem:
    return Problem(404, f"there is no dead letter {letter_id}")


def _not_open(dead_letter: DeadLetterView) -> Problem:
    since = dead_letter.state_at.isoformat(timespec="seconds")
    return Problem(
        409, f"the letter is not open: {dead_letter.state.value} at {since}", state=dead_letter.state.value
    )


def _busy(done: Replayed | None = None) -> Problem:
    return _later("somebody else is acting on one of these letters", done)


def _later(detail: str, done: Replayed | None) -> Problem:
    """Nothing but what `replayed` counts has changed."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Problem(503, detail, headers=headers, replayed=len(done.replayed) if done else 0)
