"""Log lines: one for each thing that happens to an order, and under load not one for every message."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from events.telemetry import log
from events.telemetry.tracing import begin_trace, trace_id
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped, RingWanted

Logged = list[MutableMapping[str, Any]]
BOUND = 20
MANY = 200


@pytest.fixture
def bounded() -> Iterator[int]:
    """So many lines a second, during the test."""
    log.story.configure(BOUND)
    yield BOUND
    log.story.configure(log.LINES_PER_SECOND)


async def test_what_a_service_makes_of_a_fact_is_one_line(stage: Stage, logged: Logged) -> None:
    await stage.start()
    order, fact_id, traceparent = uuid4(), uuid4(), begin_trace()
    sent = message(RingWanted(order_id=order, plan=("answers",)), fact_id)
    sent.headers["traceparent"] = traceparent
    await stage.publish(sent)
    await eventually(lambda: stage.published(order, kind="answered"))
    received, learned = [line for line in logged if line.get("order_id") == str(order)]
    assert (received["event"], received["what"]) == ("received", "toy.ring_wanted.v1")
    assert received["fact_id"] == str(fact_id)
    assert received["trace_id"] == trace_id(traceparent)
    assert (received["published"], received["calls"]) == ([], ["ring"])
    assert (learned["event"], learned["what"]) == ("learned", "Rang")
    assert learned["published"] == ["toy.answered.v1"]


async def test_under_load_there_is_no_line_for_every_message(
    stage: Stage, logged: Logged, bounded: int
) -> None:
    await stage.start()
    began = asyncio.get_running_loop().time()
    orders = [uuid4() for _ in range(MANY)]
    await stage.say(*(Bumped(order_id=order) for order in orders))
    await eventually(lambda: len(set(stage.published(*orders))) == MANY)
    seconds = int(asyncio.get_running_loop().time() - began) + 2
    received = [line for line in logged if line["event"] == "received"]
    assert 0 < len(received) <= bounded * seconds
    await eventually(partial(_all_accounted_for, stage, logged), why="what was left out is counted")


async def _all_accounted_for(stage: Stage, logged: Logged) -> bool:
    """The next line, whenever it comes, says how many there were before it."""
    await stage.say(Bumped(order_id=uuid4()))
    left_out: int = sum(line["lines"] for line in logged if line["event"] == "lines_left_out")
    return left_out + len([line for line in logged if line["event"] == "received"]) >= MANY


def test_json_lines_can_be_read_by_machines() -> None:
    """In a process of its own, for logging is configured once in one."""
    script = (
        "from events.telemetry.log import configure_logging, log; import logging;"
        "configure_logging('toy', 'json', 'INFO');"
        "log.info('received', order_id='7'); logging.getLogger('uvicorn.error').error('no %s', 'luck')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["received", "no luck"]
    assert all({"timestamp", "level", "process"} <= line.keys() for line in lines)


def test_what_json_cannot_say_is_written_all_the_same() -> None:
    script = (
        "from events.telemetry.log import configure_logging, log;"
        "configure_logging('toy', 'json', 'INFO');"
        "log.info('received', half='\\ud800', thing=object(), raw=b'\\xff'); log.debug('too much')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = ended.stderr.splitlines()
    assert json.loads(line)["half"] == "\ud800"
