"""What did not fit, over HTTP."""

from datetime import datetime
from typing import Annotated, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict

from events.http.authentication import STOCK, VIEWER
from events.http.limits import InDigits
from events.storage.database import Database
from saga_tracker.consistency.snapshot import PARTIES, Party
from saga_tracker.reconciliation import comparisons
from saga_tracker.reconciliation.reconciler import Reconciler
from saga_tracker.settings import TrackerSettings

MAX_PAGE = 500

router = APIRouter(prefix="/reconciliation", tags=["reconciliation"])


class Comparer(Protocol):
    """What the routes need of the running tracker."""

    @property
    def database(self) -> Database: ...

    @property
    def settings(self) -> TrackerSettings: ...

    @property
    def reconciler(self) -> Reconciler: ...


def _comparer(request: Request) -> Comparer:
    comparer: Comparer = request.app.state.runtime
    return comparer


Tracker = Annotated[Comparer, Depends(_comparer)]


def _known(party: str) -> Party:
    if party not in PARTIES:
        raise ValueError(f"should be one of {', '.join(PARTIES)}")
    return party


KnownParty = Annotated[str, AfterValidator(_known), Query(json_schema_extra={"enum": list(PARTIES)})]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE), InDigits]


class DifferenceView(BaseModel):
    """What was expected of a service, or of the provider's ledger, by the facts, and what was found."""

    order_id: UUID
    service: Party
    about: str
    expected: str
    found: str
    first_seen_at: datetime
    last_seen_at: datetime


class PartyView(BaseModel):
    """Whether a service, or the provider's ledger, is compared. If it is not, that is no difference."""

    model_config = ConfigDict(from_attributes=True)

    party: Party
    configured: bool
    why_not: str | None


class RoundView(BaseModel):
    """The last round of comparisons of this tracker. `postponed` says why it compared nothing."""

    model_config = ConfigDict(from_attributes=True)

    at: datetime
    orders: int
    postponed: str | None


class Reconciliation(BaseModel):
    """The differences that lasted, oldest first, at most `limit` of those `listed`.

    `unsettled`: seen too short a time ago to be called one. `waiting`: orders still to be compared, or again.
    """

    differences: list[DifferenceView]
    listed: int
    unsettled: int
    waiting: int
    parties: list[PartyView]
    last_round: RoundView | None


@router.get("", dependencies=[VIEWER])
async def see(tracker: Tracker, service: KnownParty | None = None, limit: Limit = 50) -> Reconciliation:
    """Where the view, the services' answers and the provider's ledger do not agree. Nothing fixes that."""
    settle_seconds = tracker.settings.reconciliation_settle_seconds
    async with tracker.database.transaction() as connection:
        found, counts = await comparisons.listed(connection, settle_seconds, service, limit)
    reconciler = tracker.reconciler
    last_round = reconciler.last_round
    return Reconciliation(
        differences=[DifferenceView(**row) for row in found],
        **counts,
        parties=[PartyView.model_validate(status) for status in reconciler.parties.statuses],
        last_round=RoundView.model_validate(last_round) if last_round else None,
    )


@router.post("/run", dependencies=[STOCK])
async def run(tracker: Tracker, service: KnownParty | None = None, limit: Limit = 50) -> Reconciliation:
    """Compare now: what waits, what did not fit, and once more the sagas that ended last."""
    await tracker.reconciler.run_now()
    return await see(tracker, service, limit)
