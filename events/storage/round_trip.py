"""Prepared statements that leave together and are answered together, in one round trip with the database.

For the two round trips of a batch alone: everything else runs by psycopg's `execute` (see `sql.py`). It is
built on the functions of libpq that psycopg offers (`psycopg.pq`), and psycopg adapts the values.

Why not psycopg's pipeline? It sends every statement by itself, and within `transaction()` it waits for BEGIN
and for COMMIT. Even with all of a batch in two large statements (data-modifying common table expressions,
prepared, binary, BEGIN and COMMIT sent along) it takes more of the CPU of client and server together. In
microseconds a batch, of inventory and of payment; PostgreSQL 15 on a busy machine, in turns:

    messages in a batch                   1              4              64
    this                             1192, 1099     1407, 1226     5242, 5003
    psycopg, in a pipeline           1756, 1524     1884, 1672     5966, 5766
    psycopg, one after the other     1788, 1755     1639, 2136     5951, 5868

And after the end of a pipeline psycopg sends another message, to which PostgreSQL does not answer. Until the
next statement its limits on idling do not hold: a process that hangs in a transaction would keep its locks.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from psycopg import Error, OperationalError, postgres
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import Transformer
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW
from sqlalchemy import ARRAY, text
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import TypeEngine

from events.storage.database import Session
from events.storage.sql import with_constants

_DIALECT = psycopg.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that each connection prepares once, with the names of its parameters in their order."""

    name: bytes
    text: bytes
    parameters: tuple[str, ...] = ()
    oids: tuple[int, ...] = ()


def prepared(statement: ClauseElement) -> Prepared:
    """A statement of SQLAlchemy's. Raises TypeError for a parameter of a type that psycopg does not know."""
    compiled: Any = with_constants(statement).compile(dialect=_DIALECT)
    types = {name: parameter.type for parameter, name in compiled.bind_names.items()}
    names = tuple(compiled.positiontup or ())
    query = str(compiled).encode()
    name = hashlib.blake2b(query, digest_size=12).hexdigest().encode()
    return Prepared(name, query, names, tuple(_oid_of(types[name]) for name in names))


def _oid_of(kind: TypeEngine[Any]) -> int:
    element = kind.item_type if isinstance(kind, ARRAY) else kind
    known = postgres.types.get(element.compile(dialect=_DIALECT).lower())
    if known is None:
        raise TypeError(f"psycopg knows no type named like {element!r}")
    return known.array_oid if isinstance(kind, ARRAY) else known.oid


BEGIN, COMMIT = prepared(text("BEGIN")), prepared(text("COMMIT"))


@dataclass(slots=True)
class Rows:
    """What a statement returned, as tuples, once its round trip is over."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A statement with its parameters as psycopg adapts them."""

    statement: Prepared
    values: list[Buffer | None]
    returned: Rows


class RoundTrip:
    """Statements sent together over one connection, which remembers what it has prepared of them."""

    def __init__(self, connection: Session) -> None:
        self._connection = connection
        self._sent: list[_Sent] = []

    def add(self, statement: Prepared, **parameters: Any) -> Rows:
        """Add a statement. Nothing leaves before `run`. Raises KeyError for a parameter that is missing."""
        values = [
            self._dump(oid, parameters[name])
            for name, oid in zip(statement.parameters, statement.oids, strict=True)
        ]
        sent = _Sent(statement, values, Rows())
        self._sent.append(sent)
        return sent.returned

    def _dump(self, oid: int, value: Any) -> Buffer | None:
        """As psycopg sends values of this type."""
        if value is None:
            return None
        dumpers = self._connection.dumpers
        if oid not in dumpers:
            kind = self._connection.adapters.get_dumper_by_oid(oid, Format.BINARY)
            dumpers[oid] = kind(type(value), self._connection)
        return dumpers[oid].dump(value)

    async def run(self) -> None:
        """Send all, and wait for all results. Raises the first error; what came after it was not done."""
        async with self._connection.lock:
            results = await self._connection.wait(self._run(self._connection.pgconn))
        loading = Transformer(self._connection)
        for sent, result in zip(self._sent, results, strict=True):
            if result.ntuples:
                loading.set_pgresult(result)
                sent.returned.rows = loading.load_rows(0, result.ntuples, tuple)

    def _run(self, libpq: PGconn) -> PQGen[list[PGresult]]:
        libpq.enter_pipeline_mode()
        try:
            preparing = self._send(libpq)
            while libpq.flush():
                if (yield WAIT_RW) & READY_R:
                    libpq.consume_input()
            results: list[PGresult] = []
            while (result := (yield from _next(libpq))).status != ExecStatus.PIPELINE_SYNC:
                results.append(result)
        finally:
            _leave(libpq)
        return self._checked(results, preparing)

    def _send(self, libpq: PGconn) -> list[Prepared | None]:
        """Returns which results tell that a statement is prepared now."""
        known = self._connection.prepared
        preparing: list[Prepared | None] = []
        for sent in self._sent:
            statement = sent.statement
            if statement.name not in known and statement not in preparing:
                libpq.send_prepare(statement.name, statement.text, statement.oids)
                preparing.append(statement)
            formats = [Format.BINARY] * len(sent.values)
            libpq.send_query_prepared(statement.name, sent.values, formats, Format.BINARY)
            preparing.append(None)
        libpq.pipeline_sync()
        return preparing

    def _error_in(self, result: PGresult) -> Error:
        error = error_from_result(result)
        if isinstance(error, InvalidSqlStatementName):
            # As by a pooler that gives each transaction another session. One of one's own begins anew.
            self._connection.pgconn.finish()
            return OperationalError(f"the session is not as it was left: {error.diag.message_primary}")
        return error

    def _checked(self, results: list[PGresult], preparing: list[Prepared | None]) -> list[PGresult]:
        returned = []
        for result, statement in zip(results, preparing, strict=True):
            if result.status == ExecStatus.FATAL_ERROR:
                raise self._error_in(result)
            if statement is None:
                returned.append(result)
            else:
                self._connection.prepared.add(statement.name)
        return returned


def _next(libpq: PGconn) -> PQGen[PGresult]:
    """The next result; after the last of each statement libpq returns None once."""
    while True:
        while libpq.is_busy():
            yield WAIT_R
            libpq.consume_input()
        if (result := libpq.get_result()) is not None:
            return result
        if libpq.status != ConnStatus.OK:
            raise OperationalError("the connection is lost")


def _leave(libpq: PGconn) -> None:
    """A connection with results that nobody waited for is of no use any more."""
    if libpq.status == ConnStatus.OK:
        try:
            libpq.exit_pipeline_mode()
        except OperationalError:
            libpq.finish()
