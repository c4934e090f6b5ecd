"""The bench's plots as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from compose.chart import RIGHT, WIDTH, Chart
from tests.bench.results import Round

COLOURS = 10
BAR_HEIGHT, BAR_GAP = 16, 5
NAME_WIDTH, NUMBER_WIDTH = 90, 60
# Where on the axis a percentile stands: each further nine as far as the one before.
PLACES: Mapping[str, float] = {
    "0": 0,
    "10": 1,
    "25": 2,
    "50": 3,
    "75": 4,
    "90": 5,
    "95": 6,
    "98": 7,
    "99": 8,
    "99.5": 9,
    "99.9": 10,
    "100": 11,
}


def seconds_of(found: Round) -> Iterator[str]:
    """Accepted and ended in each second, and in flight after it, on a scale of its own."""
    rates = [max(second.accepted, second.ended) for second in found.seconds]
    flying = max([1, *(second.in_flight for second in found.seconds)])
    top = max([1, *rates])
    chart = Chart(max(1, len(found.seconds)), top)
    yield chart.begin("orders over time")
    yield from chart.axes()
    yield from chart.line("c0", ((at + 0.5, second.accepted) for at, second in enumerate(found.seconds)))
    yield from chart.line("c1", ((at + 0.5, second.ended) for at, second in enumerate(found.seconds)))
    yield from chart.line(
        "c2", ((at + 1, second.in_flight * top / flying) for at, second in enumerate(found.seconds))
    )
    yield "</svg>"
    yield _key(["accepted a second", "ended a second", f"in flight (to its own scale: at most {flying:,})"])


def latencies_of(rounds: Sequence[Round]) -> Iterator[str]:
    """A line for each round."""
    most = max(ms for found in rounds for ms in found.latency_ms_by_percentile.values())
    chart = Chart(len(PLACES) - 1, max(1.0, most))
    yield chart.begin("latency by percentile")
    # The numbers below are percentiles, not the places of this axis.
    yield from (element for element in chart.axes() if 'class="tick middle"' not in element)
    for percent, place in PLACES.items():
        yield (
            f'<text class="tick middle" x="{chart.x(place):.1f}" y="{chart.bottom + 15}">'
            f"{'max' if percent == '100' else 'min' if percent == '0' else f'p{percent}'}</text>"
        )
    for number, found in enumerate(rounds):
        points = [(PLACES[percent], ms) for percent, ms in found.latency_ms_by_percentile.items()]
        yield from chart.line(f"c{number % COLOURS}", points)
    yield "</svg>"
    yield _key([f"round {number + 1}" for number in range(len(rounds))])


def memory_of(samples: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[str]:
    """A line for each process."""
    taken = [point for points in samples.values() for point in points]
    chart = Chart(max(1.0, *(at for at, _ in taken)), max(1.0, *(megabytes for _, megabytes in taken)))
    yield chart.begin("memory over time")
    yield from chart.axes()
    for number, points in enumerate(samples.values()):
        yield from chart.line(f"c{number % COLOURS}", points)
    yield "</svg>"
    yield _key(list(samples))


def shares_of(parts: Mapping[str, float]) -> Iterator[str]:
    """A bar for each part, with its number."""
    most = max([*parts.values(), 0.001])
    height = len(parts) * (BAR_HEIGHT + BAR_GAP)
    room = WIDTH - NAME_WIDTH - NUMBER_WIDTH - RIGHT
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="CPU time by part">'
    for number, (name, value) in enumerate(parts.items()):
        top = number * (BAR_HEIGHT + BAR_GAP)
        width = max(0.5, room * value / most)
        text = top + BAR_HEIGHT - 4
        yield f'<text class="bar-text end" x="{NAME_WIDTH - 6}" y="{text}">{escape(name)}</text>'
        yield f'<rect class="bar" x="{NAME_WIDTH}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT}"/>'
        yield f'<text class="bar-text" x="{NAME_WIDTH + width + 6:.1f}" y="{text}">{value:.2f}</text>'
    yield "</svg>"


def _key(names: Sequence[str]) -> str:
    parts = (f'<b class="c{number % COLOURS}"></b>{escape(name)}' for number, name in enumerate(names))
    return f'<p class="key">{"".join(parts)}</p>'
