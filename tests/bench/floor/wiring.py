"""What the floor's processes share: who they are, what they are told, and the two pipes to who started them.

Order ids come in at standard input (16 bytes each: place these) and go out at standard output: these have
come to what the process is to report. A first id of zeros says that it is ready. It ends when its input does.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from aiormq.abc import DeliveredMessage
from pydantic_settings import BaseSettings

READY = UUID(int=0)
ID_BYTES = 16

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who a process is and where its messages and rows go."""

    name: str
    broker_url: str
    exchange: str
    queue: str
    database_url: str


@dataclass(frozen=True, slots=True)
class Input:
    """A delivery, a command, or a call that is through: what it is, which one, of which order."""

    what: str
    cause: UUID
    order_id: UUID


def input_of(message: DeliveredMessage) -> Input:
    """What a delivery says: its properties do, nobody reads the body."""
    properties = message.header.properties
    return Input(
        message.routing_key or "", UUID(properties.message_id or ""), UUID(str(properties.correlation_id))
    )


def report(order_ids: Sequence[UUID]) -> None:
    """Say that these have come so far."""
    if order_ids:
        os.write(sys.stdout.fileno(), b"".join(order_id.bytes for order_id in order_ids))


def default(settings: type[BaseSettings], name: str) -> Any:
    """What the real processes do unless told otherwise."""
    return settings.model_fields[name].default


async def until_input_ends(
    placed: Callable[[Sequence[UUID]], None], *jobs: Coroutine[Any, Any, None]
) -> None:
    """Does the jobs until there will be no more order ids. Raises what one of them raises."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    tasks = [asyncio.create_task(job) for job in jobs]
    reading = asyncio.create_task(_read_ids(reader, placed))
    report([READY])
    done, _ = await asyncio.wait({*tasks, reading}, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in done:
        task.result()


async def _read_ids(reader: asyncio.StreamReader, placed: Callable[[Sequence[UUID]], None]) -> None:
    while ids := await reader.read(4_096 * ID_BYTES):
        ids += await reader.readexactly(-len(ids) % ID_BYTES)
        placed([UUID(bytes=ids[at : at + ID_BYTES]) for at in range(0, len(ids), ID_BYTES)])
