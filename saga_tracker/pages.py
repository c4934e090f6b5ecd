"""Two plain pages for people: sagas by state, and one saga's trail as a timeline. No scripts, no assets."""

import json
from collections.abc import Iterable
from datetime import datetime
from html import escape
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, RedirectResponse

from saga_tracker import api
from saga_tracker.api import MAX_CURSOR_CHARACTERS, Tracker
from saga_tracker.projection import ENDED, State
from saga_tracker.views import FactView, SagaView, SagaWithTrail, Stats, WaitView

PAGE_SIZE = 50
REFRESH_SECONDS = 5

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
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARACTERS)] = None,
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
async def timeline(order_id: UUID, tracker: Tracker) -> HTMLResponse:
    """One saga: where it stands, whom it waits for, and its facts along the time."""
    saga = await api.see(order_id, tracker)
    return _page(f"Saga {order_id}", _summary(saga) + _trail(saga), refresh=saga.state not in ENDED)


def _counts(stats: Stats, chosen: State | None) -> str:
    links = [f'<a href="/">{"all" if chosen else "<b>all</b>"}</a>']
    for state, count in stats.states.items():
        label = f"{state.value} {count}"
        label = f"<b>{label}</b>" if state is chosen else label
        links.append(f'<a class="{_CLASSES.get(state, "")}" href="/?state={state.value}">{label}</a>')
    stream = stats.stream
    lag = f"{stream.lag} messages behind" if stream.lag else "up to date"
    reading = lag if stream.reading else "not reading: the broker or the database is away"
    durations = "; ".join(
        f"{each.state.value} p50 {_span(each.p50_seconds)}, p99 {_span(each.p99_seconds)}"
        for each in stats.durations
    )
    return f'<nav>{"".join(links)}</nav><p class="quiet">{reading}. {durations}</p>'


def _find_form() -> str:
    return (
        '<form action="/ui/sagas"><label>Order <input name="order_id" size="36" required></label>'
        " <button>show</button></form>"
    )


def _table(sagas: Iterable[SagaView]) -> str:
    rows = "".join(
        f'<tr><td><a href="/ui/sagas/{saga.order_id}"><code>{saga.order_id}</code></a></td>'
        f"<td>{_state(saga)}</td><td>{_waits(saga.waits)}</td><td>{escape(saga.reason or '')}</td>"
        f'<td class="number">{_span(saga.in_state_seconds)}</td>'
        f'<td class="number">{_span(saga.duration_seconds)}</td></tr>'
        for saga in sagas
    )
    heads = ("Order", "State", "Waits for", "Why", "For", "Took")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{rows}</table>" if rows else "<p>None.</p>"


def _summary(saga: SagaWithTrail) -> str:
    known = {
        "State": f"{_state(saga)} since {_instant(saga.since)}, {_span(saga.in_state_seconds)} ago",
        "Waits for": _waits(saga.waits),
        "Why": escape(saga.reason or ""),
        "Began": _instant(saga.started_at),
        "Ended": f"{_instant(saga.ended_at)}, after {_span(saga.duration_seconds)}" if saga.ended_at else "",
        "Trace": f"<code>{escape(saga.trace_id)}</code>" if saga.trace_id else "",
    }
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in known.items() if value)
    return f'<nav><a href="/">all sagas</a></nav><table>{rows}</table>'


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
    within = _span(fact.since_cause_seconds) if fact.since_cause_seconds is not None else ""
    return (
        f'<tr><td class="number">{_span(fact.since_start_seconds)}</td>'
        f"<td>{escape(fact.name)}<details class='quiet'><summary>{fact.fact_id}</summary>"
        f"<pre>{escape(json.dumps(fact.body, indent=1))}</pre></details></td>"
        f'<td>{escape(fact.stated_by)}</td><td>{cause}</td><td class="number">{within}</td>'
        f'<td><div class="bar"><i style="left:{begin:.1f}%;width:{end - begin:.1f}%"></i></div></td></tr>'
    )


def _state(saga: SagaView) -> str:
    late = ' <span class="bad">timed out</span>' if saga.timed_out else ""
    return f'<span class="state {_CLASSES.get(saga.state, "")}">{saga.state.value}</span>{late}'


def _waits(waits: Iterable[WaitView]) -> str:
    return "<br>".join(
        f"{escape(wait.service)}{', a person' if wait.person else ''}"
        f' <span class="quiet">{escape(" or ".join(wait.facts))}</span>'
        for wait in waits
    )


def _instant(instant: datetime | None) -> str:
    return f"<time>{instant.isoformat(sep=' ', timespec='milliseconds')}</time>" if instant else ""


def _span(seconds: float) -> str:
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _page(title: str, body: str, *, refresh: bool) -> HTMLResponse:
    again = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if refresh else ""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}<title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>",
        headers=_HEADERS,
    )
