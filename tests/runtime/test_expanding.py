"""From the release before on, every migration leaves that release working: it expands alone."""

import asyncio
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from alembic import command
from alembic.script import Script, ScriptDirectory

from compose.release_before import MIGRATIONS
from events.storage.migrations import alembic_config
from tests.runtime.expanding import schema_of, takes_away
from tests.runtime.test_migrations import PACKAGES
from tests.servers import Servers


def marks_of(package: str) -> list[str]:
    """What the migrations of the release before end with, in this package's database."""
    if package == "saga_tracker":
        return [MIGRATIONS["tracker"]]
    return [MIGRATIONS["runtime"], MIGRATIONS[package.removesuffix("_svc")]]


def later_than(marks: list[str], scripts: ScriptDirectory) -> Iterator[Script]:
    """The migrations that the release before does not have, in their order."""
    known = known_by(marks, scripts)
    yield from (script for script in reversed(list(scripts.walk_revisions())) if script.revision not in known)


def known_by(marks: list[str], scripts: ScriptDirectory) -> set[str]:
    return {script.revision for mark in marks for script in scripts.iterate_revisions(mark, "base")}


def complaints(database_url: str, package: str) -> list[str]:
    """Apply one migration after the other; what any of them takes away without a right to it."""
    config = alembic_config(database_url, package)
    scripts = ScriptDirectory.from_config(config)
    marks, found = marks_of(package), []
    for mark in marks:
        command.upgrade(config, mark)
    before = schema_of(database_url)
    for script in later_than(marks, scripts):
        command.upgrade(config, script.revision)
        after = schema_of(database_url)
        contracts = getattr(script.module, "contracts", None)
        if contracts is None:
            found += [f"{script.revision} {what}" for what in takes_away(before, after)]
        elif contracts not in known_by(marks, scripts):
            found.append(f"{script.revision} contracts {contracts}, which the release before does not have")
        before = after
    return found


@pytest.mark.parametrize("package", PACKAGES)
async def test_a_migration_only_expands(servers: Servers, package: str) -> None:
    url = await servers.new_database()
    assert await asyncio.to_thread(complaints, url, package) == []


BEGINNING: LiteralString = """
    CREATE TABLE orders (
        id int PRIMARY KEY, status text NOT NULL DEFAULT 'new', note text, customer text UNIQUE,
        CONSTRAINT known_status CHECK (status IN ('new', 'sent')),
        CONSTRAINT note_is_not_empty CHECK (note <> ''));
    CREATE TABLE lines (id int);
    CREATE UNIQUE INDEX one_line ON lines (id)"""

TAKES_AWAY: list[tuple[LiteralString, str]] = [
    ("DROP TABLE lines", "drops lines"),
    ("ALTER TABLE lines RENAME TO items", "drops lines"),
    ("ALTER TABLE orders DROP COLUMN note", "drops or renames orders.note"),
    ("ALTER TABLE orders RENAME COLUMN note TO remark", "drops or renames orders.note"),
    ("ALTER TABLE orders ALTER COLUMN id TYPE smallint", "makes orders.id int2 of int4"),
    ("ALTER TABLE orders ALTER COLUMN note SET NOT NULL", "makes orders.note NOT NULL"),
    ("ALTER TABLE orders ALTER COLUMN status DROP DEFAULT", "takes the default of orders.status away"),
    ("ALTER TABLE orders ADD COLUMN round int NOT NULL", "adds orders.round NOT NULL without a default"),
    ("ALTER TABLE orders ADD CONSTRAINT small CHECK (id < 9)", "adds constraint small to orders"),
    ("ALTER TABLE orders DROP CONSTRAINT orders_customer_key", "drops orders_customer_key of orders"),
    ("DROP INDEX one_line", "drops unique index one_line"),
    ("CREATE UNIQUE INDEX one_note ON orders (note)", "adds unique index one_note to orders"),
    (
        "ALTER TABLE orders DROP CONSTRAINT known_status,"
        " ADD CONSTRAINT known_status CHECK (status IN ('new', 'kept'))",
        "changes known_status of orders",
    ),
    (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER refuses BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse()",
        "adds trigger refuses to orders",
    ),
]
EXPANDS: list[LiteralString] = [
    "CREATE TABLE letters (id int PRIMARY KEY, body text NOT NULL UNIQUE)",
    "CREATE INDEX by_note ON orders (note)",
    "ALTER TABLE orders ADD COLUMN remark text",
    "ALTER TABLE orders ADD COLUMN round int NOT NULL DEFAULT 1 CHECK (round > 0)",
    "ALTER TABLE orders ALTER COLUMN note SET DEFAULT 'none'",
    "ALTER TABLE orders ALTER COLUMN status DROP NOT NULL",
    "ALTER TABLE orders DROP CONSTRAINT note_is_not_empty",
    "ALTER TABLE orders DROP CONSTRAINT known_status,"
    " ADD CONSTRAINT known_status CHECK (status IN ('new', 'sent', 'lost'))",
    "ALTER TABLE orders SET (fillfactor = 60)",
]


async def found_in(servers: Servers, change: LiteralString) -> list[str]:
    url = await servers.new_database()

    def apply() -> list[str]:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(BEGINNING)
            before = schema_of(url)
            connection.execute(change)
            return takes_away(before, schema_of(url))

    return await asyncio.to_thread(apply)


@pytest.mark.parametrize(("change", "complaint"), TAKES_AWAY, ids=[text for _, text in TAKES_AWAY])
async def test_what_takes_something_away_is_found(
    servers: Servers, change: LiteralString, complaint: str
) -> None:
    """First of all; what goes with it is told, too, such as the indexes of a table."""
    assert (await found_in(servers, change))[0] == complaint


@pytest.mark.parametrize("change", EXPANDS)
async def test_what_expands_is_let_pass(servers: Servers, change: LiteralString) -> None:
    assert await found_in(servers, change) == []
