"""The service as the others know it: a name and a `decide`, from whose types the rest follows."""

from functools import partial

from events.service import Service
from payment_svc.decide import NAME, decide

DEFAULT_APPROVAL_LIMIT_MINOR = 1_000_000


def payment_service(approval_limit_minor: int = DEFAULT_APPROVAL_LIMIT_MINOR) -> Service:
    """The service with the amount above which a person has to approve, in minor units of any currency."""
    return Service(NAME, partial(decide, approval_limit_minor=approval_limit_minor))


SERVICE = payment_service()
