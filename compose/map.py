"""The map of who publishes what and who subscribes to it, drawn from the services' types.

As a table it is a part of docs/choreography.md, as a picture it is docs/system.svg. `make map` writes both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid5
from xml.sax.saxutils import escape

from compose.local.state import CHECKOUT
from events.facts import Fact, published_facts, saga
from events.facts.base import SupersededFact
from events.facts.order import OrderConfirmed, OrderCreated
from events.service import Service, name_of
from saga_tracker.projection import SagaFact, State, project

DOCUMENT = CHECKOUT / "docs" / "choreography.md"
PICTURE = CHECKOUT / "docs" / "system.svg"
BEGIN = "<!-- map: `make map` writes this part, a test compares it -->"
END = "<!-- end of the map -->"
TRACKER = "tracker"
TRACKED = "What the tracker publishes (it reads every fact)"

COLUMN, ROW = 152, 25
LEFT, TOP = 84, 64
BACKWARD_STATES = (State.COMPENSATING, State.CANCELLED, State.NEEDS_MANUAL)
_ORDER = UUID(int=1)


# -- the table ---------------------------------------------------------------------------------------


def draw_map(services: Sequence[Service]) -> str:
    """A Markdown table: every fact, who publishes it, who subscribes to it, what it means."""
    rows = ["| fact | who subscribes to it | meaning |", "|---|---|---|"]
    for owner in [*(service.name for service in services), saga.SagaTimedOut.owner]:
        rows.append(f"| **{owner}** publishes | | |")
        rows += [_row(fact, services) for fact in newest_facts() if fact.owner == owner]
    return "\n".join(rows)


def with_map(text: str, drawn: str) -> str:
    """A document with the part between the markers replaced. Raises ValueError when it has no such part."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no part between {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{drawn}\n{END}{after}"


def newest_facts() -> list[type[Fact]]:
    """Every fact in its newest version."""
    return [fact for fact in published_facts().values() if not issubclass(fact, SupersededFact)]


def subscribers(fact: type[Fact], services: Iterable[Service]) -> list[str]:
    """Who subscribes to a fact; the tracker, which reads all of them, where no service does."""
    return [service.name for service in services if fact in service.subscribes_to] or [TRACKER]


def _row(fact: type[Fact], services: Sequence[Service]) -> str:
    meaning = " ".join((fact.__doc__ or "").split()).partition(". ")[0].rstrip(".")
    return f"| `{fact.wire_name}` | {', '.join(subscribers(fact, services))} | {meaning} |"


# -- the picture -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrow:
    """A fact on its way from its publisher to whoever subscribes to it."""

    label: str
    source: str
    targets: tuple[str, ...]


def draw_picture(services: Sequence[Service]) -> str:
    """An SVG: a line for each service, and an arrow for each fact, in the order in which they follow.

    The way forward, the way back, and what the tracker publishes. Facts that only the tracker reads are left
    out, but for those that complete an order.
    """
    columns = [*(service.name for service in services), TRACKER]
    sections = [
        ("The way forward", "forward", _arrows(_forward(services), services)),
        ("The way back", "back", _arrows(_backward(services), services)),
        (
            "What the tracker publishes (it reads every fact)",
            "tracked",
            _arrows(_of_the_tracker(services), services),
        ),
    ]
    drawn: list[str] = []
    y = TOP + ROW
    for title, style, arrows in sections:
        drawn.append(f'<text class="title {style}" x="8" y="{y + 4}">{title}</text>')
        for arrow in arrows:
            y += ROW
            drawn += _drawn(arrow, columns, style, y)
        y += 2 * ROW
    width, height = 2 * LEFT + COLUMN * (len(columns) - 1), y
    return "\n".join([*_head(width, height), *_lines(columns, height), *drawn, "</svg>", ""])


def _arrows(facts: Iterable[type[Fact]], services: Sequence[Service]) -> list[Arrow]:
    """Without the owner in the label: where an arrow begins says whose fact it is."""
    by_owner = {saga.SagaTimedOut.owner: TRACKER}
    return [
        Arrow(
            name_of(fact).partition(".")[2],
            by_owner.get(fact.owner, fact.owner),
            tuple(subscribers(fact, services)),
        )
        for fact in facts
    ]


def _is_backward(fact: type[Fact]) -> bool:
    """Whether an order of which this is known is on its way back: the tracker's projection says so."""
    read_at = datetime(2026, 1, 1, tzinfo=UTC)
    known = [
        SagaFact(fact_id=uuid5(_ORDER, name_of(kind)), name=name_of(kind), read_at=read_at)
        for kind in (OrderCreated, fact)
    ]
    return project(known).state in BACKWARD_STATES


