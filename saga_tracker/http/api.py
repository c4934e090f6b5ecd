"""What the tracker tells over HTTP: one saga, many, and figures about all."""

from functools import partial
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError

from events.http.authentication import VIEWER, Viewer
from events.http.limits import InDigits
from events.http.problems import Problem, not_valid
from events.service import name_of
from events.storage.database import Connection, Database
from saga_tracker.availability import Availability
from saga_tracker.causes import repository as kept_causes
from saga_tracker.causes.asking import Asking
from saga_tracker.causes.repository import Found
from saga_tracker.http import queries, views
from saga_tracker.http.queries import Place, SagaFilter
from saga_tracker.http.views import (
    Cursor,
    SagaPage,
    SagaView,
    SagaWithTimeline,
    Stats,
    cursor_after,
    place_in,
)
from saga_tracker.projection import State
from saga_tracker.reading.reader import Progress
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import STEPS

MAX_PAGE = 500
MAX_AGE_SECONDS = 100 * 365 * 86_400

# Whoever and whatever a saga can wait for.
AWAITED = sorted(
    {step.service for step in STEPS} | {name_of(kind) for step in STEPS for kind in step.results}
)

router = APIRouter(tags=["sagas"], dependencies=[VIEWER])


class ViewServer(Protocol):
    """What the routes need of the running tracker."""

    @property
    def database(self) -> Database: ...

    @property
    def progress(self) -> Progress: ...

    @property
    def settings(self) -> TrackerSettings: ...

    @property
    def availability(self) -> Availability: ...

    @property
    def asking(self) -> Asking: ...


def _view_server(request: Request) -> ViewServer:
    server: ViewServer = request.app.state.runtime
    return server


Tracker = Annotated[ViewServer, Depends(_view_server)]
Age = Annotated[float | None, Query(ge=0, le=MAX_AGE_SECONDS, allow_inf_nan=False), InDigits]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE), InDigits]
Awaited = Annotated[str | None, Query(json_schema_extra={"enum": AWAITED})]
Reason = Annotated[str | None, Query(max_length=300, description="Why it failed, exactly.")]


def _with_a_date(value: Any) -> Any:
    if isinstance(value, str) and "-" not in value[1:]:
        raise PydanticCustomError("datetime_parsing", "Input should be a date and a time, not a number")
    return value


Instant = Annotated[
    AwareDatetime | None, Query(description="When they entered their state."), BeforeValidator(_with_a_date)
]
Named = Annotated[str | None, Query(max_length=64)]
Beginning = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9A-Fa-f]{4,8}(-?[0-9A-Fa-f]{0,4}){0,3}(-?[0-9A-Fa-f]{0,12})?$",
        description="How the order's id begins.",
    ),
]
CauseWords = Annotated[
    str | None,
    Query(max_length=300, description="Why they wait: as an incident has it, or a kind such as `call`."),
]
Sort = Annotated[Literal["newest", "oldest"], Query(description="By when they entered their state.")]


@router.get(
    "/sagas/{order_id}",
    responses={
        404: {"description": "No fact of such an order has been read"},
        410: {"description": "The order ended long ago and was forgotten: when, the problem says"},
    },
)
async def see(order_id: UUID, tracker: Tracker, who: Viewer) -> SagaWithTimeline:
    """Where an order stands, since when, what it waits for and from whom, and the timeline of its facts."""

    async def look(connection: Connection) -> tuple[queries.Saga | None, Any]:
        found = await queries.saga_of(connection, order_id)
        return found, await queries.tombstone_of(connection, order_id) if found is None else None

    found, buried = await tracker.database.read(look)
    if buried is not None:
        raise Problem(
            410,
            f"order {order_id} ended as {buried['state']} and was forgotten",
            order_id=str(order_id),
            ended_at=buried["ended_at"].isoformat(),
            forgotten_at=buried["forgotten_at"].isoformat(),
        )
    if found is None:
        raise Problem(404, f"no fact of order {order_id} has been read", order_id=str(order_id))
    causes = {one.service: one for one in await tracker.asking.look(order_id, found.row["waits"])}
    saga = views.with_causes(found.row, causes, found.letters)
    return views.saga_with_timeline(
        saga, found.timeline, found.letters, tracker.settings, tracker.availability, who.role
    )


@router.get("/sagas")
async def find(
    tracker: Tracker,
    state: State | None = None,
    waiting_for: Awaited = None,
    older_than_seconds: Age = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    sort: Sort = "newest",
    reason: Reason = None,
    since_from: Instant = None,
    since_to: Instant = None,
    sku: Named = None,
    customer: Named = None,
    order: Beginning = None,
    has_letter: bool = False,
    cause: CauseWords = None,
) -> SagaPage:
    """Sagas in a state, waiting for a service or a fact, or in their state for longer than so many seconds.

    Also by why they failed, why they wait, when they entered their state, what was ordered and by whom, how
    their id begins, and whether a dead letter of them is open. All criteria given must hold. A cursor
    continues under the same criteria and the same sorting.
    """
    if waiting_for is not None and waiting_for not in AWAITED:
        raise Problem(422, f"nothing waits for {waiting_for!r}", known=AWAITED)
    id_from, id_to = _ids_beginning(order) if order else (None, None)
    wanted = SagaFilter(
        state=state.value if state else None,
        waiting_for=waiting_for,
        older_than_seconds=older_than_seconds,
        reason=reason,
        since_from=since_from,
        since_to=since_to,
        sku=sku,
        customer=customer,
        id_from=id_from,
        id_to=id_to,
        has_letter=has_letter or None,
        cause=cause,
        oldest_first=sort == "oldest",
    )
    after = Place(*place_in(cursor)) if cursor else None
    rows, kept = await tracker.database.read(partial(_found, wanted=wanted, after=after, limit=limit + 1))
    sagas = [SagaView(**views.with_causes(row, kept.get(row["order_id"], {}))) for row in rows[:limit]]
    last = sagas[-1] if len(rows) > limit else None
    return SagaPage(sagas=sagas, next_cursor=cursor_after(last.since, last.order_id) if last else None)


async def _found(
    connection: Connection, wanted: SagaFilter, after: Place | None, limit: int
) -> tuple[list[dict[str, Any]], dict[UUID, dict[str, Found]]]:
    """Sagas, and why those of them that wait do."""
    rows = await queries.sagas_where(connection, wanted, after, limit)
    waiting = [row["order_id"] for row in rows if row["waits"]]
    return rows, await kept_causes.of_orders(connection, waiting)


def _ids_beginning(prefix: str) -> tuple[UUID, UUID]:
    try:
        return queries.ids_beginning(prefix)
    except ValueError as error:
        raise not_valid("query.order", str(error)) from None


@router.get("/stats")
async def stats(tracker: Tracker) -> Stats:
    """How many sagas stand where, how many begin and end, how long they take, and how far the view lags."""
    found = await tracker.database.read(queries.figures)
    return views.stats(found, tracker.progress)
