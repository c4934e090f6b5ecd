"""What a saga costs in fsyncs, transactions, statements and messages: the servers' counts, before and after.

    before = snapshot(rig.addresses)
    ...
    cost = (snapshot(rig.addresses) - before).each(sagas)

The broker's counts are exact at once. PostgreSQL's sessions hand theirs in late: `snapshot` waits for that.
What a server does not tell is left out. Whatever else the servers do meanwhile (heartbeats, autovacuum)
counts too: measure for so long that it is little.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from compose.local.addresses import Addresses

STATEMENTS_LIBRARY = "pg_stat_statements"
# A session that went idle hands in what it has counted after 10 s, a busy one every second.
HANDED_IN_SECONDS = 10.3
STATS_IN_IO_SINCE = 18_00_00

_WAL = """
    SELECT wal_records AS records, wal_fpi AS full_pages, wal_bytes::bigint AS bytes FROM pg_stat_wal
"""
_WAL_FILES = "SELECT wal_write AS writes, wal_sync AS fsyncs FROM pg_stat_wal"
_WAL_FILES_SINCE_18 = """
    SELECT sum(writes)::bigint AS writes, sum(fsyncs)::bigint AS fsyncs FROM pg_stat_io WHERE object = 'wal'
"""
_COMMITS = """
    SELECT datname, xact_commit AS count FROM pg_stat_database
    WHERE datname NOT LIKE 'template%' AND datname <> current_database()
"""
_STATEMENTS = """
    SELECT datname, sum(calls)::bigint AS count,
        coalesce(sum(calls) FILTER (WHERE query ILIKE 'set local synchronous_commit = off'), 0)::bigint
            AS unsynced
    FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
    WHERE datname <> current_database() GROUP BY datname
"""
_STATEMENT_TIMES = """
    SELECT datname, query, sum(calls)::bigint AS calls, sum(total_exec_time) AS total_ms,
        sum(rows)::bigint AS rows, sum(wal_bytes)::bigint AS wal_bytes
    FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
    WHERE datname <> current_database() GROUP BY datname, query
"""

# Counted since the broker's start, whoever asks: the management plug-in would only sample the same.
# Each batch of the write-ahead log, which all quorum queues share, is one fsync; streams do none.
_BROKER_COUNTS = """
    Counts = maps:to_list(rabbit_global_counters:overview()),
    Of = fun(Name, Labels) -> lists:sum([maps:get(Name, Count, 0) || {Has, Count} <- Counts,
        lists:all(fun(Label) -> lists:member(Label, Has) end, Labels)]) end,
    Quorum = [{queue_type, rabbit_quorum_queue}],
    #{ra_log_wal := #{batches := Batches, writes := Writes}} = ra_counters:overview(),
    [{published, Of(messages_received_total, [])}, {confirmed, Of(messages_confirmed_total, [])},
     {routed, Of(messages_routed_total, [])}, {delivered, Of(messages_delivered_total, Quorum)},
     {acknowledged, Of(messages_acknowledged_total, Quorum)},
     {delivered_again, Of(messages_redelivered_total, Quorum)},
     {read_from_stream, Of(messages_delivered_total, [{queue_type, rabbit_stream_queue}])},
     {log_writes, Writes}, {fsyncs, Batches}].
