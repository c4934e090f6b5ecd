"""What the reports of drills and bench have in common: how their pages are made, and their plots drawn."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

WIDTH_INCHES, HEIGHT_INCHES = 9.0, 2.8
# It can be read on a dark ground and on a light one: a plot has none of its own.
GREY = "#888888"
BAD = "#dc2626"
COLOURS = (
    *("#2563eb", "#16a34a", "#d97706", BAD, "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#78716c"),
    "#334155",
)
_SETTINGS: "dict[RcKeyType, Any]" = {
    # The same figures make the same file.
    "svg.hashsalt": "murmuration",
    "svg.fonttype": "none",
    # A label is what it says, also where it has a dollar sign.
    "text.parse_math": False,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 8,
}
_METADATA = ("Date", "Creator", "Format", "Type")


def templates_in(folder: Path | None = None) -> Environment:
    """This package's and a folder's. All that they show is escaped; a name that they miss is an error."""
    own = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader([own, *([folder] if folder else [])]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def svg_of(title: str, draw: Callable[["Axes"], None], *, height_inches: float = HEIGHT_INCHES) -> Markup:
    """A plot, with a legend below it where something in it has a label, as an element of a page."""
    # It is slow to import, and whoever starts the system needs no plots.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = [], []
        for each in figure.axes:
            more, names = each.get_legend_handles_labels()
            handles += more
            labels += names
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 6))
        drawn = StringIO()
        metadata = {"Title": title, **dict.fromkeys(_METADATA)}
        figure.savefig(drawn, format="svg", transparent=True, metadata=metadata)
    svg = drawn.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704
