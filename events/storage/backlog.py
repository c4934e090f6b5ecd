"""How much waits in a service's tables, and for how long.

Looked up rather than counted in memory: what an instance left behind that died belongs to nobody until it is
adopted, and it is what a person must know of. Both tables are empty most of the time; no index serves the age
of the oldest, for it would cost every fact something, so no more than so many rows are looked at.
"""

from typing import Any

from prometheus_client.metrics_core import Metric
from sqlalchemy import Column, ColumnElement, Select, func, literal, null, select, union_all

from events.storage.database import Connection
from events.storage.sql import compiled, in_seconds
from events.storage.tables import calls, outbox
from events.telemetry.metrics import backlog, refused

MAX_ROWS = 10_000


def _backlog(
    what: str, since: Column[Any], set_aside_until: ColumnElement[Any]
) -> Select[str, int, float, int]:
    first = select(since.label("since"), set_aside_until.label("until")).limit(MAX_ROWS).subquery("first")
    return select(
        literal(what).label("what"),
        func.count().label("waiting"),
        in_seconds(func.now() - func.min(first.c.since)).label("age"),
        func.count(first.c.until).label("refused"),
    )


_READ = compiled(
    union_all(
        _backlog("outbox", outbox.c.stated_at, outbox.c.due_at),
        _backlog("calls", calls.c.asked_at, null()),
    )
)


async def read_backlogs(connection: Connection) -> list[Metric]:
    """The backlogs of the outbox and of the calls, and how much of the first is set aside.

    Of very many, the oldest may be missed by a little.
    """
    cursor = await connection.execute(_READ)
    found = {row["what"]: row for row in await cursor.fetchall()}
    return [
        *backlog(
            "outbox",
            f"Facts that are committed and not confirmed by the broker, of all instances, up to {MAX_ROWS}",
            found["outbox"],
        ),
        refused(found["outbox"]["refused"]),
        *backlog(
            "call",
            f"Calls to the outside whose outcome is not committed, of all instances, up to {MAX_ROWS}",
            found["calls"],
        ),
    ]
