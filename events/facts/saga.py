"""What the saga tracker states."""

from events.facts.base import Fact, Reason


class SagaTimedOut(Fact, wire="saga.timed_out.v1"):
    """A step of this order is late for good; order_svc, which owns its fate, decides what follows."""

    waiting_for: Reason
