"""The routes of the pages, and what the templates beside this file are given to show.

What is in a dead letter is not shown.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from events.http.authentication import VIEWER
from saga_tracker.dead_letters import api as dead_letters_api
from saga_tracker.dead_letters import queries as dead_letter_queries
from saga_tracker.dead_letters.dead_letter import DeadLetterKind, DeadLetterState
from saga_tracker.dead_letters.queries import DeadLetterFilter
from saga_tracker.dead_letters.views import AuditView, DeadLetterPage, DeadLetterView, Groups
from saga_tracker.http import api, audit
from saga_tracker.http.api import Tracker
from saga_tracker.http.views import Cursor, FactView, SagaPage, SagaView, SagaWithTimeline, Stats
from saga_tracker.projection import ENDED, State

PAGE_SIZE = 50
# Of one order's dead letters and audit entries, the last are shown.
MAX_OF_ORDER = 50
REFRESH_SECONDS = 5
READ_LATE_SECONDS = 5

router = APIRouter(include_in_schema=False, dependencies=[VIEWER])

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    "Cache-Control": "no-store",
}
_CLASSES = {
    State.COMPLETED: "ok",
    State.COMPENSATING: "back",
    State.CANCELLED: "back",
    State.NEEDS_MANUAL: "bad",
    State.AWAITING_APPROVAL: "back",
}


@router.get("/")
async def home(
    tracker: Tracker,
    state: State | None = None,
    cursor: Cursor = None,
) -> HTMLResponse:
    """How many sagas stand where, and those of one state or of all, newest first."""
    stats = await api.stats(tracker)
    page = await api.find(tracker, state=state, cursor=cursor, limit=PAGE_SIZE)
    return _answer(home_page(stats, page, state, refresh=cursor is None))


@router.get("/ui/sagas")
async def look_up(order_id: UUID) -> RedirectResponse:
    """Where the form for an order id leads."""
    return RedirectResponse(f"/ui/sagas/{order_id}", 303)


@router.get("/ui/sagas/{order_id}")
async def timeline(order_id: UUID, tracker: Tracker, request: Request) -> HTMLResponse:
    """One saga: where it stands, whom it waits for, its dead letters, and its facts along the time."""
    saga = await api.see(order_id, tracker)
    async with tracker.database.transaction() as connection:
        rows = await dead_letter_queries.dead_letters_where(
            connection, DeadLetterFilter(order_id=order_id), None, MAX_OF_ORDER
        )
        acts = await audit.page(connection, order_id, None, MAX_OF_ORDER)
    dead_letters = [DeadLetterView(**row) for row in rows]
    entries = [AuditView(**row) for row in acts]
    return _answer(saga_page(saga, dead_letters, entries, base_url=str(request.base_url)))


@router.get("/ui/dead-letters")
async def dead_letters(
    tracker: dead_letters_api.Tracker,
    request: Request,
    service: dead_letters_api.ServiceName = None,
    reason: dead_letters_api.Reason = None,
    wire_name: dead_letters_api.WireName = None,
    order_id: UUID | None = None,
    state: DeadLetterState = DeadLetterState.OPEN,
    cursor: Cursor = None,
) -> HTMLResponse:
    """Dead letters by service, reason and fact; and those of one group or of all, the newest first."""
    groups = await dead_letters_api.groups(tracker)
    page = await dead_letters_api.find(
        tracker, service, reason, wire_name, order_id, state, limit=PAGE_SIZE, cursor=cursor
    )
    asked = {name: value for name, value in request.query_params.items() if name not in ("cursor", "state")}
    base_url = str(request.base_url)
    return _answer(dead_letters_page(groups, page, asked, state, base_url=base_url, refresh=cursor is None))


def home_page(stats: Stats, page: SagaPage, chosen: State | None, *, refresh: bool = True) -> str:
    """Figures about all sagas, then some of them."""
    return rendered(
        "home",
        title=f"Sagas {chosen.value}" if chosen else "Sagas",
        refresh=refresh,
        stats=stats,
        page=page,
        chosen=chosen,
        asked={"state": chosen.value} if chosen else {},
    )


def saga_page(
    saga: SagaWithTimeline,
    dead_letters: Sequence[DeadLetterView],
    entries: Sequence[AuditView],
    *,
    base_url: str,
) -> str:
    """A saga; its dead letters, what was done about it and what can be done, where there is any of it."""
    return rendered(
        "saga",
        title=f"Saga {saga.order_id}",
        refresh=saga.state not in ENDED,
        saga=saga,
        dead_letters=dead_letters,
        entries=entries,
        acts=_acts_on_saga(saga, dead_letters, base_url),
        bars=list(_bars(saga.facts)),
    )


def dead_letters_page(
    groups: Groups,
    page: DeadLetterPage,
    asked: Mapping[str, str],
    chosen: DeadLetterState,
    *,
    base_url: str,
    refresh: bool = True,
) -> str:
    """Groups, then dead letters in one state, and how to act on them."""
    acts: list[str] = []
    if page.dead_letters and chosen is DeadLetterState.OPEN:
        dead_letter = page.dead_letters[0]
        group = {"service": dead_letter.service, "reason": dead_letter.reason}
        acts = [
            _curl(base_url, f"dead-letters/{dead_letter.letter_id}", None),
            *_acts_on_dead_letter(dead_letter, base_url),
            _curl(base_url, "dead-letters/replay", group),
        ]
    return rendered(
        "dead_letters",
        title="Dead letters",
        refresh=refresh,
        groups=groups,
        page=page,
        asked=asked,
        chosen=chosen,
        states=list(DeadLetterState),
        acts=acts,
    )


def _bars(facts: Sequence[FactView]) -> Iterator[tuple[FactView, float, float]]:
    """Each fact, and where on the saga's time the wait for it lay: its begin and its length in percent."""
    first = min(fact.since_start_seconds for fact in facts)
    length = max(fact.since_start_seconds for fact in facts) - first
    for fact in facts:
        took = fact.since_causation_seconds or 0.0
        end = 100 * (fact.since_start_seconds - first) / length if length else 0.0
        begin = max(0.0, end - (100 * took / length if length else 0.0))
        yield fact, begin, end - begin