"""

Counts = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Counters:
    """What the servers counted: since their start, between two moments, or for each saga.

    `wal` is PostgreSQL's log (records, full page images, bytes, writes, fsyncs); the next three are by
    database; `unsynced` are transactions that did not wait for an fsync. `broker`: `routed` counts copies in
    queues, the stream's among them; `delivered` and `acknowledged` those of the quorum queues.
    Statements are known where PostgreSQL has loaded `pg_stat_statements`, the broker's counts where it is
    the rig's own; else these are empty.
    """

    wal: Counts = field(default_factory=dict)
    commits: Counts = field(default_factory=dict)
    statements: Counts = field(default_factory=dict)
    unsynced: Counts = field(default_factory=dict)
    broker: Counts = field(default_factory=dict)

    def __sub__(self, before: "Counters") -> Self:
        return type(self)(
            *(
                {name: count - earlier.get(name, 0) for name, count in counts.items()}
                for counts, earlier in zip(self._groups(), before._groups(), strict=True)
            )
        )

    def each(self, sagas: int) -> Self:
        """For one saga of so many."""
        return type(self)(
            *({name: count / sagas for name, count in counts.items()} for counts in self._groups())
        )

    def as_json(self) -> dict[str, dict[str, float]]:
        return {item.name: dict(counts) for item, counts in zip(fields(self), self._groups(), strict=True)}

    def lines(self) -> list[str]:
        """What `each` answered, to be read by people."""
        fsyncs = [("PostgreSQL", self.wal.get("fsyncs")), ("the broker", self.broker.get("fsyncs"))]
        titled = [
            ("fsyncs", ", ".join(f"{_short(count)} by {name}" for name, count in fsyncs)),
            ("WAL", _of(self.wal, [name for name in self.wal if name != "fsyncs"])),
            ("transactions", _by_database(self.commits)),
            ("of these unsynced", _by_database(self.unsynced)),
            ("statements", _by_database(self.statements)),
            ("messages", _of(self.broker, [name for name in self.broker if name != "fsyncs"])),
        ]
        return [f"{name:<18} {what}" for name, what in titled]

    def _groups(self) -> list[Counts]:
        return [self.wal, self.commits, self.statements, self.unsynced, self.broker]


@dataclass(frozen=True, slots=True)
class StatementTimes:
    """What one statement of a database has cost so far: by `pg_stat_statements`."""

    database: str
    query: str
    calls: int
    total_ms: float
    rows: int
    wal_bytes: int

    def __sub__(self, before: "StatementTimes") -> "StatementTimes":
        return StatementTimes(
            self.database,
            self.query,
            self.calls - before.calls,
            self.total_ms - before.total_ms,
            self.rows - before.rows,
            self.wal_bytes - before.wal_bytes,
        )

    def __str__(self) -> str:
        mean_ms = self.total_ms / max(1, self.calls)
        query = " ".join(self.query.split())[:100]
        return (
            f"{self.total_ms:>8.0f} ms {self.calls:>7} calls {mean_ms:>8.3f} ms each"
            f" {self.rows / max(1, self.calls):>7.1f} rows {self.database:<12} {query}"
        )


StatementsSoFar = Mapping[tuple[str, str], StatementTimes]


def snapshot(addresses: Addresses, *, settled: bool = True) -> Counters:
    """All counts as of now; it takes some 11 seconds, and a second of processor time.

    With `settled=False` at once, for two moments under the same steady load: then the last second of each
    session's work is missing from both.
    """
    broker = _broker_counts(addresses)
    if settled:
        time.sleep(HANDED_IN_SECONDS)
    with _connect(addresses) as connection:
        version = connection.info.server_version
        files = _WAL_FILES_SINCE_18 if version >= STATS_IN_IO_SINCE else _WAL_FILES
        wal = [row for query in (_WAL, files) for row in connection.execute(query.encode())]
        commits = connection.execute(_COMMITS.encode()).fetchall()
        statements = connection.execute(_STATEMENTS.encode()).fetchall() if _counted(connection) else []
    return Counters(
        wal={name: count for row in wal for name, count in row.items()},
        commits={row["datname"]: row["count"] for row in commits},
        statements={row["datname"]: row["count"] for row in statements},
        unsynced={row["datname"]: row["unsynced"] for row in statements},
        broker=broker,
    )


def statement_times(addresses: Addresses) -> StatementsSoFar:
    """What each statement has cost so far; empty where PostgreSQL does not count that."""
    with _connect(addresses) as connection:
        rows = connection.execute(_STATEMENT_TIMES.encode()).fetchall() if _counted(connection) else []
    return {
        (row["datname"], row["query"]): StatementTimes(
            row["datname"], row["query"], row["calls"], row["total_ms"], row["rows"], row["wal_bytes"]
        )
        for row in rows
    }


def top_statements(before: StatementsSoFar, after: StatementsSoFar, limit: int = 15) -> list[StatementTimes]:
    """What took longest between two moments, over all its calls."""
    spent = (times - before[key] if key in before else times for key, times in after.items())
    return sorted(spent, key=lambda times: -times.total_ms)[:limit]


def _connect(addresses: Addresses) -> psycopg.Connection[dict[str, Any]]:
    return psycopg.connect(addresses.postgres_admin_url, autocommit=True, row_factory=dict_row)


def _counted(connection: psycopg.Connection[dict[str, Any]]) -> bool:
    """Whether PostgreSQL counts statements; the view of them is made where it is missing."""
    loaded = connection.execute("SELECT current_setting('shared_preload_libraries') AS names").fetchone()
    if loaded is None or STATEMENTS_LIBRARY not in loaded["names"]:
        return False
    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    return True


def _broker_counts(addresses: Addresses) -> dict[str, float]:
    if addresses.external_rabbitmq is not None:
        return {}
    answer = addresses.rabbitmq.control(addresses.server_environment(), "eval", _BROKER_COUNTS)
    return {name: float(count) for name, count in re.findall(r"\{(\w+),(\d+)\}", answer)}


def _by_database(counts: Counts) -> str:
    if not counts:
        return "n/a"
    parts = (f"{name} {_short(count)}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{_short(sum(counts.values()))}: {', '.join(parts)}"


def _of(counts: Counts, names: Iterable[str]) -> str:
    return ", ".join(f"{_short(counts.get(name))} {name.replace('_', ' ')}" for name in names) or "n/a"


def _short(count: float | None) -> str:
    if count is None:
        return "n/a"
    return f"{count:.0f}" if count >= 100 else f"{count:.2f}"
