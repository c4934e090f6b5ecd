"""Where the floor's messages and rows go: an exchange, queues, a stream and databases of its own.

They have the names of the real ones behind a prefix, the real queues' arguments and bindings, and the real
schemas. What a killed run left behind is removed first.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import psycopg
from aio_pika import ExchangeType
from psycopg import sql

from compose.system import SERVICES
from events.messaging.topology import TRACKER, service_queue_arguments, stream_arguments
from events.service import EXCHANGE, STREAM
from events.storage.migrations import upgrade
from tests.bench.floor.saga import SKU

PREFIX = "floor"
STOCK = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Places:
    """What one of the floor's processes is told: by service, and the tracker's."""

    broker_url: str
    exchange: str
    queues: dict[str, str]
    databases: dict[str, str]


@asynccontextmanager
async def made_places(postgres_url: str, broker_url: str) -> AsyncIterator[Places]:
    """All of it, made with administrators' URLs; gone when the context ends."""
    packages = {service.name: service.package for service in SERVICES} | {TRACKER: "saga_tracker"}
    places = Places(
        broker_url=broker_url,
        exchange=f"{PREFIX}.{EXCHANGE}",
        queues={service.name: f"{PREFIX}.{service.queue}" for service in SERVICES}
        | {TRACKER: f"{PREFIX}.{STREAM}"},
        databases={name: _database_url(postgres_url, f"{PREFIX}_{name}") for name in packages},
    )
    await _remove(postgres_url, places)
    try:
        await asyncio.to_thread(_make_databases, postgres_url, places, packages)
        await _declare(places)
        yield places
    finally:
        await _remove(postgres_url, places)


def _make_databases(postgres_url: str, places: Places, packages: dict[str, str]) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for database in _database_names(places):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(database))
    for name, package in packages.items():
        upgrade(places.databases[name], package)
    with psycopg.connect(places.databases["inventory"]) as connection:
        connection.execute(
            "INSERT INTO stock (sku, available, stocked) VALUES (%s, %s, %s)", (SKU, STOCK, STOCK)
        )


async def _declare(places: Places) -> None:
    async with await aio_pika.connect(places.broker_url) as connection, connection.channel() as channel:
        exchange = await channel.declare_exchange(places.exchange, ExchangeType.TOPIC, durable=True)

        async def queue(name: str, arguments: dict[str, Any], *keys: str) -> None:
            declared = await channel.declare_queue(name, durable=True, arguments=arguments)
            for key in keys:
                await declared.bind(exchange, key)

        await queue(places.queues[TRACKER], stream_arguments(), "#")
        for service in SERVICES:
            await queue(places.queues[service.name], service_queue_arguments(service), *service.binding_keys)


async def _remove(postgres_url: str, places: Places) -> None:
    async with await aio_pika.connect(places.broker_url) as connection, connection.channel() as channel:
        await channel.exchange_delete(places.exchange)
        for queue in places.queues.values():
            await channel.queue_delete(queue)
    await asyncio.to_thread(_drop_databases, postgres_url, places)


def _drop_databases(postgres_url: str, places: Places) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for database in _database_names(places):
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))


def _database_names(places: Places) -> Iterator[sql.Identifier]:
    return (sql.Identifier(urlsplit(url).path.removeprefix("/")) for url in places.databases.values())


def _database_url(postgres_url: str, name: str) -> str:
    return urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
