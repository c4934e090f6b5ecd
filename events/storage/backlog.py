"""How much waits in a service's tables, and for how long.

Looked up rather than counted in memory: what an instance left behind that died belongs to nobody until it is
adopted, and it is what a person must know of. Both tables are empty most of the time; no index serves the age
of the oldest, for it would cost every fact something, so no more than so many rows are looked at.
"""

from prometheus_client.metrics_core import Metric

from events.storage.database import Connection
from events.telemetry.metrics import backlog, refused

MAX_ROWS = 10_000
_READ = b"""
    SELECT 'outbox' AS what, count(*) AS waiting, extract(epoch FROM now() - min(stated_at))::float8 AS age,
        count(due_at) AS refused
    FROM (SELECT stated_at, due_at FROM outbox LIMIT %(max_rows)s) AS first
    UNION ALL
    SELECT 'calls', count(*), extract(epoch FROM now() - min(asked_at))::float8, 0
    FROM (SELECT asked_at FROM calls LIMIT %(max_rows)s) AS first
"""


async def read_backlogs(connection: Connection) -> list[Metric]:
    """The backlogs of the outbox and of the calls, and how much of the first is set aside.

    Of very many, the oldest may be missed by a little.
    """
    cursor = await connection.execute(_READ, {"max_rows": MAX_ROWS})
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
