"""Which rows of the outbox and the calls table are whose, when several instances of a service run.

Each instance draws a number and holds a PostgreSQL advisory lock on it for as long as it lives. Rows carry
their owner's number; those of an owner whose lock is free were left behind, and whoever notices adopts
them. The lock goes the moment a process or its connection dies; a process that hangs loses it after
`idle_session_timeout`, so no clock of ours decides who is dead.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from sqlalchemy import ColumnElement, Integer, Table, bindparam, func, select, update

from events.runtime.settings import ServiceSettings
from events.storage.database import AWAY, Database, connect_options
from events.storage.sql import ALIVE, compiled
from events.storage.tables import instance_ids
from events.telemetry.log import log

LOCK_CLASS = 20_411
_DRAW = compiled(select(instance_ids.next_value().cast(Integer).label("number")))
_LOCK = compiled(select(func.pg_advisory_lock(LOCK_CLASS, bindparam("number", type_=Integer))))


class Adoption:
    """The statement that makes the rows of dead instances in one table another's."""

    def __init__(
        self, table: Table, *only: ColumnElement[bool], noting: Mapping[str, ColumnElement[Any]] | None = None
    ) -> None:
        """`only` are further conditions, `noting` is what else to set."""
        self.table = table.name
        me = bindparam("me", type_=table.c.owner.type)
        others = select(table.c.owner).where(table.c.owner != me).distinct().subquery("others")
        is_dead = func.pg_try_advisory_xact_lock(LOCK_CLASS, others.c.owner)
        left = table.c.owner.in_(select(others.c.owner).where(is_dead))
        self.statement = compiled(update(table).values(owner=me, **(noting or {})).where(left, *only))


class Instance:
    """This process's number among the instances of its service."""

    def __init__(self, settings: ServiceSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self.number = 0

    async def enter(self) -> None:
        """Draw a number and lock it. Raises one of AWAY."""
        self._connection = await self._connect()
        if self.number == 0:
            cursor = await self._connection.execute(_DRAW)
            row = await cursor.fetchone()
            self.number = row["number"] if row else 0
        await self._connection.execute(_LOCK, {"number": self.number})

    async def stay(self) -> None:
        """Keep the lock; after an outage take it again, for the rows in memory are still ours."""
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            try:
                if self._connection is None:
                    await self.enter()
                else:
                    await self._connection.execute(ALIVE)
            except AWAY:
                await self.leave()

    async def leave(self) -> None:
        """Give the lock up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def adopt(
        self,
        database: Database,
        adoption: Adoption,
        parameters: Mapping[str, Any] | None = None,
    ) -> int:
        """Make rows that dead instances left ours, once the database is there; says how many they were.

        `parameters` are those of the adoption's own conditions.
        """
        given = {"me": self.number, **(parameters or {})}
        adopted = 0

        async def take_over() -> None:
            nonlocal adopted
            async with database.session() as connection:
                cursor = await connection.execute(adoption.statement, given)
                # The commit may go through and only its answer be lost: then they are ours already.
                adopted = max(adopted, cursor.rowcount)

        await database.until_done(take_over)
        if adopted:
            log.info("adopted_leftovers", table=adoption.table, rows=adopted)
        return adopted

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(
            self._settings.database_url,
            autocommit=True,
            **connect_options(self._settings, f"{self._name} instance"),
        )
        dead_after = self._settings.presumed_dead_after_seconds
        await connection.execute(b"SET idle_session_timeout = '%ds'" % dead_after)
        return connection
