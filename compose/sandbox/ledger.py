"""The sandbox's memory: one SQLite file with one writer, committed in groups.

All requests that arrive in one turn of the event loop share one commit, and each is answered after it: an
answered operation survives a `kill -9` of the sandbox. Work is synchronous between `step` and its end, so two
requests never interleave.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from events.telemetry.log import log

BUSY_TIMEOUT_SECONDS = 2
# Small pages: an operation touches a handful of random ones, and each is written whole.
PAGE_BYTES = 1024
CHECKPOINT_PAGES = 32_000
CACHE_KIBIBYTES = 8 * 1024

# Ids only grow, as the newest row of a table is never deleted.
SCHEMA = """
-- What was answered to whom: the same idempotency key gets the same answer. The request is kept as a digest.
CREATE TABLE IF NOT EXISTS operations (
    party TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_digest BLOB NOT NULL,
    http_status INTEGER NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (party, idempotency_key)
) WITHOUT ROWID;

-- How often a flaky operation was tried before it went through.
CREATE TABLE IF NOT EXISTS flaky_attempts (
    party TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (party, idempotency_key)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS payments (
    reference TEXT PRIMARY KEY,
    state TEXT NOT NULL
        CHECK (state IN ('authorised', 'captured', 'voided', 'refunded', 'credited', 'closed')),
    amount_minor INTEGER CHECK (amount_minor >= 0),
    currency TEXT,
    payment_token TEXT,
    CHECK (state = 'closed' OR (amount_minor IS NOT NULL AND currency IS NOT NULL))
) WITHOUT ROWID;

-- Money that moved. Nothing is ever changed or deleted here.
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    reference TEXT NOT NULL REFERENCES payments,
    kind TEXT NOT NULL CHECK (kind IN ('authorised', 'captured', 'voided', 'refunded', 'credited')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
    currency TEXT NOT NULL,
    at TEXT NOT NULL
);
-- Whatever the code above them does: each kind once, and money goes back once.
CREATE UNIQUE INDEX IF NOT EXISTS each_kind_once ON entries (reference, kind);
CREATE UNIQUE INDEX IF NOT EXISTS captured_or_voided ON entries (reference)
    WHERE kind IN ('captured', 'voided');
CREATE UNIQUE INDEX IF NOT EXISTS given_back_once ON entries (reference)
    WHERE kind IN ('refunded', 'credited');

-- Of Stripe's door: each object as it is now, and when something becomes of it by itself; and the events that
-- are yet to be delivered.
CREATE TABLE IF NOT EXISTS stripe_objects (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    parent TEXT,
    content TEXT NOT NULL,
    due_at REAL
);
CREATE INDEX IF NOT EXISTS stripe_objects_of ON stripe_objects (parent, kind);
CREATE INDEX IF NOT EXISTS stripe_objects_due ON stripe_objects (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS stripe_deliveries (
    id INTEGER PRIMARY KEY,
    content TEXT NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    since REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS stripe_deliveries_due ON stripe_deliveries (due_at);

-- Of EasyPost's door: the same of its Shipments, the latest with the highest number.
CREATE TABLE IF NOT EXISTS easypost_shipments (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    bought INTEGER NOT NULL,
    content TEXT NOT NULL,
    due_at REAL
);
CREATE INDEX IF NOT EXISTS easypost_shipments_due ON easypost_shipments (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS shipments (
    id INTEGER PRIMARY KEY,
    reference TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL CHECK (status IN ('booked', 'dispatched', 'cancelled', 'closed')),
    shipment_id TEXT,
    deliver_on TEXT,
    postcode TEXT,
    CHECK (status = 'closed' OR shipment_id IS NOT NULL)
);

CREATE TABLE IF NOT EXISTS mails (
    id INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL UNIQUE,
    sender TEXT NOT NULL,
    recipients TEXT NOT NULL,
    content BLOB NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 1,
    at TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS pushes (
    id INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    device TEXT NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    at TEXT NOT NULL
);
"""


class Ledger:
    """The one connection to the one file. Belongs to one event loop and takes the file for itself."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating it where needed.

        Raises sqlite3.OperationalError when it cannot be opened or another sandbox holds it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # Exclusive: a second sandbox on the same file fails at start instead of spoiling it.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        self._db.execute("PRAGMA journal_mode = WAL")
        # It has to survive its process, not the machine: its fsyncs would only hold up the real databases'.
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
        self._loop = asyncio.get_running_loop()
        self._group_open = False
        self._waiting: list[asyncio.Future[None]] = []

    @contextmanager
    def step(self) -> Iterator[sqlite3.Connection]:
        """One piece of work, all or nothing, within the group that is committed next.

        The body must not await. After it, await `committed()` before telling anyone.
        """
        if not self._group_open:
            self._db.execute("BEGIN IMMEDIATE")
            self._group_open = True
            self._loop.call_soon(self._commit_group)
        self._db.execute("SAVEPOINT step")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK TO step")
            raise
        finally:
            self._db.execute("RELEASE step")

    async def committed(self) -> None:
        """Wait until everything done so far is committed. Raises sqlite3.Error when that fails."""
        if self._group_open:
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            await waiting

    async def rows(self, statement: str, *parameters: object) -> list[sqlite3.Row]:
        """What a query finds, committed."""
        found: list[sqlite3.Row] = self._db.execute(statement, parameters).fetchall()
        await self.committed()
        return found

    def close(self) -> None:
        """Commit what is open and close the file."""
        if self._group_open:
            self._commit_group()
        self._db.close()

    def _commit_group(self) -> None:
        if not self._group_open:
            return
        waiting, self._waiting = self._waiting, []
        self._group_open = False
        failure: sqlite3.Error | None = None
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            failure = error
            log.error("ledger_commit_failed", error=str(error), operations=len(waiting))
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        for future in waiting:
            if future.done():
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)
