"""The pages to read: what is going on, sagas by filter, one saga, one fact."""

import csv
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BeforeValidator

from events.facts.base import in_words
from events.http.authentication import VIEWER, Viewer
from events.http.problems import Problem
from saga_tracker.board import acts, drawing
from saga_tracker.board.drawing import Series
from saga_tracker.board.health import circuits, incidents
from saga_tracker.board.live import HEALTH, Board
from saga_tracker.board.queries import LAST_MINUTES
from saga_tracker.board.render import PageRoute, answer, rendered
from saga_tracker.causes.cause import KINDS
from saga_tracker.consistency.snapshot import Movement
from saga_tracker.dead_letters import repository as dead_letter_queries
from saga_tracker.dead_letters.repository import DeadLetterFilter
from saga_tracker.dead_letters.views import AuditView, DeadLetterView
from saga_tracker.http import api, audit
from saga_tracker.http.api import AWAITED, Age, Beginning, CauseWords, Instant, Named, Reason, Sort
from saga_tracker.http.views import Cursor, FactView, GapView, SagaPage, SagaView, SagaWithTimeline
from saga_tracker.projection import ENDED, State
from saga_tracker.reconciliation import comparisons
from saga_tracker.scheduler.redrive import Publisher
from saga_tracker.settings import TrackerSettings

PAGE_SIZE = 50
LATEST = 10
EXPORT_PAGE = 500
# Of one order's dead letters and audit entries, the last are shown.
MAX_OF_ORDER = 50
# How often a page asks again that shows what no fact tells: how services are, and what they wait for.
ASKED_AGAIN_SECONDS = 10

router = APIRouter(include_in_schema=False, route_class=PageRoute, dependencies=[VIEWER])


class Runtime(api.ViewServer, Protocol):
    """What the pages need of the running tracker."""

    @property
    def publisher(self) -> Publisher: ...

    @property
    def board(self) -> Board: ...


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


Tracker = Annotated[Runtime, Depends(_runtime)]
# What a form leaves empty was not asked for.
_Empty = BeforeValidator(lambda value: value or None)

# --- The first page


@router.get("/")
async def home(tracker: Tracker, state: State | None = None) -> Response:
    """What is wrong, how everything is, how many sagas stand where, and those that moved last."""
    if state is not None:
        return RedirectResponse(f"/ui/sagas?state={state.value}", HTTPStatus.SEE_OTHER)
    latest = await api.find(tracker, limit=LATEST)
    found = await tracker.board.going_on.get()
    ended = await tracker.board.ended.get()
    health = await tracker.board.health.get()
    states = dict.fromkeys(State, 0) | {State(row["state"]): row["sagas"] for row in found["open"]}
    states |= {State(state): count for state, count in ended.items()}
    return answer(
        home_page(
            states=states,
            incidents=incidents(found["waits"], health),
            health=health,
            circuits=circuits(health),
            gaps=[GapView(**{name: row[name] for name in GapView.model_fields}) for row in found["gaps"]],
            letters=sum(row["letters"] for row in found["letters"]),
            manual=states[State.NEEDS_MANUAL],
            approvals=states[State.AWAITING_APPROVAL],
            differences=found["differences"][0]["differences"],
            outbox=found["outbox"][0],
            leader=next((row["holder"] for row in found["leader"]), None),
            stream=tracker.progress,
            blocked=tracker.publisher.blocked,
            plots=plots(found),
            latest=latest.sagas,
        )
    )


def home_page(**shown: Any) -> str:
    """The first page."""
    return rendered(
        "home",
        title="What is going on",
        path="/",
        topics=("sagas", "letters", "differences", HEALTH),
        every_seconds=ASKED_AGAIN_SECONDS,
        **shown,
    )


