"""The tracker's view, built anew from a stream of very many facts."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import aiormq
import psycopg

from compose.local.components import POSTGRES, RABBITMQ
from events.messaging.envelope import properties_of
from events.service import STREAM
from tests.bench.cpu import cpu_seconds, running_parts
from tests.bench.publisher import Publishable, publish
from tests.bench.results import Round, Target
from tests.bench.scenarios.scenario import Scenario
from tests.bench.stage import Stage
from tests.tracker.facts import PATHS, envelopes

FACTS = 100_000
CAUGHT_UP_WITHIN_SECONDS = 300.0
ONE_SAGA = PATHS["completed"]
SAGAS = -(-FACTS // len(ONE_SAGA.split()))
EXCHANGE = "bench.history"
REBUILD = "the rebuild itself"


async def play(stage: Stage) -> Round:
    """Rebuild; the tracker goes on running, as it may."""
    found = Round()
    spec = stage.where.process("tracker")
    before = _cpu_seconds(stage)
    process = await asyncio.create_subprocess_exec(
        *(*spec.prepare().command, "rebuild"),
        env=dict(spec.environment),
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    _, output = await process.communicate()
    after = _cpu_seconds(stage)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]
    rebuilt = next((line for line in lines if line["event"] == "rebuilt"), None)
    if rebuilt is None:
        found.problems.append(f"the rebuild failed: {output[-500:].decode(errors='replace')}")
        return found
    found.figures = {"facts": rebuilt["messages"], "facts_per_second": rebuilt["per_second"]}
    found.notes += [
        f"{name} {1_000_000 * (after[name] - before[name]) / rebuilt['messages']:.0f} us of CPU a fact"
        for name in (REBUILD, POSTGRES, RABBITMQ)
    ]
    return found


def _cpu_seconds(stage: Stage) -> dict[str, float]:
    """Of the servers, and of the rebuild itself: it is the only child of ours that ends meanwhile."""
    children = os.times()
    spent = {REBUILD: children.children_user + children.children_system}
    return spent | cpu_seconds(running_parts(stage.rig))


async def prepare(stage: Stage) -> None:
    """Have so many facts in the stream, and the running tracker through with them."""
    began = time.monotonic()
    await fill_stream(stage)
    published = time.monotonic()
    await read_by_tracker(stage)
    stage.say(
        f"{FACTS:,} facts published within {published - began:.0f} s,"
        f" and read by the running tracker {time.monotonic() - published:.0f} s later"
    )


async def fill_stream(stage: Stage) -> None:
    """Whole sagas, put where the stream alone gets them: no service shall act on them."""
    url = stage.where.broker_url("admin")
    connection = aiormq.Connection(url)
    await connection.connect()
    try:
        channel = await connection.channel()
        await channel.exchange_declare(EXCHANGE, exchange_type="topic")
        await channel.queue_bind(STREAM, EXCHANGE, "#")
        await publish(url, history(), exchange=EXCHANGE)
        await channel.exchange_delete(EXCHANGE)
    finally:
        await connection.close()


def history() -> Iterator[Publishable]:
    """The facts of sagas that completed."""
    for _ in range(SAGAS):
        for envelope in envelopes(ONE_SAGA, uuid4()):
            body = envelope.fact.model_dump_json().encode()
            yield Publishable(envelope.fact.wire_name, properties_of(envelope), body)


async def read_by_tracker(stage: Stage) -> None:
    """Wait until the running tracker has read all of it."""
    deadline = time.monotonic() + CAUGHT_UP_WITHIN_SECONDS
    url = stage.where.database_url("tracker")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            row = await (await connection.execute("SELECT count(*) FROM saga_facts")).fetchone()
            assert row is not None
            if row[0] >= FACTS:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the tracker has read {row[0]} of {FACTS} facts")
            await asyncio.sleep(1)


SCENARIOS = [
    Scenario(
        "rebuild",
        f"the tracker's view anew, from a stream of {FACTS:,} facts",
        play,
        about_seconds=20,
        about_more_seconds=110,
        targets=[Target("facts_per_second", at_least=10_000)],
        # The services know nothing of these sagas.
        judged=False,
        counted=False,
        prepare=prepare,
    )
]