def _forward(services: Sequence[Service]) -> list[type[Fact]]:
    done = {
        result
        for service in services
        for step in service.owed
        if step.trigger is OrderConfirmed
        for result in step.results
        if not result.case
    }
    wanted = [
        fact
        for fact in newest_facts()
        if _of_a_service(fact, services)
        and (subscribers(fact, services) != [TRACKER] or fact in done)
        and not _is_backward(fact)
    ]
    return _in_order(wanted, services)


def _backward(services: Sequence[Service]) -> list[type[Fact]]:
    wanted = [
        fact
        for fact in newest_facts()
        if _of_a_service(fact, services) and subscribers(fact, services) != [TRACKER] and _is_backward(fact)
    ]
    return _in_order(wanted, services)


def _of_the_tracker(services: Sequence[Service]) -> list[type[Fact]]:
    owner = saga.SagaTimedOut.owner
    return [
        fact for fact in newest_facts() if fact.owner == owner and subscribers(fact, services) != [TRACKER]
    ]


def _of_a_service(fact: type[Fact], services: Sequence[Service]) -> bool:
    return fact.owner in {service.name for service in services}


def _in_order(facts: Sequence[type[Fact]], services: Sequence[Service]) -> list[type[Fact]]:
    """Each after those that lead to it, by the steps of the services."""
    steps = [
        (step.trigger, result)
        for service in services
        for step in service.owed
        if not step.person
        for result in step.results
        if step.trigger in facts and result in facts and result is not step.trigger
    ]
    depth = dict.fromkeys(facts, 0)
    for _ in facts:
        for before, after in steps:
            depth[after] = max(depth[after], depth[before] + 1)
    return sorted(facts, key=lambda fact: (depth[fact], facts.index(fact)))


def _drawn(arrow: Arrow, columns: Sequence[str], style: str, y: int) -> list[str]:
    places = {name: LEFT + COLUMN * index for index, name in enumerate(columns)}
    start = places[arrow.source]
    reached = [places[name] for name in arrow.targets if name != arrow.source]
    ends = sorted({min(start, *reached), max(start, *reached)} - {start})
    parts = [f'<line class="{style}" x1="{start}" y1="{y}" x2="{end}" y2="{y}"/>' for end in ends]
    for end in reached:
        tip = -7 if end > start else 7
        parts.append(f'<path class="{style} tip" d="M{end} {y}l{tip} -4v8z"/>')
    parts.append(f'<circle class="{style} tip" cx="{start}" cy="{y}" r="3"/>')
    nearest = min(reached, key=lambda end: abs(end - start))
    middle = (start + nearest) / 2
    parts.append(f'<text class="label" x="{middle:g}" y="{y - 5}">{escape(arrow.label)}</text>')
    return parts


def _lines(columns: Sequence[str], height: int) -> list[str]:
    drawn = []
    for index, name in enumerate(columns):
        x, kind = LEFT + COLUMN * index, "watcher" if name == TRACKER else "service"
        drawn.append(f'<line class="life" x1="{x}" y1="52" x2="{x}" y2="{height - 12}"/>')
        drawn.append(f'<rect class="{kind}" x="{x - 58}" y="16" width="116" height="36" rx="6"/>')
        drawn.append(f'<text class="name" x="{x}" y="39">{escape(name)}</text>')
    return drawn


def _head(width: int, height: int) -> list[str]:
    """The styles have a light and a dark form, and no ground of their own."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Services, the facts between them, and both directions of '
        'the saga">',
        "<style>",
        "text { font: 12px system-ui, sans-serif; fill: #1f2328 }",
        ".name { font-size: 14px; font-weight: 600; text-anchor: middle }",
        ".label { text-anchor: middle; font-family: ui-monospace, monospace; font-size: 11px }",
        ".title { font-weight: 700; font-size: 13px; stroke: none !important }",
        ".service { fill: #ddf4ff; stroke: #0969da } .watcher { fill: none; stroke: #656d76 }",
        ".life { stroke: #8c959f; stroke-dasharray: 2 4 }",
        ".forward { stroke: #1a7f37; fill: #1a7f37 } .back { stroke: #bc4c00; fill: #bc4c00 }",
        ".tracked { stroke: #656d76; fill: #656d76 } line { stroke-width: 1.5 }",
        "@media (prefers-color-scheme: dark) {",
        "text { fill: #e6edf3 } .service { fill: #12263f; stroke: #58a6ff } .watcher { stroke: #9198a1 }",
        ".life { stroke: #6e7681 } .forward { stroke: #3fb950; fill: #3fb950 }",
        ".back { stroke: #f0883e; fill: #f0883e } .tracked { stroke: #9198a1; fill: #9198a1 }",
        "}",
        "</style>",
    ]
