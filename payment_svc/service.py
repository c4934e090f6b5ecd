"""The service as the others know it: a name and a `decide`, from whose types the rest follows."""

from functools import partial

from events.service import Service
from payment_svc.decide import DEFAULT, NAME, ApprovalLimits, decide

DEFAULT_APPROVAL_LIMIT_MINOR = 1_000_000


def payment_service(approval_limits_minor: ApprovalLimits) -> Service:
    """The service with the amounts above which a person has to approve, by currency."""
    return Service(NAME, partial(decide, approval_limits_minor=approval_limits_minor))


SERVICE = payment_service({DEFAULT: DEFAULT_APPROVAL_LIMIT_MINOR})
