"""Migrations make the schema that the code means, however often and by however many they are applied."""

import asyncio
import sys
from importlib import import_module
from typing import Any, LiteralString

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, make_url
from sqlalchemy.pool import NullPool

from events.storage import tables
from events.storage.migrations import upgrade
from tests.servers import Servers

# Each package, and the modules that declare the tables of its database.
PACKAGES = {
    "order_svc": ["order_svc.repository"],
    "inventory_svc": ["inventory_svc.repository"],
    "payment_svc": ["payment_svc.repository"],
    "fulfillment_svc": ["fulfillment_svc.repository"],
    "notification_svc": ["notification_svc.repository"],
    "saga_tracker": ["saga_tracker.tables"],
}

# Everything a table consists of, as PostgreSQL itself describes it.
CATALOGUE: dict[str, LiteralString] = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity,
               identity_generation, character_maximum_length
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "sequences": "SELECT sequencename, data_type::text, cycle FROM pg_sequences WHERE schemaname = 'public'",
    "comments": """
        SELECT relname, obj_description(oid) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'""",
    "storage": """
        SELECT relname, reloptions::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'""",
}


def metadata_of(package: str) -> list[MetaData]:
    """What the code of a package thinks its database looks like."""
    own = [import_module(module).metadata for module in PACKAGES[package]]
    return [tables.metadata, *own] if package.endswith("_svc") else own


def make(database_url: str, package: str) -> None:
    """The schema as the code means it."""
    with _engine(database_url).begin() as connection:
        for metadata in metadata_of(package):
            metadata.create_all(connection)


def _engine(database_url: str) -> Any:
    return create_engine(make_url(database_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)


async def schema(database_url: str) -> dict[str, list[Any]]:
    """What is in a database, without Alembic's own table."""
    found = {}
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        for what, query in CATALOGUE.items():
            cursor = await connection.execute(query)
            rows = await cursor.fetchall()
            found[what] = sorted((row for row in rows if row[0] != "alembic_version"), key=str)
    return found


@pytest.mark.parametrize("package", PACKAGES)
async def test_they_make_exactly_the_tables_of_the_code(servers: Servers, package: str) -> None:
    migrated, meant = await servers.new_database(package), await servers.new_database()
    await asyncio.to_thread(make, meant, package)
    is_, should_be = await schema(migrated), await schema(meant)
    for what in CATALOGUE:
        assert is_[what] == should_be[what], what
    assert is_["columns"]


@pytest.mark.parametrize("package", PACKAGES)
async def test_alembic_finds_nothing_left_to_migrate(servers: Servers, package: str) -> None:
    url = await servers.new_database(package)

    def differences() -> list[Any]:
        with _engine(url).connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"include_name": lambda name, kind, _: name != "alembic_version"}
            )
            return list(compare_metadata(context, metadata_of(package)))  # type: ignore[arg-type]

    assert await asyncio.to_thread(differences) == []


@pytest.mark.parametrize("package", ["order_svc", "saga_tracker"])
async def test_applying_them_again_changes_nothing(servers: Servers, package: str) -> None:
    url = await servers.new_database(package)
    before = await schema(url)
    await asyncio.to_thread(upgrade, url, package)
    assert await schema(url) == before


async def test_several_may_apply_them_at_once(servers: Servers) -> None:
    url, other = await servers.new_database(), await servers.new_database("inventory_svc")
    program = "import sys; from events.storage.migrations import upgrade; upgrade(*sys.argv[1:])"
    command = [sys.executable, "-c", program, url, "inventory_svc"]
    # Processes, as Alembic is not made for threads.
    applying = [await asyncio.create_subprocess_exec(*command) for _ in range(3)]
    assert [await process.wait() for process in applying] == [0, 0, 0]
    assert await schema(url) == await schema(other)


async def test_a_database_that_is_not_there_is_shown_so(servers: Servers) -> None:
    with pytest.raises(Exception, match="nowhere"):
        await asyncio.to_thread(upgrade, f"{servers.postgres_url}_nowhere", "order_svc")
