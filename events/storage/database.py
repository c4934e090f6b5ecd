"""The connections of one process to its database, which may be away at any moment."""

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import Dumper
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from events.runtime.loops import promptly
from events.runtime.settings import ProcessSettings
from events.telemetry.log import Outage
from events.telemetry.redaction import in_words

Connection = psycopg.AsyncConnection[DictRow]
T = TypeVar("T")


class Locked(psycopg.Error):
    """Another transaction holds a lock on what this one needs, for longer than one waits for it.

    psycopg's own error for it is an operational one, which would count as AWAY.
    """

    sqlstate = psycopg.errors.LockNotAvailable.sqlstate


class Session(Connection):
    """A connection of the pool. `prepared` names the statements that it has prepared for `RoundTrip`.

    `dumpers` are psycopg's for values of those types that were sent so far.

    psycopg must not prepare any on it: when a transaction is rolled back it has PostgreSQL forget all
    prepared statements of the session, `RoundTrip`'s among them.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: set[bytes] = set()
        self.dumpers: dict[int, Dumper] = {}


# What says "the database is away", as opposed to "it does not like this statement". One that only reads is
# a standby on its way to becoming the primary; a session that idled in a transaction was ended for it.
# Of what a socket raises psycopg makes an OperationalError: another OSError or TimeoutError is no sign of it.
AWAY = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
    PoolClosed,
)
# What PostgreSQL cannot hold, now or ever, although psycopg counts it as operational.
BEYOND_LIMITS = (
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    psycopg.errors.TooManyColumns,
    psycopg.errors.TooManyArguments,
)
# What another transaction caused, and a second try cures.
CONTENTION = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    Locked,
)

# For who looks everything up by its key. Plans are kept: one made while a table was small reads all of
# it, and goes on so while it grows, until there are new statistics.
BY_KEY = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}

# After these, a silent connection counts as lost: 11 seconds.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_COUNT = 5, 2, 3
UNACKNOWLEDGED_MILLISECONDS = 11_000
# For so long it is not reported that the database may be away.
QUIETLY_SECONDS = 1.0


def spares_the_row(error: Exception) -> bool:
    """Whether it is about the database as a whole, or its schema, and not about what was to be written."""
    kinds = (psycopg.ProgrammingError, *AWAY, *CONTENTION)
    return isinstance(error, kinds) and not isinstance(error, BEYOND_LIMITS)


class Database:
    """A bounded pool that reconnects by itself."""

    def __init__(
        self,
        settings: ProcessSettings,
        application_name: str,
        options: Mapping[str, str] | None = None,
        *,
        prepare_threshold: int | None = None,
    ) -> None:
        """`options` are PostgreSQL's, for every session.

        `prepare_threshold` is psycopg's, for a process that prepares nothing by `RoundTrip` (see `Session`).
        """
        self.outage = Outage("database")
        self._settings = settings
        self._was_there = False
        # When a session was lost while the database was there. All may be at once, and their successors.
        self._lost_sessions: deque[float] = deque(maxlen=4 * settings.database_pool_size)
        self._pool: AsyncConnectionPool[Session] = AsyncConnectionPool(
            settings.database_url,
            connection_class=Session,
            kwargs={
                **connect_options(settings, application_name, options),
                "autocommit": True,
                "prepare_threshold": prepare_threshold,
            },
            min_size=2,
            max_size=settings.database_pool_size,
            timeout=settings.database_timeout_seconds,
            reconnect_timeout=settings.database_timeout_seconds,
            open=False,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection on which every statement commits itself, where no transaction is begun.

        What an error leaves of one is rolled back. Raises Locked, or one of AWAY.
        """
        connection = await self._live_connection()
        try:
            async with connection:
                yield connection
        except psycopg.errors.LockNotAvailable as error:
            raise Locked(in_words(error)) from error
        finally:
            await self._pool.putconn(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A connection whose work is committed at the end, or rolled back. Raises as `session` does."""
        async with self.session() as connection, connection.transaction():
            yield connection

    async def rows(self, query: bytes, **parameters: Any) -> list[DictRow]:
        """The rows of one query that may be repeated."""

        async def find(connection: Session) -> list[DictRow]:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall()

        return await self.read(find)

    async def read(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """What comes of `work`, which may be repeated: over another connection, where one breaks.

        Each statement of it reads what is committed by then.
        """
        give_up_at = monotonic() + self._settings.database_timeout_seconds
        for _ in range(self._settings.database_pool_size):
            try:
                async with self.session() as connection:
                    return await work(connection)
            except AWAY as error:
                if not _is_lost_session(error) or monotonic() > give_up_at:
                    raise
        async with self.session() as connection:
            return await work(connection)

    async def rows_when_back(self, query: bytes, **parameters: Any) -> list[DictRow]:
        """The rows of one query, however long the database is away or what it reads is locked."""
        return await self.until_done(lambda: self.rows(query, **parameters))

    async def until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """What comes of `work`, which may be repeated, however long it takes to have it done."""
        while True:
            try:
                return await work()
            except Locked:
                await asyncio.sleep(self._settings.reconnect_seconds)
            except AWAY as error:
                await self.wait_until_back(error)

    async def wait_until_back(self, why: BaseException) -> None:
        """Return once the database answers again, however long that takes.

        At once if it does, and only this session was lost: nobody needs to know of that.
        """
        if self._may_be_there(why) and await self.working(QUIETLY_SECONDS):
            return
        self.outage.began(why)
        while True:
            await asyncio.sleep(self._settings.reconnect_seconds)
            try:
                if not await self._takes_writes():
                    continue
                await self._pool.check()
            except AWAY:
                continue
            self.outage.ended()
            return

    async def working(self, within_seconds: float | None = None) -> bool:
        """Whether it answers in time, and takes what is written."""
        try:
            limit_seconds = within_seconds or self._settings.database_timeout_seconds
            return await promptly(self._takes_writes(), limit_seconds)
        except (TimeoutError, ConnectionError, *AWAY):
            return False

    def _may_be_there(self, why: BaseException) -> bool:
        """Whether it was just now, and this is about a session; but not for so many that it needs a word."""
        known = self._was_there and not self.outage.ongoing and _is_lost_session(why)
        return known and not self._loses_many_sessions()

    def _loses_many_sessions(self) -> bool:
        now, lost = monotonic(), self._lost_sessions
        many = len(lost) == lost.maxlen and now - lost[0] < self._settings.database_timeout_seconds
        lost.append(now)
        return many

    async def _live_connection(self) -> Session:
        """One of the pool. Those that the server ended while they were idle are replaced unseen."""
        deadline = monotonic() + self._settings.database_timeout_seconds
        while True:
            connection = await self._pool.getconn(max(0.0, deadline - monotonic()))
            if not _was_ended(connection):
                self._was_there = True
                return connection
            await connection.close()
            await self._pool.putconn(connection)

    async def _takes_writes(self) -> bool:
        found = await self.rows(b"SELECT current_setting('transaction_read_only') AS read_only")
        return bool(found[0]["read_only"] == "off")


def _is_lost_session(error: BaseException) -> bool:
    """Whether a session is gone, which says nothing of the database: by the server's word, or without one."""
    if not isinstance(error, psycopg.Error) or isinstance(error, PoolTimeout | PoolClosed):
        return False
    return error.sqlstate is None or error.sqlstate.startswith("57P") or error.sqlstate == "25P03"


def _was_ended(connection: Session) -> bool:
    """Whether the server, or the way to it, has ended an idle connection. Costs no round trip.

    Nothing is to be read on a connection that has asked nothing, but for the last word, or the end. (Of a
    server that reads its configuration anew there may be a notice; then one connection is made for nothing.)
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLPRI)
    return bool(poll.poll(0)) or connection.broken


def connect_options(
    settings: ProcessSettings, application_name: str, options: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """How every connection of a process is made: so that neither side waits long for one that is gone.

    A process that hangs within a transaction, or whose machine is gone, must not keep its locks for ever.
    """
    session = {
        "idle_in_transaction_session_timeout": f"{settings.presumed_dead_after_seconds}s",
        "tcp_keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "tcp_keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "tcp_keepalives_count": KEEPALIVE_COUNT,
        **(options or {}),
    }
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "row_factory": dict_row,
        "application_name": application_name,
        "connect_timeout": max(2, int(settings.database_timeout_seconds)),
        "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "keepalives_count": KEEPALIVE_COUNT,
        "tcp_user_timeout": UNACKNOWLEDGED_MILLISECONDS,
    }
