"""The pages of manual cases, reconciliation, audit and services, and of each type of fact."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from events.facts import Fact, published_facts
from events.facts.base import SupersededFact
from events.facts.order import OrderCancelled
from events.facts.saga import SagaTimedOut
from events.http.authentication import VIEWER, Viewer
from events.http.problems import Problem
from events.http.tokens import Role
from events.runtime.definition import installed_services
from events.service import name_of
from saga_tracker.board import drawing, queries
from saga_tracker.board.acts import ActView, Signed, back, confirmed, forms, on_case, signed_form
from saga_tracker.board.drawing import Published
from saga_tracker.board.live import HEALTH
from saga_tracker.board.pages import Tracker, reported_outside
from saga_tracker.board.render import PageRoute, answer, rendered
from saga_tracker.consistency.snapshot import PARTIES
from saga_tracker.dead_letters.views import AuditPage
from saga_tracker.http import audit, manual_api
from saga_tracker.http.audit import Entry
from saga_tracker.http.views import as_seen_by
from saga_tracker.ladder import LADDER
from saga_tracker.projection import State
from saga_tracker.reconciliation import api as reconciliation_api
from saga_tracker.reconciliation.api import KnownParty, Reconciliation
from saga_tracker.steps import SERVICES

MAX_CASES = 200
PAGE_SIZE = 100

router = APIRouter(include_in_schema=False, route_class=PageRoute, dependencies=[VIEWER])


# --- Manual cases: a queue


@dataclass(frozen=True, slots=True)
class CaseView:
    """A saga that needs a person: since when, why, who has taken it, and the last note about it."""

    order_id: UUID
    since: datetime
    reason: str | None
    failed: list[str]
    overdue: list[str]
    letters: list[UUID]
    claimed_by: str | None
    claimed_at: datetime | None
    note: str | None
    # What parties outside say now of what failed, and the money that moved by the provider's ledger.
    outside: list[str]
    acts: list[ActView]


@router.get("/ui/manual")
async def manual(tracker: Tracker, request: Request, done: str = "") -> HTMLResponse:
    """The sagas that need a person, the one that waits longest first."""
    async with tracker.database.transaction() as connection:
        rows = await queries.manual(connection, MAX_CASES)
        order_ids = [row["order_id"] for row in rows]
        taken = await queries.claims(connection, order_ids)
    outside = await reported_outside(tracker, {row["order_id"]: row["waits"] for row in rows})
    base_url = str(request.base_url)
    cases = [
        case_of(row, taken.get(row["order_id"], {}), outside.get(row["order_id"], []), base_url)
        for row in rows
    ]
    return answer(manual_page(cases, done))


def case_of(row: Mapping[str, Any], taken: Mapping[str, Any], outside: list[str], base_url: str) -> CaseView:
    """A row of the queue."""
    claim = taken.get("claim")
    mine = claim if claim and claim["action"] == "claimed" else None
    waits = row["waits"]
    failed = sorted({wait["service"] for wait in waits if wait["person"]})
    overdue = sorted({wait["service"] for wait in waits if wait.get("overdue_at")})
    return CaseView(
        order_id=row["order_id"],
        since=row["since"],
        reason=row["reason"],
        failed=failed,
        overdue=overdue,
        letters=[letter["letter_id"] for letter in row["letters"]],
        claimed_by=mine["by"] if mine else None,
        claimed_at=mine["at"] if mine else None,
        note=taken.get("note"),
        outside=outside,
        acts=on_case(row["order_id"], failed, overdue, row["reason"], base_url),
    )


def manual_page(cases: Sequence[CaseView], done: str = "") -> str:
    """The queue; `done` says what was just done."""
    return rendered(
        "manual",
        title="Manual cases",
        path="/ui/manual",
        topics=("sagas", "audit", "letters"),
        cases=cases,
        most=MAX_CASES,
        done=done,
    )


@forms.post("/ui/manual/{order_id}/{verb}")
async def act_on_case(
    order_id: UUID, verb: Literal["claim", "unclaim", "note"], tracker: Tracker, request: Request
) -> Response:
    """Take a case, give it back, or note something about it: it is in the audit, and changes nothing else."""
    signed, form = await signed_form(request, Role.OPERATOR)
    confirmed(form)
    await _enter(tracker, order_id, verb, signed)
    return back("/ui/manual", verb)


async def _enter(tracker: Tracker, order_id: UUID, verb: str, signed: Signed) -> None:
    act = signed.noted
    actions: dict[str, audit.Action] = {"claim": "claimed", "unclaim": "unclaimed", "note": "noted"}
    async with tracker.database.transaction() as connection:
        found = await queries.claims(connection, [order_id])
        claim = found.get(order_id, {}).get("claim")
        if verb == "claim" and claim and claim["action"] == "claimed" and claim["by"] != signed.who.name:
            raise Problem(409, f"{claim['by']} has taken this case already")
        await audit.enter(connection, [Entry.of(signed.who, actions[verb], act.note, None, order_id)])


# --- Reconciliation and audit


@router.get("/ui/reconciliation")
async def reconciliation(
    tracker: reconciliation_api.Tracker, service: KnownParty | None = None
) -> HTMLResponse:
    """Where the view, the services and the provider's ledger do not agree."""
    found = await reconciliation_api.see(tracker, service, limit=PAGE_SIZE)
    return answer(reconciliation_page(found, service))


