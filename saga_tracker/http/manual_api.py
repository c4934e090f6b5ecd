"""What a person does about a saga that needs one, and what was done: audited, with who and in which role."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from events.http.authentication import VIEWER, Approver, Identity, Operator
from events.http.limits import InDigits, StrictRoute
from events.http.problems import Problem
from events.storage.database import Connection
from saga_tracker.dead_letters import repository
from saga_tracker.dead_letters.api import Tracker
from saga_tracker.dead_letters.views import AuditPage, AuditView, NotedAct
from saga_tracker.http import audit, queries
from saga_tracker.http import manual_cases as cases
from saga_tracker.http.audit import Entry, second
from saga_tracker.http.manual_cases import ManualCase
from saga_tracker.projection import State
from saga_tracker.scheduler import redrive
from saga_tracker.scheduler import redrive as outbox

MAX_PAGE = 500

router = APIRouter(tags=["manual cases"], route_class=StrictRoute)

UNKNOWN = {"description": "No fact of such an order has been read"}
NOTHING_TO_DO = {"description": "The saga needs nobody, or nothing of it can be done by hand"}


Limit = Annotated[int, Query(ge=1, le=MAX_PAGE), InDigits]
Before = Annotated[int | None, Query(ge=0, le=2**63 - 1, description="`next_before` of a page."), InDigits]


class AskedService(BaseModel):
    """A service that is asked to do something about a fact: its own failure, or what it has to answer."""

    service: str
    fact: str
    fact_id: UUID


class RedriveOutcome(BaseModel):
    """Who was asked to try again what failed, and who was sent once more the fact that it has to answer."""

    order_id: UUID
    tries_again: list[AskedService]
    sent_again: list[AskedService]


class ProposalView(BaseModel):
    """What was proposed, and waits for a second person until then."""

    model_config = ConfigDict(from_attributes=True)

    by: str
    expires_at: datetime


class ResolveOutcome(BaseModel):
    """Who got word that a person has settled what failed; nobody yet, where that takes a second person."""

    order_id: UUID
    settled: list[AskedService]
    proposed: ProposalView | None = None


@router.post(
    "/sagas/{order_id}/redrive",
    status_code=202,
    responses={404: UNKNOWN, 409: NOTHING_TO_DO},
)
async def redrive_saga(order_id: UUID, act: NotedAct, who: Operator, tracker: Tracker) -> RedriveOutcome:
    """Have whoever failed for good try again, and send whoever is overdue its fact once more.

    Refused (409) when the saga needs nobody, or when its failures have been answered already.
    """
    async with tracker.database.transaction() as connection:
        saga = await _needing_a_person(connection, order_id)
        failed = await cases.unanswered(connection, order_id)
        asked = [case for case in failed if await cases.ask_again(connection, case, who=who, note=act.note)]
        await repository.mark_replayed_cases(connection)
        sent = await _send_again(connection, order_id, saga["waits"], who, act.note)
        if not asked and not sent:
            raise _nothing_to_do(order_id, saga, "redriven")
    tracker.publisher.look_in_table()
    return RedriveOutcome(order_id=order_id, tries_again=_asked(asked), sent_again=sent)


@router.post(
    "/sagas/{order_id}/settle",
    status_code=202,
    responses={404: UNKNOWN, 409: NOTHING_TO_DO},
)
async def settle_saga(order_id: UUID, act: NotedAct, who: Approver, tracker: Tracker) -> ResolveOutcome:
    """What failed for good was done outside: its service publishes it, with the name of who settled it.

    Where two people have to agree, the first one proposes it, and the same request by another one settles it.
    Refused (409) when nothing failed, when that has been answered already, or when it is merely overdue.
    """
    async with tracker.database.transaction() as connection:
        saga = await _needing_a_person(connection, order_id)
        failed = await cases.unanswered(connection, order_id)
        if failed and tracker.settings.second_approver:
            entry = Entry.of(who, "settlement_proposed", act.note, None, order_id)
            seconds = tracker.settings.proposal_seconds
            waits = await second(connection, entry, order_id, for_seconds=seconds)
            if waits is not None:
                proposed = ProposalView.model_validate(waits)
                return ResolveOutcome(order_id=order_id, settled=[], proposed=proposed)
        settled = [case for case in failed if await cases.settle(connection, case, who=who, note=act.note)]
        if not settled:
            raise _nothing_to_do(order_id, saga, "settled")
    tracker.publisher.look_in_table()
    return ResolveOutcome(order_id=order_id, settled=_asked(settled))


@router.get("/audit", dependencies=[VIEWER])
async def entries(
    tracker: Tracker, order_id: UUID | None = None, limit: Limit = 50, before: Before = None
) -> AuditPage:
    """Who did what about dead letters and manual cases, the last act first; of one order, or of all."""
    async with tracker.database.transaction() as connection:
        rows = await audit.page(connection, order_id, before, limit + 1)
    shown = [AuditView(**row) for row in rows[:limit]]
    return AuditPage(entries=shown, next_before=shown[-1].entry_id if len(rows) > limit else None)


async def _needing_a_person(connection: Connection, order_id: UUID) -> dict[str, Any]:
    found = await queries.saga_of(connection, order_id)
    if found is None:
        raise Problem(404, f"no fact of order {order_id} has been read", order_id=str(order_id))
    saga = found[0]
    if saga["state"] != State.NEEDS_MANUAL:
        raise Problem(
            409,
            f"the saga is {saga['state']} and needs nobody: there is nothing to do by hand",
            order_id=str(order_id),
            state=saga["state"],
        )
    return saga


async def _send_again(
    connection: Connection, order_id: UUID, waits: Sequence[Mapping[str, Any]], who: Identity, note: str
) -> list[AskedService]:
    """The fact that whoever is overdue has to answer, to that service alone."""
    sent: list[AskedService] = []
    for wait in waits:
        if wait["person"] or wait["overdue_at"] is None:
            continue
        messages = await redrive.once_more(connection, order_id, UUID(wait["because_of_id"]), wait["service"])
        if not messages:
            continue
        await outbox.enter(connection, messages)
        await audit.enter(connection, [Entry.of(who, "sent_again", note, wait["service"], order_id)])
        sent.append(
            AskedService(service=wait["service"], fact=wait["because_of"], fact_id=messages[-1].message_id)
        )
    return sent


def _asked(answered: Sequence[ManualCase]) -> list[AskedService]:
    return [AskedService(service=case.service, fact=case.name, fact_id=case.fact_id) for case in answered]


def _nothing_to_do(order_id: UUID, saga: Mapping[str, Any], how: str) -> Problem:
    why = saga["reason"] or "its facts contradict each other"
    if any(wait["person"] for wait in saga["waits"]):
        detail = f"somebody has answered it already: see /audit?order_id={order_id}"
    elif how == "settled" and any(wait["overdue_at"] for wait in saga["waits"]):
        detail = f"nothing of it failed, a service is late ({why}): it can be redriven, not settled"
    else:
        detail = f"nothing of it can be {how}: {why}"
    return Problem(409, detail, order_id=str(order_id))
