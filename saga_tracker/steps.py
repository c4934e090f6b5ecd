"""What comes next: after each fact, whose turn it is and what that service may answer.

The table is put together from what every installed service says of itself in its `service.py`. Every fact
that a service subscribes to is in it: its answer is the sign that it received it, and without that sign it is
sent the fact once more. A test holds the table against the types of the services' `decide`, so that it cannot
drift.
"""

from datetime import UTC, datetime

from events.facts.order import OrderConfirmed, OrderCreated
from events.runtime.definition import installed_services
from events.service import name_of

SERVICES = tuple(service.name for service in installed_services())
# A step that was added to a choreography which runs comes after those that were there before.
STEPS = tuple(
    sorted(
        (step for service in installed_services() for step in service.owed),
        key=lambda step: step.since or datetime.min.replace(tzinfo=UTC),
    )
)

# Which service receives which fact, as opposed to what it goes on from by itself.
SUBSCRIBED = frozenset((name_of(step.trigger), step.service) for step in STEPS if not step.own)
# What is waited for elsewhere, by a deadline of its own: the time of the whole order says nothing of it.
PATIENT = frozenset(
    (name_of(step.trigger), step.service) for step in STEPS if step.deadline_seconds is not None
)
# What replicas of a release before this one do without publishing it.
ADDED = frozenset((name_of(step.trigger), step.service) for step in STEPS if step.since is not None)
# Who cannot answer which of them without having received `order.created`.
KNOWING_THE_ORDER = frozenset(
    (name_of(step.trigger), step.service) for step in STEPS if step.knowing is OrderCreated
)
# Whose part in a confirmed order has to be done before it is completed, and the facts that say it is.
COMPLETING = frozenset(service.name for service in installed_services() if service.completes)
AFTER_THE_PIVOT = tuple(step for step in STEPS if step.trigger is OrderConfirmed)
