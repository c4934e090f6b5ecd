"""The floor moves what a saga of the real system moves, no less and no more, and leaves nothing behind."""

import aio_pika
import psycopg
import pytest

from tests.bench.floor.measure import drive, running_clients
from tests.bench.floor.places import Places, made_places
from tests.bench.floor.saga import STEPS
from tests.runtime.eventually import eventually
from tests.servers import Servers

IN_FLIGHT = 20
FACTS = 8
# Rows that a saga leaves in every service's database.
TABLES = {
    "order": "orders",
    "inventory": "reservations",
    "payment": "payments",
    "fulfillment": "shipments",
    "notification": "notices",
}
SUBSCRIBED = {"order": 2, "inventory": 2, "payment": 1, "fulfillment": 2, "notification": 1}


def count(database_url: str, what: str) -> int:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(f"SELECT count(*) FROM {what}".encode()).fetchone()
        assert found is not None
        return int(found[0])


async def published(places: Places) -> int:
    """How many messages the stream holds: all that was published."""
    async with await aio_pika.connect(places.broker_url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(places.queues["tracker"], passive=True)
        return queue.declaration_result.message_count or 0


async def test_it_moves_the_messages_and_rows_of_a_saga(servers: Servers) -> None:
    broker_url = servers.new_vhost()
    async with made_places(servers.postgres_url, broker_url) as places:
        async with running_clients(places) as clients:
            floor = await drive(clients, {}, IN_FLIGHT, seconds=2.0, warm_up_seconds=0.5)
        sagas = len(clients.sagas.ended_at)

        assert sagas > IN_FLIGHT
        assert 0 < floor.sagas <= sagas
        assert 0 < floor.p50_ms <= floor.p99_ms
        assert set(floor.cpu_ms) == {*TABLES, "tracker", "load"}
        assert f"{IN_FLIGHT} at once" in str(floor)
        for service, table in TABLES.items():
            database_url = places.databases[service]
            final = list(STEPS[service].values())[-1].status
            assert count(database_url, f"{table} WHERE status = '{final}'") == sagas, service
            assert count(database_url, "inbox") == SUBSCRIBED[service] * sagas, service
            assert count(database_url, "calls") == 0, service
        sold = count(places.databases["inventory"], f"stock WHERE sold = {sagas} AND reserved = 0")
        assert sold == 1
        tracker = places.databases["tracker"]
        assert count(tracker, "saga_facts") == FACTS * sagas
        assert count(tracker, "sagas WHERE state = 'COMPLETED'") == sagas
        assert count(tracker, "comparisons") == sagas

        async def all_published() -> bool:
            return await published(places) == FACTS * sagas

        # The broker counts what a stream holds now and then.
        await eventually(all_published)

    assert count(servers.postgres_url, "pg_database WHERE datname LIKE 'floor_%'") == 0
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await published(places)


async def test_a_process_that_fails_is_noticed(servers: Servers) -> None:
    async with made_places(servers.postgres_url, servers.new_vhost()) as places:
        with psycopg.connect(places.databases["payment"], autocommit=True) as connection:
            connection.execute("DROP TABLE payments")
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            async with running_clients(places) as clients:
                await drive(clients, {}, IN_FLIGHT, seconds=10.0, warm_up_seconds=0.5)
