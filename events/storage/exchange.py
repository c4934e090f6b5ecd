"""One round trip with the database: prepared statements that leave together and are answered together.

psycopg's own pipeline costs a system call and some 100 us for each statement of it. This is beneath it, on
the functions of libpq that psycopg offers (`psycopg.pq`), for what is done once a batch.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import Error, OperationalError
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql.elements import ClauseElement

from events.storage.binary import Encode, parameter_format
from events.storage.database import Session

_DIALECT = psycopg.dialect()  # type: ignore[no-untyped-call]
_PARAMETER = re.compile(r"%\((\w+)\)s|%%")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that each connection prepares once, with the names of its parameters in their order."""

    name: bytes
    text: bytes
    parameters: tuple[tuple[str, int, Encode], ...]

    def encode(self, given: Mapping[str, Any]) -> list[bytes | None]:
        """The parameters as they are sent. Raises KeyError for one that is missing."""
        return [None if given[name] is None else encode(given[name]) for name, _, encode in self.parameters]


def prepared(statement: ClauseElement | str) -> Prepared:
    """A statement of SQLAlchemy's, or one without parameters as text."""
    if isinstance(statement, str):
        return _named(statement, ())
    compiled = statement.compile(dialect=_DIALECT)
    types = {name: parameter.type for parameter, name in compiled.bind_names.items()}  # type: ignore[attr-defined]
    order: list[str] = []

    def number(found: re.Match[str]) -> str:
        if (name := found[1]) is None:
            return "%"
        if name not in order:
            order.append(name)
        return f"${order.index(name) + 1}"

    text = _PARAMETER.sub(number, str(compiled))
    return _named(text, tuple((name, *parameter_format(types[name])) for name in order))


def _named(text: str, parameters: tuple[tuple[str, int, Encode], ...]) -> Prepared:
    return Prepared(
        hashlib.blake2b(text.encode(), digest_size=12).hexdigest().encode(), text.encode(), parameters
    )


BEGIN, COMMIT = prepared("BEGIN"), prepared("COMMIT")


@dataclass(slots=True)
class Answer:
    """What a statement answered, in rows as tuples, once its exchange is over."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)


class Exchange:
    """Statements sent together over one connection, which remembers what it has prepared of them."""

    def __init__(self, connection: Session) -> None:
        self._connection = connection
        self._asked: list[tuple[Prepared, list[bytes | None], Answer]] = []

    def ask(self, statement: Prepared, **parameters: Any) -> Answer:
        """Add a statement. Nothing leaves before `over`."""
        answer = Answer()
        self._asked.append((statement, statement.encode(parameters), answer))
        return answer

    async def over(self) -> None:
        """Send all, and wait for all answers. Raises the first error; what came after it was not done."""
        async with self._connection.lock:
            results = await self._connection.wait(self._exchange(self._connection.pgconn))
        rows_of = Transformer(self._connection)
        for (_, _, answer), result in zip(self._asked, results, strict=True):
            if result.ntuples:
                rows_of.set_pgresult(result)
                answer.rows = rows_of.load_rows(0, result.ntuples, tuple)

    def _exchange(self, libpq: PGconn) -> PQGen[list[PGresult]]:
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
        """Answers which results tell that a statement is prepared now."""
        known = self._connection.prepared
        preparing: list[Prepared | None] = []
        for statement, values, _ in self._asked:
            if statement.name not in known and statement not in preparing:
                libpq.send_prepare(
                    statement.name, statement.text, [oid for _, oid, _ in statement.parameters]
                )
                preparing.append(statement)
            formats = [Format.BINARY] * len(values)
            libpq.send_query_prepared(statement.name, values, formats, Format.BINARY)
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
        answers = []
        for result, statement in zip(results, preparing, strict=True):
            if result.status == ExecStatus.FATAL_ERROR:
                raise self._error_in(result)
            if statement is None:
                answers.append(result)
            else:
                self._connection.prepared.add(statement.name)
        return answers


def _next(libpq: PGconn) -> PQGen[PGresult]:
    """The next result; after the last of each statement libpq answers None once."""
    while True:
        while libpq.is_busy():
            yield WAIT_R
            libpq.consume_input()
        if (result := libpq.get_result()) is not None:
            return result
        if libpq.status != ConnStatus.OK:
            raise OperationalError("the connection is lost")


def _leave(libpq: PGconn) -> None:
    """A connection with answers nobody waited for is of no use any more."""
    if libpq.status == ConnStatus.OK:
        try:
            libpq.exit_pipeline_mode()
        except OperationalError:
            libpq.finish()
