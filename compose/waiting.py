"""The one way to wait until something is ready: ask what it lacks, until that is nothing or time is up."""

import time
from collections.abc import Callable

POLL_SECONDS = 0.05


def wait_until_ready(
    what_it_lacks: Callable[[], str | None], limit_seconds: float, *, poll_seconds: float = POLL_SECONDS
) -> str | None:
    """None as soon as it lacks nothing; what it lacks still when the time is up.

    It is asked at least once. What the asking raises ends the wait.
    """
    deadline = time.monotonic() + limit_seconds
    while (lacking := what_it_lacks()) is not None and time.monotonic() < deadline:
        time.sleep(poll_seconds)
    return lacking
