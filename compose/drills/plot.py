"""A drill's timeline as SVG: orders accepted, ended, in flight; when what was broken; the longest stall."""

from collections.abc import Callable, Iterator
from html import escape

from compose.chart import TOP, WIDTH, Chart
from compose.drills.timeline import Sample, Timeline

LABEL_ROWS = 2
SERIES: tuple[tuple[str, Callable[[Sample], int | None]], ...] = (
    ("accepted", lambda sample: sample.accepted),
    ("ended", lambda sample: sample.ended),
    ("in-flight", lambda sample: sample.in_flight),
)


def plot_of(timeline: Timeline) -> str:
    """The SVG element."""
    if not timeline.samples:
        return "<p>Nothing was measured.</p>"
    return "\n".join(_Plot(timeline).elements())


class _Plot:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._seconds = max(timeline.samples[-1].at_seconds, 1.0)
        self._chart = Chart(self._seconds, max(1, *(sample.accepted for sample in timeline.samples)))

    def elements(self) -> Iterator[str]:
        yield self._chart.begin("orders over time")
        yield from self._faults()
        yield from self._chart.axes()
        yield from self._stall()
        for name, value in SERIES:
            points = ((sample.at_seconds, value(sample)) for sample in self._timeline.samples)
            yield from self._chart.line(name, points)
        yield "</svg>"

    def _faults(self) -> Iterator[str]:
        for number, fault in enumerate(self._timeline.faults):
            healed = self._seconds if fault.healed_seconds is None else fault.healed_seconds
            left, right = self._chart.x(fault.began_seconds), self._chart.x(healed)
            label = escape(fault.label)
            span = f"{fault.began_seconds:.1f} s to {healed:.1f} s"
            yield (
                f'<rect class="fault" x="{left:.1f}" y="{TOP}" width="{max(1.0, right - left):.1f}" '
                f'height="{self._chart.bottom - TOP}"><title>{label}: {span}</title></rect>'
            )
            # Labels of faults that follow each other closely take turns in two rows.
            y = 10 + 11 * (number % LABEL_ROWS)
            yield f'<text class="label" x="{left:.1f}" y="{y}">{label}</text>'

    def _stall(self) -> Iterator[str]:
        stall = self._timeline.longest_stall
        y = self._chart.bottom + 24
        left, right = self._chart.x(stall.from_seconds), self._chart.x(stall.to_seconds)
        yield f'<path class="stall" d="M{left:.1f} {y} H{right:.1f}"/>'
        text = f"longest stall {stall.seconds:.1f} s"
        anchor, x = ("end", right) if left > WIDTH / 2 else ("start", left)
        yield f'<text class="tick {anchor}" x="{x:.1f}" y="{y + 14}">{text}</text>'
