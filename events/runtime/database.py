"""The connections of one process to its database, which may be away at any moment."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from events.runtime.log import Outage
from events.runtime.promptly import promptly
from events.runtime.settings import ProcessSettings

Connection = psycopg.AsyncConnection[DictRow]


class Session(Connection):
    """A connection of the pool. `prepared` names the statements that it has prepared for `Exchange`.

    psycopg must not prepare any on it: when a transaction is rolled back it has PostgreSQL forget all
    prepared statements of the session, `Exchange`'s among them.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: set[bytes] = set()


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
)

# For who looks everything up by its key. Plans are kept: one made while a table was small reads all of
# it, and goes on so while it grows, until there are new statistics.
BY_KEY = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}

# After these, a silent connection counts as lost: 11 seconds.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_COUNT = 5, 2, 3
UNACKNOWLEDGED_MILLISECONDS = 11_000


def spares_the_row(error: Exception) -> bool:
    """Whether it is about the database as a whole, or its schema, and not about what was to be written."""
    kinds = (psycopg.ProgrammingError, *AWAY, *CONTENTION)
    return isinstance(error, kinds) and not isinstance(error, BEYOND_LIMITS)


def in_words(error: Exception) -> str:
    """What an error says, without the row that PostgreSQL shows with it: not everybody may see it."""
    shown = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return shown or str(error)


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

        `prepare_threshold` is psycopg's, for a process that prepares nothing by `Exchange` (see `Session`).
        """
        self.outage = Outage("database")
        self._settings = settings
        self._pool: AsyncConnectionPool[Session] = AsyncConnectionPool(
            settings.database_url,
            connection_class=Session,
            kwargs={
                **connect_options(settings, application_name, options),
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
    async def transaction(self) -> AsyncIterator[Session]:
        """A connection whose work is committed at the end, or rolled back. Raises one of AWAY."""
        async with self._pool.connection() as connection:
            yield connection

    async def rows(self, query: bytes, **parameters: Any) -> list[DictRow]:
        """The rows of one query."""
        async with self.transaction() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall()

    async def rows_when_back(self, query: bytes, **parameters: Any) -> list[DictRow]:
        """The rows of one query, however long the database is away."""
        while True:
            try:
                return await self.rows(query, **parameters)
            except AWAY as error:
                await self.wait_until_back(error)

    async def wait_until_back(self, why: BaseException) -> None:
        """Return once the database answers again, however long that takes."""
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

    async def working(self) -> bool:
        """Whether it answers in time, and takes what is written."""
        try:
            return await promptly(self._takes_writes(), self._settings.database_timeout_seconds)
        except (TimeoutError, ConnectionError, *AWAY):
            return False

    async def _takes_writes(self) -> bool:
        found = await self.rows(b"SELECT current_setting('transaction_read_only') AS read_only")
        return bool(found[0]["read_only"] == "off")


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
