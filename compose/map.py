"""The map of who states and who hears what, drawn from the services' types. Part of the README."""

from collections.abc import Sequence
from pathlib import Path

from events.facts import Fact, published_facts, saga
from events.facts.base import SupersededFact
from events.service import Service

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- map: `make map` writes this part, a test compares it -->"
END = "<!-- end of the map -->"


def draw_map(services: Sequence[Service]) -> str:
    """A Markdown table: every fact, who states it, who hears it, what it means."""
    rows = ["| fact | heard by | meaning |", "|---|---|---|"]
    owners = [service.name for service in services] + [saga.SagaTimedOut.owner]
    for owner in owners:
        rows.append(f"| **{owner}** states | | |")
        rows += [_row(fact, services) for fact in _newest_facts() if fact.owner == owner]
    return "\n".join(rows)


def with_map(text: str, drawn: str) -> str:
    """A README with the part between the markers replaced. Raises ValueError when it has no such part."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no part between {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{drawn}\n{END}{after}"


def _newest_facts() -> list[type[Fact]]:
    return [fact for fact in published_facts().values() if not issubclass(fact, SupersededFact)]


def _row(fact: type[Fact], services: Sequence[Service]) -> str:
    subscribers = [service.name for service in services if fact in service.subscribes_to] or ["tracker"]
    meaning = " ".join((fact.__doc__ or "").split())
    return f"| `{fact.wire_name}` | {', '.join(subscribers)} | {meaning.partition('. ')[0].rstrip('.')} |"
