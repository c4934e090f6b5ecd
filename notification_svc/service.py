"""Everything the rest of the system must know of notification_svc, and what its process is made of."""

from events.facts.notification import CustomerNotified, MailBounced, NotificationFailed
from events.facts.order import OrderCancelled, OrderConfirmed
from events.facts.saga import RetryRequested, Settled
from events.runtime.definition import ServiceDefinition
from events.service import Step
from notification_svc import api
from notification_svc.decide import NAME, decide
from notification_svc.gateway import NotificationSettings, gateway_from
from notification_svc.repository import NOTICES

# The last comes after the first, which may be read later all the same.
_NOTIFIED = (CustomerNotified, NotificationFailed, MailBounced)

SERVICE = ServiceDefinition(
    name=NAME,
    position=5,
    decide=decide,
    repository=NOTICES,
    settings=NotificationSettings,
    gateway=gateway_from,
    routers=(api.router,),
    steps=(
        Step(OrderConfirmed, _NOTIFIED),
        # After the end. A saga that is cancelled stays so while this is waited for.
        Step(OrderCancelled, _NOTIFIED),
        Step(RetryRequested, _NOTIFIED),
        Step(Settled, _NOTIFIED),
    ),
    step_deadline_seconds=600.0,
    statuses_done=("notified", "failed"),
    # It notifies after the end, for as long as it takes.
    statuses_undone=("sending", "notified", "failed"),
    statuses_after={
        CustomerNotified: ("notified",),
        NotificationFailed: ("failed",),
        MailBounced: ("failed",),
    },
)
