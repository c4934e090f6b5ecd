"""The one leader election: of several trackers one acts on deadlines, the one whose name is in the lease.

The lease is a row that is renewed by the same transaction that acts. So one that was given up for dead finds
another's name there, and does nothing; and nobody takes over while one acts.
"""

import contextlib
import os
import socket
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Interval, Text, bindparam, cast, func, or_, select, update

from events.runtime.loops import promptly
from events.storage.database import AWAY, Connection, Database
from events.storage.sql import compiled
from saga_tracker.tables import lease

_clock = func.clock_timestamp()
_HOLD = compiled(
    update(lease)
    .where(or_(lease.c.holder == bindparam("me", type_=Text), lease.c.expires_at <= _clock))
    .values(holder=bindparam("me", type_=Text), expires_at=_clock + cast(bindparam("held_for"), Interval))
    .returning(_clock.label("now"))
)
_RELEASE = compiled(
    update(lease)
    .where(lease.c.holder == bindparam("me", type_=Text))
    .values(expires_at=_clock)
    .returning(lease.c.holder)
)
# Who leads now: a row, or none.
HOLDER = compiled(select(lease.c.holder).where(lease.c.expires_at > _clock))


class LeaderLease:
    """One tracker's claim to the lease, under a name of its own."""

    def __init__(self, lease_seconds: float) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._seconds = lease_seconds

    async def hold(self, connection: Connection) -> datetime | None:
        """The time, if this tracker is the one to act. Nobody takes over before the transaction ends.

        If this process hangs within it, the database ends it.
        """
        milliseconds = int(self._seconds * 1_000)
        await connection.execute(b"SET LOCAL idle_in_transaction_session_timeout = %d" % milliseconds)
        await connection.execute(b"SET LOCAL lock_timeout = %d" % milliseconds)
        held_for = timedelta(seconds=self._seconds)
        cursor = await connection.execute(_HOLD, {"me": self.name, "held_for": held_for})
        row = await cursor.fetchone()
        return row["now"] if row else None

    async def release(self, database: Database, limit_seconds: float) -> None:
        """Let another tracker take over at once, if the database answers."""
        with contextlib.suppress(TimeoutError, ConnectionError, *AWAY):
            await promptly(database.rows(_RELEASE, me=self.name), limit_seconds)
