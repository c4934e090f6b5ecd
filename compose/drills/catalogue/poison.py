"""Messages that nobody can read, into every service's queue: each a dead letter, nobody behind it delayed."""

import asyncio
from collections.abc import Mapping
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg

from compose.drills.stage import Drill, Problems, Stage
from compose.drills.verbs import put_in_queue
from compose.system import SERVICE_NAMES as SERVICES
from compose.system import TRACKER
from saga_tracker.consistency.snapshot import Books

POISONS = (
    ("not JSON", b"\x00{", "order.created.v2"),
    ("not a fact", b'{"hello": "world"}', "order.created.v2"),
    ("a fact that nobody knows", b"{}", "order.eaten.v1"),
    ("nothing at all", b"", ""),
)
ROUNDS = 3
PAUSE_SECONDS = 2.0
RESOLVED_WITHIN_SECONDS = 20.0
POLL_SECONDS = 0.5


def message_ids(stage: Stage) -> dict[str, str]:
    """The service that each poisonous message is for."""
    return {
        str(uuid5(NAMESPACE_OID, f"{stage.run_name}-{number}-{service}-{name}")): service
        for number in range(ROUNDS)
        for service in SERVICES
        for name, _body, _kind in POISONS
    }


async def strike(stage: Stage) -> None:
    ids = iter(message_ids(stage).items())
    with stage.broken("poison in every queue"):
        for _ in range(ROUNDS):
            for service in SERVICES:
                for _name, body, kind in POISONS:
                    message_id, _ = next(ids)
                    await put_in_queue(stage.rig.where, service, body, message_id=message_id, kind=kind)
            await asyncio.sleep(PAUSE_SECONDS)


async def each_is_a_dead_letter(stage: Stage, _books: Mapping[UUID, Books]) -> Problems:
    """Of its own service, and with a reason. The tracker may take a moment to collect them."""
    expected = message_ids(stage)
    missing = set(expected.items())
    deadline = asyncio.get_running_loop().time() + RESOLVED_WITHIN_SECONDS
    while missing and asyncio.get_running_loop().time() < deadline:
        async with await psycopg.AsyncConnection.connect(stage.rig.where.database_url(TRACKER)) as connection:
            cursor = await connection.execute(
                "SELECT message_id, service FROM dead_letters WHERE message_id = ANY(%s) AND reason <> ''",
                [list(expected)],
            )
            missing = set(expected.items()) - {(row[0], row[1]) for row in await cursor.fetchall()}
        if missing:
            await asyncio.sleep(POLL_SECONDS)
    return [f"poison {message_id} for {service} is no dead letter" for message_id, service in sorted(missing)]


DRILL = Drill("poison", "messages that nobody can read", strike, verify=each_is_a_dead_letter)
