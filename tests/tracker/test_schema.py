"""The migrations make the tables that the code describes."""

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from saga_tracker.tables import metadata
from tests.servers import Servers


async def test_migrations_and_tables_agree(servers: Servers) -> None:
    url = make_url(await servers.new_database("saga_tracker")).set(drivername="postgresql+psycopg")

    def differences() -> list[object]:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await asyncio.to_thread(differences) == []
