"""The W3C trace context of an order, from its first request through every fact and call."""

import re

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

_IDS = RandomIdGenerator()
_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def begin_trace() -> str:
    """A new traceparent, for what arrives without one."""
    return f"00-{_IDS.generate_trace_id():032x}-{_IDS.generate_span_id():016x}-01"


def trace_id(traceparent: str | None) -> str | None:
    """The trace id in a traceparent, as logs and Jaeger show it."""
    found = _TRACEPARENT.match(traceparent or "")
    return found[1] if found else None
