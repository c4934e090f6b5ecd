"""What the tracker looks up when somebody asks for `/metrics`: where sagas stand now, and who has to act.

Every query keeps to what is open, which a partial index leads to: a million ended sagas cost nothing here.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric
from sqlalchemy import ColumnElement, Table, column, func, select
from sqlalchemy.dialects.postgresql import JSONB

from events.service import name_of
from events.storage.database import Connection, Database
from events.storage.sql import compiled, in_seconds
from events.telemetry.metrics import LookUp, Values, backlog, gauge, refused
from saga_tracker.dead_letters.dead_letter import DeadLetterKind
from saga_tracker.projection import ENDED, State
from saga_tracker.reading.reader import Progress
from saga_tracker.reconciliation import comparisons
from saga_tracker.scheduler.leader import HOLDER
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES, STEPS
from saga_tracker.tables import dead_letters, look_ups, outbox, sagas, stream_gaps

MAX_DEAD_LETTERS = 10_000
OPEN = [state.value for state in State if state not in ENDED]
STEP_NAMES = sorted(f"{step.service}:{name_of(step.trigger)}" for step in STEPS)


def _age(since: ColumnElement[Any]) -> ColumnElement[float]:
    """For how many seconds the oldest has been there."""
    return in_seconds(func.now() - func.min(since)).label("age")


def _count(table: Table) -> ColumnElement[int]:
    return select(func.count()).select_from(table).scalar_subquery()


_wait = func.jsonb_array_elements(sagas.c.waits).table_valued(column("value", JSONB), name="wait")
_waited = _wait.c.value
_step = (_waited["service"].astext + ":" + _waited["because_of"].astext).label("step")
_open_letters = (
    select(dead_letters.c.service, dead_letters.c.kind)
    .where(dead_letters.c.state == "open")
    .limit(MAX_DEAD_LETTERS)
    .subquery("open_letters")
)
_QUERIES = {
    name: compiled(query)
    for name, query in {
        "states": select(sagas.c.state, func.count().label("sagas"), _age(sagas.c.since))
        .where(sagas.c.ended_at.is_(None))
        .group_by(sagas.c.state),
        "waits": select(
            _step,
            func.count().label("sagas"),
            _age(_waited["since"].astext.cast(sagas.c.since.type)),
        )
        .select_from(sagas, _wait)
        .where(sagas.c.ended_at.is_(None))
        .group_by("step"),
        "dead_letters": select(*_open_letters.c, func.count().label("dead_letters")).group_by(
            *_open_letters.c
        ),
        "outbox": select(
            func.count().label("waiting"),
            _age(outbox.c.entered_at),
            func.count(outbox.c.due_at).label("refused"),
        ),
        "gaps": select(_count(stream_gaps).label("gaps"), _count(look_ups).label("sagas")),
    }.items()
} | {"lease": HOLDER}

Rows = Sequence[Mapping[str, Any]]


class Overview:
    """The gauges of one tracker. `me` is its scheduler's name in the lease."""

    def __init__(self, settings: TrackerSettings, database: Database, progress: Progress, me: str) -> None:
        self._settings = settings
        self._progress = progress
        self._me = me
        self._look_up = LookUp(database, self._read)
        self._at_end_at = time.monotonic()

    async def in_the_view(self) -> list[Metric] | None:
        """Those that the database tells; None while it does not answer."""
        return await self._look_up.gauges()

    async def _read(self, connection: Connection) -> list[Metric]:
        async with connection.pipeline():
            cursors = {name: await connection.execute(query) for name, query in _QUERIES.items()}
            found: dict[str, Rows] = {name: await cursor.fetchall() for name, cursor in cursors.items()}
        settle_seconds = self._settings.reconciliation_settle_seconds
        _, differences = await comparisons.listed(connection, settle_seconds, None, 0)
        return [
            *_sagas(found["states"]),
            *_waits(found["waits"]),
            _dead_letters(found["dead_letters"]),
            *backlog(
                "outbox", "Messages of the tracker that the broker has not confirmed", found["outbox"][0]
            ),
            refused(found["outbox"][0]["refused"]),
            gauge(
                "murmuration_stream_gaps",
                "How often facts were lost that had not been read: the stream was cut off or made anew.",
                found["gaps"][0]["gaps"],
            ),
            gauge(
                "murmuration_look_ups_waiting",
                "Sagas that were under way then, and are still to be looked up with the services.",
                found["gaps"][0]["sagas"],
            ),
            *self._scheduler([row["holder"] for row in found["lease"]]),
            gauge(
                "murmuration_reconciliation_differences",
                "Where a saga and what a service or the provider says of it differ for good.",
                differences["listed"],
            ),
            gauge(
                "murmuration_reconciliation_waiting",
                "Sagas that are still to be compared with the services and the provider.",
                differences["waiting"],
            ),
        ]

    def _scheduler(self, holders: Sequence[str]) -> list[Metric]:
        return [
            gauge(
                "murmuration_leader", "1 if this tracker keeps the deadlines, else 0.", self._me in holders
            ),
            gauge(
                "murmuration_leader_present", "1 if any tracker keeps the deadlines, else 0.", len(holders)
            ),
        ]

    def lag(self) -> list[Metric]:
        """How far the view is behind; at the end of the stream it is when it reads and knows of no more."""
        now = time.monotonic()
        if self._progress.at_end:
            self._at_end_at = now
        return [
            gauge(
                "murmuration_stream_lag_messages",
                "About how many messages of the stream are not in the view yet.",
                self._progress.lag,
            ),
            gauge(
                "murmuration_stream_lag_seconds",
                "For how long the view has been behind the stream's end, or not reading it.",
                now - self._at_end_at,
            ),
        ]


def _sagas(rows: Rows) -> list[Metric]:
    counts: Values = {(state,): 0.0 for state in OPEN}
    ages = dict(counts)
    for row in rows:
        counts[row["state"],] = row["sagas"]
        ages[row["state"],] = max(0.0, row["age"])
    return [
        gauge("murmuration_sagas_open", "Sagas that have not ended, by state.", counts, ["state"]),
        gauge(
            "murmuration_saga_oldest_seconds",
            "For how long the oldest saga has been in a state; 0 when none is.",
            ages,
            ["state"],
        ),
    ]


def _waits(rows: Rows) -> list[Metric]:
    counts: Values = {(step,): 0.0 for step in STEP_NAMES}
    ages = dict(counts)
    for row in rows:
        counts[row["step"],] = row["sagas"]
        ages[row["step"],] = max(0.0, row["age"])
    return [
        gauge(
            "murmuration_saga_waits",
            "Sagas that wait for a step, by the service whose turn it is and the fact that it received.",
            counts,
            ["step"],
        ),
        gauge(
            "murmuration_saga_wait_oldest_seconds",
            "For how long a step has been waited for most; 0 when it is not.",
            ages,
            ["step"],
        ),
    ]


def _dead_letters(rows: Rows) -> Metric:
    counts: Values = {(service, kind.value): 0.0 for service in SERVICES for kind in DeadLetterKind}
    for row in rows:
        counts[row["service"], row["kind"]] = row["dead_letters"]
    return gauge(
        "murmuration_dead_letters_open",
        f"Dead letters that nobody has acted on, up to {MAX_DEAD_LETTERS}; `case`: a service gave up.",
        counts,
        ["service", "kind"],
    )
