"""What the plots of reports have in common: axes, round numbers beside them, lines that may break off."""

from collections.abc import Iterable, Iterator

WIDTH, HEIGHT = 900, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 42
TICKS = 5
ROUND_STEPS = (1, 2, 5)

# Of every page with plots; each adds its own colours.
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }
th, td { border-bottom: 1px solid #8883; }
.number { text-align: right; }
svg { width: 100%; height: auto; }
polyline { fill: none; stroke-width: 2; }
.axis { fill: none; stroke: #888; } .tick { font-size: 11px; fill: #888; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.key b { display: inline-block; width: 1.5em; border-top: 3px solid; margin: 0 .3em .25em 1em; }
"""


class Chart:
    """The ground of one SVG plot, from 0 to the most on both axes. What is beyond is drawn at the edge."""

    def __init__(self, most_x: float, most_y: float, *, height: int = HEIGHT) -> None:
        self._most_x = most_x
        self._most_y = most_y
        self.height = height
        self.bottom = height - BOTTOM

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(value, self._most_x) / self._most_x

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - TOP) * min(value, self._most_y) / self._most_y

    def begin(self, label: str) -> str:
        """Opens the SVG element."""
        return f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{label}">'

    def axes(self, unit_x: str = "s") -> Iterator[str]:
        """Both axes, with numbers."""
        yield f'<path class="axis" d="M{LEFT} {TOP} V{self.bottom} H{WIDTH - RIGHT}"/>'
        for value in ticks(self._most_x):
            text = f"{value} {unit_x}"
            yield f'<text class="tick middle" x="{self.x(value):.1f}" y="{self.bottom + 15}">{text}</text>'
        for value in ticks(self._most_y):
            yield f'<text class="tick end" x="{LEFT - 6}" y="{self.y(value) + 4:.1f}">{value}</text>'

    def line(self, css_class: str, points: Iterable[tuple[float, float | None]]) -> Iterator[str]:
        """A line, which breaks off where nobody could tell."""
        drawn: list[str] = []
        for x, y in points:
            if y is not None:
                drawn.append(f"{self.x(x):.1f},{self.y(y):.1f}")
            elif drawn:
                yield _polyline(css_class, drawn)
                drawn = []
        if drawn:
            yield _polyline(css_class, drawn)


def ticks(most: float) -> Iterator[int]:
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


def _polyline(css_class: str, points: Iterable[str]) -> str:
    return f'<polyline class="{css_class}" points="{" ".join(points)}"/>'
