"""Plain pages for people: sagas by state, one saga as a timeline, dead letters. No scripts, no assets."""

import json
from collections.abc import Iterable
from datetime import timedelta
from html import escape
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from saga_tracker.board import dead_letters as letter_pages
from saga_tracker.board.markup import instant, span
from saga_tracker.dead_letters import api as letters_api
from saga_tracker.dead_letters import queries as letter_queries
from saga_tracker.dead_letters.dead_letter import LetterState
from saga_tracker.dead_letters.queries import LetterFilter
from saga_tracker.dead_letters.views import AuditView, LetterView
from saga_tracker.http import api, audit
from saga_tracker.http.api import Tracker
from saga_tracker.http.cursor import Cursor
from saga_tracker.http.views import FactView, SagaView, SagaWithTrail, Stats, WaitView
from saga_tracker.projection import ENDED, State

PAGE_SIZE = 50
REFRESH_SECONDS = 5
_READ_LATE = timedelta(seconds=5)

router = APIRouter(include_in_schema=False)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    "Cache-Control": "no-store",
}
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
a { color: inherit; } h1 { font-size: 1.3rem; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
td { vertical-align: top; }
code, .number { font-family: ui-monospace, monospace; font-size: .9em; } .number { text-align: right; }
.state { font-weight: 600; } .ok { color: #2a8a4a; } .back { color: #b26a00; } .bad { color: #c62828; }
.quiet { opacity: .65; } nav a { margin-right: 1rem; } details pre { overflow-x: auto; }
.bar { background: #8883; height: .5rem; position: relative; min-width: 8rem; margin-top: .5rem; }
.bar i { background: #47a; height: 100%; position: absolute; min-width: 3px; }
"""
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
    more = ""
    if page.next_cursor:
        asked = {"cursor": page.next_cursor} | ({"state": state.value} if state else {})
        more = f'<p><a href="/?{escape(urlencode(asked))}">older</a></p>'
    title = f"Sagas {state.value}" if state else "Sagas"
    body = f"{_counts(stats, state)}{_find_form()}{_table(page.sagas)}{more}"
    return _page(title, body, refresh=cursor is None)


@router.get("/ui/sagas")
async def look_up(order_id: UUID) -> RedirectResponse:
    """Where the form for an order id leads."""
    return RedirectResponse(f"/ui/sagas/{order_id}", 303)


@router.get("/ui/sagas/{order_id}")
async def timeline(order_id: UUID, tracker: Tracker, request: Request) -> HTMLResponse:
    """One saga: where it stands, whom it waits for, its letters, and its facts along the time."""
    saga = await api.see(order_id, tracker)
    async with tracker.database.transaction() as connection:
        rows = await letter_queries.letters_where(
            connection, LetterFilter(order_id=order_id), None, letter_pages.MAX_OF_ORDER
        )
        acts = await audit.page(connection, order_id, None, letter_pages.MAX_OF_ORDER)
    letters = [LetterView(**row) for row in rows]
    by_hand = letter_pages.by_hand(
        saga, letters, [AuditView(**row) for row in acts], base_url=str(request.base_url)
    )
    body = _summary(saga) + by_hand + _trail(saga)
    return _page(f"Saga {order_id}", body, refresh=saga.state not in ENDED)


@router.get("/ui/dead-letters")
async def dead_letters(
    tracker: letters_api.Tracker,
    request: Request,
    service: letters_api.ServiceName = None,
    reason: letters_api.Reason = None,
    wire_name: letters_api.WireName = None,
    order_id: UUID | None = None,
    state: LetterState = LetterState.OPEN,
    cursor: Cursor = None,
) -> HTMLResponse:
    """Dead letters by service, reason and fact; and those of one group or of all, the newest first."""
    groups = await letters_api.groups(tracker)
    page = await letters_api.find(
        tracker, service, reason, wire_name, order_id, state, limit=PAGE_SIZE, cursor=cursor
    )
    asked = {name: value for name, value in request.query_params.items() if name not in ("cursor", "state")}
    body = letter_pages.letters_page(groups, page, asked, state, base_url=str(request.base_url))
    return _page("Dead letters", body, refresh=cursor is None)


def _counts(stats: Stats, chosen: State | None) -> str:
    links = [f'<a href="/">{"all" if chosen else "<b>all</b>"}</a>']
    dead_letters = '<a class="quiet" href="/ui/dead-letters">dead letters</a>'
    for state, count in stats.states.items():
        label = f"{state.value} {count}"
        label = f"<b>{label}</b>" if state is chosen else label
        links.append(f'<a class="{_CLASSES.get(state, "")}" href="/?state={state.value}">{label}</a>')
    stream = stats.stream
    lag = f"{stream.lag} messages behind" if stream.lag else "up to date"
    kept = "" if stats.keeper else " Nobody keeps the deadlines."
    reading = lag if stream.reading else "not reading: the broker or the database is away"
    durations = "; ".join(
        f"{each.state.value} p50 {span(each.p50_seconds)}, p99 {span(each.p99_seconds)}"
        for each in stats.durations
    )
    never_read = "".join(
        f'<p class="bad">Facts between {instant(gap.after_at) or "the beginning"}'
        f" and {instant(gap.before_at)} were never read: {escape(gap.why)}."
        " Sagas that were under way then are looked up with the services.</p>"
        for gap in stats.gaps
    )
    figures = f'<p class="quiet">{reading}.{kept} {durations}</p>'
    return f"<nav>{''.join(links)}{dead_letters}</nav>{never_read}{figures}"


def _find_form() -> str:
    return (
        '<form action="/ui/sagas"><label>Order <input name="order_id" size="36" required></label>'
        " <button>show</button></form>"
    )


def _table(sagas: Iterable[SagaView]) -> str:
    rows = "".join(
        f'<tr><td><a href="/ui/sagas/{saga.order_id}"><code>{saga.order_id}</code></a></td>'
        f"<td>{_state(saga)}</td><td>{_waits(saga.waits)}</td><td>{escape(saga.reason or '')}</td>"
        f'<td class="number">{span(saga.in_state_seconds)}</td>'
        f'<td class="number">{span(saga.duration_seconds)}</td></tr>'
        for saga in sagas
    )
    heads = ("Order", "State", "Waits for", "Why", "For", "Took")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{rows}</table>" if rows else "<p>None.</p>"


def _summary(saga: SagaWithTrail) -> str:
    known = {
        "State": f"{_state(saga)} since {instant(saga.since)}, {span(saga.in_state_seconds)} ago",
        "Waits for": _waits(saga.waits),
        "Why": escape(saga.reason or ""),
        "Began": instant(saga.started_at),
        "Ended": f"{instant(saga.ended_at)}, after {span(saga.duration_seconds)}" if saga.ended_at else "",
        "Trace": _trace(saga),
    }
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in known.items() if value)
    return f'<nav><a href="/">all sagas</a></nav><table>{rows}</table>'


def _trace(saga: SagaWithTrail) -> str:
    trace_id = f"<code>{escape(saga.trace_id)}</code>" if saga.trace_id else ""
    return f'<a href="{escape(saga.trace_url)}">{trace_id}</a>' if saga.trace_url else trace_id


def _trail(saga: SagaWithTrail) -> str:
    first = min(fact.since_start_seconds for fact in saga.facts)
    length = max(fact.since_start_seconds for fact in saga.facts) - first
    rows = "".join(_fact(fact, first, length) for fact in saga.facts)
    heads = ("After", "Fact", "By", "Because of", "Within", "")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<h1>Facts</h1><table><tr>{head}</tr>{rows}</table>"


def _fact(fact: FactView, first: float, length: float) -> str:
    took = fact.since_cause_seconds or 0.0
    end = 100 * (fact.since_start_seconds - first) / length if length else 0.0
    begin = max(0.0, end - (100 * took / length if length else 0.0))
    cause = ""
    if fact.cause is not None:
        cause = escape(fact.cause.name) + ("" if fact.cause.directly else " and what followed outside")
    within = span(fact.since_cause_seconds) if fact.since_cause_seconds is not None else ""
    return (
        f'<tr><td class="number">{span(fact.since_start_seconds)}</td>'
        f"<td>{escape(fact.name)}<details class='quiet'><summary>{fact.fact_id}</summary>"
        f"<pre>{escape(json.dumps(fact.body, indent=1))}</pre></details></td>"
        f"<td>{escape(fact.stated_by)}{_stated(fact)}</td>"
        f'<td>{cause}</td><td class="number">{within}</td>'
        f'<td><div class="bar"><i style="left:{begin:.1f}%;width:{end - begin:.1f}%"></i></div></td></tr>'
    )


def _stated(fact: FactView) -> str:
    """What its publisher says of the time, where it is worth a look: everything counts from the reading."""
    if fact.doubtful is not None:
        return (
            f'<br><span class="bad">says {instant(fact.stated_at)}, doubtful: {escape(fact.doubtful)}</span>'
        )
    late = fact.read_at - fact.stated_at
    if late < _READ_LATE:
        return ""
    return f'<br><span class="quiet">read {span(late.total_seconds())} after it was stated</span>'


def _state(saga: SagaView) -> str:
    late = ' <span class="bad">timed out</span>' if saga.timed_out else ""
    late += ' <span class="quiet">reconstructed</span>' if saga.reconstructed else ""
    return f'<span class="state {_CLASSES.get(saga.state, "")}">{saga.state.value}</span>{late}'


def _waits(waits: Iterable[WaitView]) -> str:
    return "<br>".join(
        f"{escape(wait.service)}{', a person' if wait.person else ''}"
        f' <span class="quiet">{escape(" or ".join(wait.facts))}</span>{_lateness(wait)}'
        for wait in waits
    )


def _lateness(wait: WaitView) -> str:
    """What the tracker has done about a service that is late, and when it does something next."""
    said = ""
    if wait.redriven_at:
        said += f'<br><span class="back">sent once more</span> {instant(wait.redriven_at)}'
    if wait.overdue_at:
        said += f'<br><span class="bad">given up</span> {instant(wait.overdue_at)}'
    elif (down := wait.service_down) is not None:
        said += (
            f'<br><span class="bad">down</span> since {instant(down.since)}: {escape(down.why)};'
            f" its deadline stands still until {instant(down.stands_still_until)}"
        )
    elif wait.due_at:
        said += f'<br><span class="quiet">due {instant(wait.due_at)}</span>'
    if (lock := wait.service_locked) is not None:
        said += (
            f'<br><span class="bad">orders of it wait for a lock</span> since {instant(lock.since)}:'
            f" {escape(lock.session)}"
        )
    return said


def _page(title: str, body: str, *, refresh: bool) -> HTMLResponse:
    again = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if refresh else ""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}<title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>",
        headers=_HEADERS,
    )
