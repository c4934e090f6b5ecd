"""A drill's timeline as SVG: orders accepted, ended, in flight; when what was broken; the longest stall."""

from collections.abc import Callable, Iterator
from html import escape

from compose.drills.timeline import Sample, Timeline

WIDTH, HEIGHT = 900, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 42
TICKS = 5
LABEL_ROWS = 2
SERIES: tuple[tuple[str, Callable[[Sample], int | None]], ...] = (
    ("accepted", lambda sample: sample.accepted),
    ("ended", lambda sample: sample.ended),
    ("in-flight", lambda sample: sample.in_flight),
)
ROUND_STEPS = (1, 2, 5)


def plot_of(timeline: Timeline) -> str:
    """The SVG element."""
    if not timeline.samples:
        return "<p>Nothing was measured.</p>"
    return "\n".join(_Plot(timeline).elements())


class _Plot:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._seconds = max(timeline.samples[-1].at_seconds, 1.0)
        self._orders = max(1, *(sample.accepted for sample in timeline.samples))

    def elements(self) -> Iterator[str]:
        yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="orders over time">'
        yield from self._faults()
        yield from self._axes()
        yield from self._stall()
        for name, value in SERIES:
            for points in self._lines(value):
                yield f'<polyline class="{name}" points="{points}"/>'
        yield "</svg>"

    def _x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(seconds, self._seconds) / self._seconds

    def _y(self, orders: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * orders / self._orders

    def _faults(self) -> Iterator[str]:
        for number, fault in enumerate(self._timeline.faults):
            healed = self._seconds if fault.healed_seconds is None else fault.healed_seconds
            left, right = self._x(fault.began_seconds), self._x(healed)
            label = escape(fault.label)
            span = f"{fault.began_seconds:.1f} s to {healed:.1f} s"
            yield (
                f'<rect class="fault" x="{left:.1f}" y="{TOP}" width="{max(1.0, right - left):.1f}" '
                f'height="{HEIGHT - TOP - BOTTOM}"><title>{label}: {span}</title></rect>'
            )
            # Labels of faults that follow each other closely take turns in two rows.
            y = 10 + 11 * (number % LABEL_ROWS)
            yield f'<text class="label" x="{left:.1f}" y="{y}">{label}</text>'

    def _axes(self) -> Iterator[str]:
        bottom = HEIGHT - BOTTOM
        yield f'<path class="axis" d="M{LEFT} {TOP} V{bottom} H{WIDTH - RIGHT}"/>'
        for seconds in _ticks(self._seconds):
            yield f'<text class="tick middle" x="{self._x(seconds):.1f}" y="{bottom + 15}">{seconds} s</text>'
        for orders in _ticks(self._orders):
            yield f'<text class="tick end" x="{LEFT - 6}" y="{self._y(orders) + 4:.1f}">{orders}</text>'

    def _stall(self) -> Iterator[str]:
        stall = self._timeline.longest_stall
        left, right, y = self._x(stall.from_seconds), self._x(stall.to_seconds), HEIGHT - BOTTOM + 24
        yield f'<path class="stall" d="M{left:.1f} {y} H{right:.1f}"/>'
        text = f"longest stall {stall.seconds:.1f} s"
        anchor, x = ("end", right) if left > WIDTH / 2 else ("start", left)
        yield f'<text class="tick {anchor}" x="{x:.1f}" y="{y + 14}">{text}</text>'

    def _lines(self, value: Callable[[Sample], int | None]) -> Iterator[str]:
        """The points of a line, which breaks off where nobody could tell."""
        points: list[str] = []
        for sample in self._timeline.samples:
            if (orders := value(sample)) is not None:
                points.append(f"{self._x(sample.at_seconds):.1f},{self._y(orders):.1f}")
            elif points:
                yield " ".join(points)
                points = []
        if points:
            yield " ".join(points)


def _ticks(most: float) -> Iterator[int]:
    """Round numbers from 0 up to `most`, not too many."""
    step, scale = 1, 1
    while most / step > TICKS:
        for factor in ROUND_STEPS:
            step = factor * scale
            if most / step <= TICKS:
                break
        else:
            scale *= 10
    yield from range(0, int(most) + 1, step)