def _acts_on_saga(saga: SagaView, dead_letters: Sequence[DeadLetterView], base_url: str) -> list[str]:
    acts: list[str] = []
    if saga.state is State.NEEDS_MANUAL:
        act = {"note": "why"}
        acts = [_curl(base_url, f"sagas/{saga.order_id}/{verb}", act) for verb in ("redrive", "settle")]
    by_saga = bool(acts)
    for dead_letter in dead_letters:
        # A case is answered by way of the saga where that waits for it.
        if dead_letter.state is DeadLetterState.OPEN and not (
            by_saga and dead_letter.kind is DeadLetterKind.CASE
        ):
            acts += _acts_on_dead_letter(dead_letter, base_url)
    return acts


def _acts_on_dead_letter(dead_letter: DeadLetterView, base_url: str) -> list[str]:
    path, act = f"dead-letters/{dead_letter.letter_id}", {"note": "why"}
    return [_curl(base_url, f"{path}/{verb}", act) for verb in ("replay", "discard")]


def _curl(base_url: str, path: str, body: Mapping[str, str] | None) -> str:
    """A command line; the token comes from its environment."""
    words = ["curl", '-H "Authorization: Bearer $TOKEN"']
    if body is not None:
        words += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body))}"]
    return " ".join([*words, shlex.quote(base_url + path)])


def _span(seconds: float) -> str:
    """A span of time, in the unit that suits it."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _indented(value: Any) -> str:
    return json.dumps(value, indent=1)


def _environment() -> Environment:
    """Everything that a template shows is escaped; what it names and nobody gave it is an error."""
    environment = Environment(
        loader=PackageLoader("saga_tracker.board"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"span": _span, "indented": _indented}
    environment.globals |= {
        "state_classes": _CLASSES,
        "refresh_seconds": REFRESH_SECONDS,
        "read_late_seconds": READ_LATE_SECONDS,
    }
    return environment


_TEMPLATES = _environment()


def rendered(template: str, **shown: Any) -> str:
    """A page of the templates beside this file."""
    return _TEMPLATES.get_template(f"{template}.html.jinja").render(shown)


def _answer(page: str) -> HTMLResponse:
    return HTMLResponse(page, headers=HEADERS)
