"""Everything the rest of the system must know of loyalty_svc, and what its process is made of."""

from datetime import UTC, datetime

from events.facts.order import OrderConfirmed
from events.runtime.definition import ServiceDefinition
from events.service import Step
from loyalty_svc.decide import NAME, decide
from loyalty_svc.facts import PointsGranted
from loyalty_svc.repository import GRANTS

SERVICE = ServiceDefinition(
    name=NAME,
    decide=decide,
    repository=GRANTS,
    steps=(Step(OrderConfirmed, (PointsGranted,)),),
    # It joined a system that ran already: nothing is owed for what was confirmed before.
    since=datetime(2026, 11, 28, tzinfo=UTC),
    step_deadline_seconds=30.0,
    statuses_done=("granted",),
    statuses_undone=("none",),
    statuses_after={PointsGranted: ("granted",)},
)
