"""`python -m compose.all_in_one`: every installed service and the tracker, as one process.

For development and for small shops: the code, queues, databases, outboxes and addresses are those that each
has as a process of its own. They share a processor, a log and what `/metrics` counts, and end together. A
variable that names one of them is for that one alone: MURMURATION_ORDER_DATABASE_URL is what order reads as
MURMURATION_DATABASE_URL.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from compose.local.components import PREFIX
from compose.local.provision import ALL_IN_ONE
from events.messaging.topology import TRACKER
from events.runtime.definition import installed_services
from events.runtime.process import part_of, serve
from saga_tracker import service as tracker


def own_environment(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What one of them finds in place of what is there for all."""
    own = f"{PREFIX}{name.upper()}_"
    return {PREFIX + key.removeprefix(own): text for key, text in environment.items() if key.startswith(own)}


@contextmanager
def _environment_of(name: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(own_environment(name, before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Run until stopped."""
    parts = []
    for service in installed_services():
        with _environment_of(service.name):
            parts.append(part_of(service))
    with _environment_of(TRACKER):
        parts.append(tracker.part())
    serve(*parts, name=ALL_IN_ONE)


if __name__ == "__main__":
    main()