def reconciliation_page(found: Reconciliation, service: str | None = None) -> str:
    """The differences, and with whom is compared."""
    return rendered(
        "reconciliation",
        title="Reconciliation",
        path="/ui/reconciliation",
        topics=("differences",),
        found=found,
        chosen=service,
        parties=PARTIES,
    )


@router.get("/ui/audit")
async def audited(
    tracker: Tracker, order_id: UUID | None = None, before: manual_api.Before = None
) -> HTMLResponse:
    """Who did what, the last act first."""
    page = await manual_api.entries(tracker, order_id, limit=PAGE_SIZE, before=before)
    return answer(audit_page(page, order_id, before))


def audit_page(page: AuditPage, order_id: UUID | None = None, before: int | None = None) -> str:
    """Some entries of the audit."""
    topics = () if before else ("audit",)
    return rendered(
        "audit", title="Audit", path="/ui/audit", topics=topics, page=page, order_id=order_id, before=before
    )


# --- Services, and the facts they publish


def newest_facts() -> list[type[Fact]]:
    """Every fact in its newest version, by its owner's place."""
    order = {name: place for place, name in enumerate((*SERVICES, SagaTimedOut.owner))}
    newest = [kind for kind in published_facts().values() if not issubclass(kind, SupersededFact)]
    return sorted(newest, key=lambda kind: order.get(kind.owner, len(order)))


def subscribers(kind: type[Fact]) -> list[str]:
    """Which services subscribe to a fact."""
    return [service.name for service in installed_services() if kind in service.subscribes_to]


_BACKWARD = {
    kind
    for rung in LADDER
    if rung.state in (State.COMPENSATING, State.NEEDS_MANUAL)
    for kind in rung.reached_by
} | {OrderCancelled}


def _picture() -> str:
    """What services receive of each other and of the tracker; what only the tracker reads is left out."""
    tracker = SagaTimedOut.owner
    facts = [
        Published(
            name_of(kind),
            kind.wire_name,
            kind.owner,
            subscribers(kind),
            "tracked" if kind.owner == tracker else "backward" if kind in _BACKWARD else "forward",
        )
        for kind in newest_facts()
        if subscribers(kind)
    ]
    return drawing.choreography([*SERVICES, tracker], facts)


@router.get("/ui/services")
async def services(tracker: Tracker) -> HTMLResponse:
    """Who publishes what and who subscribes to it, drawn and listed, and how each service is."""
    health = await tracker.board.health.get()
    return answer(services_page(health))


def services_page(health: Mapping[str, Any]) -> str:
    """The map, and what each service receives and publishes."""
    listed = [
        {
            "name": service.name,
            "subscribes_to": service.subscribes_to,
            "publishes": service.publishes,
            "calls": sorted(service.calls),
            "deadline_seconds": service.step_deadline_seconds,
            "patience_seconds": service.patience_seconds,
        }
        for service in installed_services()
    ]
    return rendered(
        "services",
        title="Services",
        path="/ui/services",
        topics=(HEALTH,),
        picture=_picture(),
        services=listed,
        health=health,
    )


@router.get("/ui/facts/{wire_name}")
async def fact_type(wire_name: str, tracker: Tracker, who: Viewer) -> HTMLResponse:
    """A type of fact: what it means, who publishes it and who subscribes, its schema and an example."""
    kind = published_facts().get(wire_name)
    if kind is None:
        raise Problem(404, f"no fact is named {wire_name}")
    example = await tracker.database.read(lambda connection: queries.example(connection, wire_name))
    if example is not None:
        example["body"] = as_seen_by(who.role, example["body"], tracker.settings)
    return answer(fact_type_page(kind, example))


def fact_type_page(kind: type[Fact], example: Mapping[str, Any] | None) -> str:
    """A type of fact, with a recent one as its example."""
    versions = sorted(name for name in published_facts() if name_of(name) == name_of(kind))
    return rendered(
        "fact_type",
        title=kind.wire_name,
        path="/ui/services",
        kind=kind,
        meaning=" ".join((kind.__doc__ or "").split()),
        subscribers=subscribers(kind),
        versions=versions,
        schema=json.dumps(kind.model_json_schema(), indent=2, ensure_ascii=False),
        example=example and {**example, "body": json.dumps(example["body"], indent=2, ensure_ascii=False)},
    )