def plots(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """How many sagas began and ended in each of the last minutes, and how long they took."""

    def by_minute(rows: str, name: str, nothing: float | None) -> list[float | None]:
        values = {row["minutes_ago"]: row[name] for row in found[rows]}
        return [values.get(minute, nothing) for minute in range(LAST_MINUTES - 1, -1, -1)]

    throughput = [
        Series("begun", "started", by_minute("started", "sagas", 0.0)),
        Series("completed", "ended", by_minute("ended", "completed", 0.0)),
        Series("cancelled", "failed", by_minute("ended", "cancelled", 0.0)),
    ]
    durations = [
        Series("half within", "p50", by_minute("ended", "p50_seconds", None)),
        Series("99 % within", "p99", by_minute("ended", "p99_seconds", None)),
    ]
    return [
        ("Sagas a minute, in the last hour", drawing.plot("Sagas a minute in the last hour", throughput)),
        (
            "How long those took that ended in each minute",
            drawing.plot("Durations of sagas in the last hour", durations, unit="s"),
        ),
    ]


@router.get("/ui/events", response_class=EventSourceResponse)
async def events(
    request: Request, tracker: Tracker, order_id: UUID | None = None
) -> AsyncIterator[ServerSentEvent]:
    """What changes while a page is open: ids and topics alone."""
    is_stopping = getattr(request.app.state, "is_stopping", lambda: False)
    async for change in tracker.board.changes(order_id, is_stopping):
        yield ServerSentEvent(event="changed", data=change)


# --- Many sagas


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page of sagas was asked for, as its address has it."""

    state: Annotated[State | None, _Empty] = None
    waiting_for: Annotated[str | None, _Empty] = None
    older_than_seconds: Annotated[Age, _Empty] = None
    reason: Annotated[Reason, _Empty] = None
    cause: Annotated[CauseWords, _Empty] = None
    since_from: Annotated[Instant, _Empty] = None
    since_to: Annotated[Instant, _Empty] = None
    sku: Annotated[Named, _Empty] = None
    customer: Annotated[Named, _Empty] = None
    order: Annotated[Beginning, _Empty] = None
    has_letter: bool = False
    sort: Sort = "newest"
    cursor: Annotated[Cursor, _Empty] = None

    @property
    def given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Asked.__slots__}


@router.get("/ui/sagas")
async def sagas(
    asked: Annotated[Asked, Depends()], tracker: Tracker, order_id: UUID | None = None
) -> Response:
    """Sagas by filter. A whole order id leads to that saga."""
    whole = order_id or _whole_id(asked.order)
    if whole is not None:
        return RedirectResponse(f"/ui/sagas/{whole}", HTTPStatus.SEE_OTHER)
    page = await api.find(tracker, limit=PAGE_SIZE, **asked.given)
    return answer(sagas_page(page, asked))


def _whole_id(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def sagas_page(page: SagaPage, asked: Asked) -> str:
    """Some sagas, and the form that asks for others."""
    shown = {name: getattr(value, "value", value) for name, value in asked.given.items()}
    instants = {
        name: value.isoformat() if (value := shown[name]) else None for name in ("since_from", "since_to")
    }
    return rendered(
        "sagas",
        title="Sagas",
        path="/ui/sagas",
        # A page further down does not move under the reader.
        topics=() if asked.cursor else ("sagas",),
        page=page,
        asked=shown | instants,
        states=list(State),
        awaited=AWAITED,
        causes=KINDS,
    )


_COLUMNS = (
    *("order_id", "state", "since", "in_state_seconds", "waits_for", "timed_out", "started_at", "ended_at"),
    *("duration_seconds", "reason", "trace_id", "fact_count"),
)


@router.get("/ui/sagas/export.{form}")
async def export(form: str, asked: Annotated[Asked, Depends()], tracker: Tracker) -> StreamingResponse:
    """All sagas of a filter, page by page as they are read: nothing of it is kept here."""
    if form not in ("csv", "jsonl"):
        raise Problem(404, "sagas are exported as csv or jsonl")
    first = await api.find(tracker, limit=EXPORT_PAGE, **asked.given)
    lines = (
        _as_csv(_pages(tracker, asked, first)) if form == "csv" else _as_json(_pages(tracker, asked, first))
    )
    media_type = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
    headers = {"Content-Disposition": f'attachment; filename="sagas.{form}"', "Cache-Control": "no-store"}
    return StreamingResponse(lines, media_type=media_type, headers=headers)


async def _pages(tracker: Runtime, asked: Asked, page: SagaPage) -> AsyncIterator[list[SagaView]]:
    while True:
        yield page.sagas
        if page.next_cursor is None:
            return
        page = await api.find(tracker, limit=EXPORT_PAGE, **asked.given | {"cursor": page.next_cursor})


async def _as_json(pages: AsyncIterator[list[SagaView]]) -> AsyncIterator[str]:
    async for some in pages:
        yield "".join(f"{saga.model_dump_json()}\n" for saga in some)


async def _as_csv(pages: AsyncIterator[list[SagaView]]) -> AsyncIterator[str]:
    yield ",".join(_COLUMNS) + "\r\n"
    async for some in pages:
        text = io.StringIO()
        csv.writer(text).writerows([_cell(value) for value in _row_of(saga)] for saga in some)
        yield text.getvalue()


def _row_of(saga: SagaView) -> list[Any]:
    row = saga.model_dump(mode="json") | {"waits_for": " ".join(wait.service for wait in saga.waits)}
    return [row[name] for name in _COLUMNS]


def _cell(value: Any) -> Any:
    """No spreadsheet takes it for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


# --- One saga, and one fact of it


@router.get("/ui/sagas/{order_id}")
async def timeline(
    order_id: UUID, tracker: Tracker, who: Viewer, request: Request, done: str = ""
) -> HTMLResponse:
    """One saga: where it stands, whom it waits for, what can be done, and its story."""
    saga = await api.see(order_id, tracker, who)
    async with tracker.database.transaction() as connection:
        rows = await dead_letter_queries.dead_letters_where(
            connection, DeadLetterFilter(order_id=order_id), None, MAX_OF_ORDER
        )
        entered = await audit.page(connection, order_id, None, MAX_OF_ORDER)
    outside: list[str] = []
    if saga.state is State.NEEDS_MANUAL:
        waits = [wait.model_dump(include={"service", "person"}) for wait in saga.waits]
        outside = (await reported_outside(tracker, {order_id: waits}))[order_id]
    return answer(
        saga_page(
            saga,
            [DeadLetterView(**row) for row in rows],
            [AuditView(**row) for row in entered],
            base_url=str(request.base_url),
            settings=tracker.settings,
            done=done,
            outside=outside,
        )
    )


async def reported_outside(
    tracker: Runtime, waits: Mapping[UUID, Sequence[Mapping[str, Any]]]
) -> dict[UUID, list[str]]:
    """Of sagas that need a person: what parties outside say of it, and the money that moved."""
    failed = {
        order_id: sorted({wait["service"] for wait in some if wait["person"]})
        for order_id, some in waits.items()
    }
    reported = await tracker.asking.outside({one: services for one, services in failed.items() if services})
    moved = await tracker.database.read(lambda connection: comparisons.ledger_of(connection, list(waits)))
    return {order_id: [*reported.get(order_id, []), *_ledger(moved.get(order_id, ()))] for order_id in waits}


def _ledger(movements: Sequence[Movement]) -> list[str]:
    if not movements:
        return []
    entries = (f"{each.kind} {in_words(each.amount_minor, each.currency)}" for each in movements)
    return [f"provider's ledger: {', '.join(entries)}"]


def saga_page(
    saga: SagaWithTimeline,
    dead_letters: Sequence[DeadLetterView],
    entries: Sequence[AuditView],
    *,
    base_url: str,
    settings: TrackerSettings | None = None,
    done: str = "",
    outside: Sequence[str] = (),
) -> str:
    """A saga; its dead letters, what was done about it and what can be done, where there is any of it."""
    bought = acts.ordered(saga.facts)
    return rendered(
        "saga",
        title=f"Saga {saga.order_id}",
        path="/ui/sagas",
        topics=("audit", "letters", HEALTH),
        watched=saga.order_id,
        every_seconds=ASKED_AGAIN_SECONDS if saga.waits else None,
        saga=saga,
        ordered=bought,
        dead_letters=dead_letters,
        entries=entries,
        acts=acts.on_saga(
            saga, dead_letters, base_url, bought, acts_for=bool(settings and settings.admin_token)
        ),
        picture=drawing.lanes(saga),
        has_ended=saga.state in ENDED,
        links=_links(saga, settings),
        outside=outside,
        done=acts.DONE.get(done),
    )


def _links(saga: SagaWithTimeline, settings: TrackerSettings | None) -> list[tuple[str, str]]:
    """Where to see more of that time: its trace, all traces of then, and the dashboard."""
    if settings is None:
        return []
    begin = int(saga.started_at.timestamp())
    end = int((saga.ended_at or saga.facts[-1].read_at).timestamp()) + 60
    found = [("trace", saga.trace_url)] if saga.trace_url else []
    if settings.jaeger_url:
        around = f"{settings.jaeger_url}/search?service=order&start={begin}000000&end={end}000000"
        found.append(("traces of that time", around))
    if settings.grafana_url:
        around = f"{settings.grafana_url}/d/murmuration?from={begin}000&to={end}000"
        found.append(("dashboard of that time", around))
    return found


@router.get("/ui/sagas/{order_id}/facts/{fact_id}")
async def fact(order_id: UUID, fact_id: UUID, tracker: Tracker, who: Viewer) -> HTMLResponse:
    """One fact in detail: what it says, what it came from, and what came of it."""
    saga = await api.see(order_id, tracker, who)
    found = next((each for each in saga.facts if each.fact_id == fact_id), None)
    if found is None:
        raise Problem(404, f"order {order_id} has no fact {fact_id}")
    return answer(fact_page(saga, found))


def fact_page(saga: SagaWithTimeline, found: FactView) -> str:
    """A fact, with what it came from and what came of it."""
    return rendered(
        "fact",
        title=found.name,
        path="/ui/sagas",
        saga=saga,
        fact=found,
        body=json.dumps(found.body, indent=2, ensure_ascii=False),
        results=[each for each in saga.facts if each.causation and each.causation.fact_id == found.fact_id],
    )
