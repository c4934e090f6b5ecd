"""What the pages have in common: how instants, spans of time and tables look."""

from collections.abc import Iterable, Sequence
from datetime import datetime


def instant(at: datetime | None) -> str:
    """An instant, or nothing."""
    return f"<time>{at.isoformat(sep=' ', timespec='milliseconds')}</time>" if at else ""


def span(seconds: float) -> str:
    """A span of time, in the unit that suits it."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are markup already; a word where there are none."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{body}</table>" if body else "<p>None.</p>"
