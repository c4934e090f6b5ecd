"""The servers that other tests run against."""

import aio_pika
import psycopg
import pytest

from tests.servers import Servers


async def test_a_new_database_is_empty_and_nobody_elses(servers: Servers) -> None:
    first, second = await servers.new_database(), await servers.new_database()
    assert first != second
    async with await psycopg.AsyncConnection.connect(first) as connection:
        await connection.execute("CREATE TABLE mine (id int)")
    async with await psycopg.AsyncConnection.connect(second) as connection:
        found = await connection.execute("SELECT to_regclass('mine')")
        assert await found.fetchone() == (None,)


async def test_a_database_comes_with_the_schema_of_a_package(servers: Servers) -> None:
    await servers.new_database("inventory_svc")
    url = await servers.new_database("inventory_svc")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute("SELECT to_regclass('inbox') IS NOT NULL")
        assert await found.fetchone() == (True,)


async def test_a_new_vhost_has_queues_of_its_own(servers: Servers) -> None:
    first, second = servers.new_vhost(), servers.new_vhost()
    async with await aio_pika.connect(first) as connection, connection.channel() as channel:
        await channel.declare_queue("mine", durable=True, arguments={"x-queue-type": "quorum"})
    async with await aio_pika.connect(second) as connection, connection.channel() as channel:
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.get_queue("mine", ensure=True)
