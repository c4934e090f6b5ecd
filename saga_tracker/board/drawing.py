"""What pages show as pictures, drawn as SVG: a saga along the time, and figures of the last hour. Pure.

No style and no script is in them: how they look is in `static/board.css`. Whatever text they are given is
escaped.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID
from xml.sax.saxutils import escape, quoteattr

from events.service import name_of
from saga_tracker.board.render import span
from saga_tracker.http.views import FactView, SagaWithTimeline, WaitView
from saga_tracker.steps import SERVICES, STEPS

# --- One saga: lanes by service, facts as dots in time, what led to what, and what is still to come

LANE_HEIGHT, LANES_TOP, LANES_LEFT, RIGHT = 62, 10, 96, 90
LEAST_GAP, GAP_PER_DECADE = 62, 16
COMING_GAP = 100
MAX_COMING = 12
TRACKER_LANE = "saga"
# A drawing with links in it is no image.
ROLES = ('role="img"', 'role="group"')
WIDE = ' class="wide"'
_REDRIVE = ("saga.redriven", "saga.retry_requested")
_BAD = ("saga.timed_out", "saga.overdue")
_BACK = ("withdrawn", "cancelled", "released", "refunded", "declined", "rejected", "expired")


@dataclass(frozen=True, slots=True)
class Coming:
    """A fact that is still to come. `after` is the fact or the step before it; `waited_for`: it is next."""

    name: str
    service: str
    after: str
    waited_for: bool


def still_to_come(waits: Sequence[WaitView]) -> list[Coming]:
    """What follows if all goes its usual way: of each step its first result, which is that it succeeds."""
    coming: dict[str, Coming] = {}
    for wait in waits:
        coming.setdefault(wait.facts[0], Coming(wait.facts[0], wait.service, str(wait.because_of_id), True))
    known = {wait.because_of for wait in waits}
    queue = list(coming)
    while queue and len(coming) < MAX_COMING:
        name = queue.pop(0)
        for step in STEPS:
            result = name_of(step.results[0])
            if name_of(step.trigger) != name or step.person or result in coming or result in known:
                continue
            coming[result] = Coming(result, step.service, name, False)
            queue.append(result)
    return list(coming.values())


def lanes(saga: SagaWithTimeline) -> str:
    """The saga's story as a picture."""
    facts = sorted(saga.facts, key=lambda fact: (fact.read_at, fact.since_start_seconds))
    names = [*SERVICES, *sorted({_lane_of(fact) for fact in facts} - set(SERVICES))]
    rows = {name: LANES_TOP + LANE_HEIGHT * index + LANE_HEIGHT // 2 for index, name in enumerate(names)}
    places = _places(facts)
    end = max(places.values(), default=LANES_LEFT)
    coming = still_to_come(saga.waits) if saga.waits else []
    columns = {each.name: end + COMING_GAP * (1 + depth) for each, depth in _depths(coming)}
    width = max([end, *columns.values()]) + RIGHT
    height = LANES_TOP + LANE_HEIGHT * len(names) + 26
    drawn = [
        *_lane_rows(rows, width),
        *_waiting_bars(saga, places, rows, end),
        *_arrows(facts, places, rows),
        *_coming(coming, columns, saga, places, rows),
        *_dots(saga.order_id, facts, places, rows),
        *_ticks(facts, places, height - 10),
    ]
    title = f"{len(facts)} facts of this order by service, along the time"
    return _svg(width, height, title, drawn, wide=True)


def _lane_of(fact: FactView) -> str:
    return fact.name.partition(".")[0]


def _places(facts: Sequence[FactView]) -> dict[UUID, float]:
    """Where each fact stands. A gap is as wide as its logarithm: else one pause would hide the rest."""
    places: dict[UUID, float] = {}
    x, before = float(LANES_LEFT + 30), None
    for fact in facts:
        if before is not None:
            gap_seconds = max(0.0, (fact.read_at - before).total_seconds())
            x += LEAST_GAP + GAP_PER_DECADE * math.log10(1 + gap_seconds * 100)
        places[fact.fact_id], before = x, fact.read_at
    return places


def _depths(coming: Sequence[Coming]) -> Iterator[tuple[Coming, int]]:
    """Each with how many steps ahead it is."""
    depths: dict[str, int] = {}
    for each in coming:
        depths[each.name] = depths.get(each.after, -1) + 1
        yield each, depths[each.name]


def _lane_rows(rows: dict[str, int], width: float) -> Iterator[str]:
    for index, (name, y) in enumerate(rows.items()):
        top = y - LANE_HEIGHT // 2
        if index % 2 == 0:
            yield f'<rect class="lane" x="0" y="{top}" width="{width:g}" height="{LANE_HEIGHT}"/>'
        yield f'<text class="head" x="8" y="{y + 4}">{escape(name)}</text>'
        yield f'<line class="axis" x1="{LANES_LEFT}" y1="{y}" x2="{width - 8:g}" y2="{y}"/>'


def _arrows(facts: Sequence[FactView], places: dict[UUID, float], rows: dict[str, int]) -> Iterator[str]:
    """From each fact to what came of it; a bar where a call to the outside or a person was in between."""
    by_id = {fact.fact_id: fact for fact in facts}
    for fact in facts:
        if fact.causation is None or (cause := by_id.get(fact.causation.fact_id)) is None:
            continue
        start, end = places[cause.fact_id], places[fact.fact_id]
        above, below = rows[_lane_of(cause)], rows[_lane_of(fact)]
        if not fact.causation.directly and end > start:
            took = f", {span(fact.since_causation_seconds)}" if fact.since_causation_seconds else ""
            what = f"<title>a call to the outside, or a person{escape(took)}</title>"
            left = start + 8
            yield (
                f'<rect class="call" x="{left:.1f}" y="{below - 5}" width="{max(2.0, end - left):.1f}" '
                f'height="10" rx="3">{what}</rect>'
            )
        if above == below:
            bend = f"M{start:.1f} {above}L{end:.1f} {below}"
        else:
            middle = (start + end) / 2
            bend = f"M{start:.1f} {above}C{middle:.1f} {above} {middle:.1f} {below} {end - 6:.1f} {below}"
        yield f'<path class="arrow" d="{bend}"/>'
        yield f'<path class="tip" d="M{end - 5:.1f} {below}l-7 -4v8z"/>'


def _dots(
    order_id: UUID, facts: Sequence[FactView], places: dict[UUID, float], rows: dict[str, int]
) -> Iterator[str]:
    below = dict.fromkeys(rows, False)
    for fact in facts:
        x, lane = places[fact.fact_id], _lane_of(fact)
        y = rows[lane]
        label_y = y + 20 if below[lane] else y - 11
        below[lane] = not below[lane]
        title = f"{fact.wire_name}, {span(fact.since_start_seconds)} after the beginning"
        bare = fact.name.partition(".")[2]
        yield (
            f"<a href={quoteattr(f'/ui/sagas/{order_id}/facts/{fact.fact_id}')}>"
            f"<title>{escape(title)}</title>"
            f'<circle class="dot {_look_of(fact.name)}" cx="{x:.1f}" cy="{y}" r="6"/>'
            f'<text x="{x:.1f}" y="{label_y}" text-anchor="middle">{escape(bare)}</text></a>'
        )


def _look_of(name: str) -> str:
    if name in _REDRIVE:
        return "redrive"
    if name.endswith("_failed") or name in _BAD:
        return "bad"
    return "back" if name.endswith(_BACK) else "forward"


def _coming(
    coming: Sequence[Coming],
    columns: dict[str, float],
    saga: SagaWithTimeline,
    places: dict[UUID, float],
    rows: dict[str, int],
) -> Iterator[str]:
    """The steps still to come, dashed."""
    starts = {str(fact.fact_id): (places[fact.fact_id], rows[_lane_of(fact)]) for fact in saga.facts}
    taken: dict[tuple[float, str], int] = {}
    for each in coming:
        if each.service not in rows:
            continue
        x, y = columns[each.name], rows[each.service]
        # Two results of one service at one time, one below the other.
        shift = taken.get((x, each.service), 0)
        taken[x, each.service] = shift + 1
        y += 16 * shift
        look = "coming waiting" if each.waited_for else "coming"
        if each.after in starts:
            from_x, from_y = starts[each.after]
            middle = (from_x + x) / 2
            bend = f"M{from_x:.1f} {from_y}C{middle:.1f} {from_y} {middle:.1f} {y} {x - 6:.1f} {y}"
            yield f'<path class="{look}" d="{bend}"/>'
        starts[each.name] = (x, y)
        title = f"{'waited for' if each.waited_for else 'then'}: {each.name}"
        dot = f'<circle class="dot {look}" cx="{x:.1f}" cy="{y}" r="6"/>'
        yield (
            f"<g><title>{escape(title)}</title>{dot}"
            f'<text class="small" x="{x:.1f}" y="{y - 11}" text-anchor="middle">'
            f"{escape(each.name.partition('.')[2])}</text></g>"
        )


def _waiting_bars(
    saga: SagaWithTimeline, places: dict[UUID, float], rows: dict[str, int], end: float
) -> Iterator[str]:
    """For how long each service has been waited for, up to now."""
    for wait in saga.waits:
        if wait.service not in rows:
            continue
        start = places.get(wait.because_of_id, end) + 8
        width = max(4.0, end + COMING_GAP - 8 - start)
        title = f"{wait.service} has been waited for since {wait.since:%H:%M:%S}"
        yield (
            f'<rect class="call open" x="{start:.1f}" y="{rows[wait.service] - 5}" '
            f'width="{width:.1f}" height="10" rx="3">'
            f"<title>{escape(title)}</title></rect>"
        )
        yield from _attempts(wait, start, width, rows[wait.service])


def _attempts(wait: WaitView, start: float, width: float, y: int) -> Iterator[str]:
    """The single attempts that failed, on the bar of the wait, which ends when the service was asked."""
    cause = wait.cause
    if cause is None:
        return
    lasted = max(0.001, (cause.known_at - wait.since).total_seconds())
    for at in cause.failed_at:
        share = min(1.0, max(0.0, (at - wait.since).total_seconds() / lasted))
        x = start + share * width
        title = f"an attempt at {cause.what} failed at {at:%H:%M:%S}: {cause.error or 'a lock'}"
        yield (f'<path class="attempt" d="M{x:.1f} {y - 8}v16"><title>{escape(title)}</title></path>')


def _ticks(facts: Sequence[FactView], places: dict[UUID, float], y: int) -> Iterator[str]:
    free_from = 0.0
    for fact in facts:
        x = places[fact.fact_id]
        if x >= free_from:
            after = span(fact.since_start_seconds)
            yield f'<text class="small" x="{x:.1f}" y="{y}" text-anchor="middle">{after}</text>'
            free_from = x + 58


# --- Figures of the last hour, a value a minute

PLOT_WIDTH, PLOT_HEIGHT, PLOT_LEFT, PLOT_BOTTOM = 420, 110, 46, 18


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot: its name, its class in the style sheet, and a value a minute, None for nothing."""

    name: str
    look: str
    values: Sequence[float | None]


def plot(title: str, series: Sequence[Series], unit: str = "") -> str:
    """Lines over the last minutes, the newest on the right."""
    highest = max((value for each in series for value in each.values if value is not None), default=0.0)
    top = _round_up(highest)
    width, height = PLOT_WIDTH - PLOT_LEFT - 8, PLOT_HEIGHT - PLOT_BOTTOM - 22
    base = PLOT_HEIGHT - PLOT_BOTTOM
    drawn = [
        f'<line class="grid" x1="{PLOT_LEFT}" y1="{y:g}" x2="{PLOT_LEFT + width}" y2="{y:g}"/>'
        f'<text class="small" x="{PLOT_LEFT - 5}" y="{y + 4:g}" text-anchor="end">'
        f"{_short(value, unit)}</text>"
        for value, y in ((0.0, base), (top, base - height))
    ]
    minutes = max((len(each.values) for each in series), default=0)
    for index, each in enumerate(series):
        drawn.append(
            f'<path class="plotted {each.look}" d="{_line_of(each.values, top, width, height, base)}"/>'
        )
        x = PLOT_LEFT + 95 * index
        drawn.append(f'<line class="plotted {each.look}" x1="{x}" y1="9" x2="{x + 14}" y2="9"/>')
        drawn.append(f'<text class="small" x="{x + 18}" y="13">{escape(each.name)}</text>')
    drawn.append(f'<text class="small" x="{PLOT_LEFT}" y="{PLOT_HEIGHT - 4}">{minutes} min ago</text>')
    drawn.append(
        f'<text class="small" x="{PLOT_LEFT + width}" y="{PLOT_HEIGHT - 4}" text-anchor="end">now</text>'
    )
    return _svg(PLOT_WIDTH, PLOT_HEIGHT, title, drawn)


def _line_of(values: Sequence[float | None], top: float, width: float, height: float, base: float) -> str:
    """The path of a line; it is lifted where there is nothing, and a lone value is a short dash."""
    words: list[str] = []
    drawing = False
    for index, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        x = PLOT_LEFT + width * index / max(1, len(values) - 1)
        y = base - height * value / top
        words.append(f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}")
        if not drawing:
            words.append(f"h{2 if index + 1 < len(values) else -2}")
        drawing = True
    return "".join(words) or "M0 0"


def _round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def _short(value: float, unit: str) -> str:
    return span(value) if unit == "s" else f"{value:g}"


# --- Who publishes what, and who subscribes to it

MAP_COLUMN, MAP_ROW, MAP_TOP, MAP_LEFT = 150, 26, 34, 70


@dataclass(frozen=True, slots=True)
class Published:
    """A fact on its way from its publisher to whoever subscribes to it. `look`: its class."""

    name: str
    wire_name: str
    owner: str
    subscribers: Sequence[str]
    look: str


def choreography(columns: Sequence[str], facts: Sequence[Published]) -> str:
    """A line for each service, and an arrow for each fact from its publisher to its subscribers."""
    places = {name: MAP_LEFT + MAP_COLUMN * index for index, name in enumerate(columns)}
    width = MAP_LEFT * 2 + MAP_COLUMN * (len(columns) - 1)
    height = MAP_TOP + MAP_ROW * (len(facts) + 1)
    drawn: list[str] = []
    for name, x in places.items():
        drawn.append(f'<text class="head" x="{x}" y="16" text-anchor="middle">{escape(name)}</text>')
        drawn.append(f'<line class="axis" x1="{x}" y1="24" x2="{x}" y2="{height - 8}"/>')
    for row, fact in enumerate(facts):
        drawn += _published(fact, places, MAP_TOP + MAP_ROW * (row + 1))
    return _svg(width, height, "Who publishes which fact, and who subscribes to it", drawn, wide=True)


def _published(fact: Published, places: dict[str, int], y: int) -> Iterator[str]:
    start = places[fact.owner]
    ends = [places[name] for name in fact.subscribers if name in places and places[name] != start]
    for end in ends:
        tip = -7 if end > start else 7
        yield f'<line class="fact {fact.look}" x1="{start}" y1="{y}" x2="{end}" y2="{y}"/>'
        yield f'<path class="tip {fact.look}" d="M{end} {y}l{tip} -4v8z"/>'
    nearest = min(ends, key=lambda end: abs(end - start), default=start + MAP_COLUMN)
    yield f'<circle class="tip {fact.look}" cx="{start}" cy="{y}" r="3"/>'
    yield (
        f"<a href={quoteattr(f'/ui/facts/{fact.wire_name}')}>"
        f'<text x="{(start + nearest) / 2:g}" y="{y - 5}" text-anchor="middle">'
        f"{escape(fact.name.partition('.')[2])}</text></a>"
    )


def _svg(width: float, height: float, title: str, drawn: Sequence[str], *, wide: bool = False) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" {ROLES[wide]}{WIDE if wide else ""}>'
    )
    return "".join([head, f"<title>{escape(title)}</title>", *drawn, "</svg>"])
