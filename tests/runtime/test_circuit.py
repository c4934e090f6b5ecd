"""A party that is down is left alone, asked again by a few requests at a time, and welcome back at once."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
from aiohttp import web

from events.outbound.circuit import Circuit, CircuitState
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import HttpParty
from events.runtime.settings import ServiceSettings
from tests.runtime.eventually import eventually

Logged = list[MutableMapping[str, Any]]
OPENS_AFTER, OPEN_SECONDS = 3, 10.0


@dataclass
class Clock:
    """Time as the test has it."""

    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Party:
    """A circuit and the requests under way."""

    probes: int = 1
    opens_after_seconds: float = 0
    clock: Clock = field(default_factory=Clock)
    permits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.circuit = Circuit(
            opens_after=OPENS_AFTER,
            opens_after_seconds=self.opens_after_seconds,
            open_seconds=OPEN_SECONDS,
            probes=self.probes,
            clock=self.clock,
        )

    def play(self, story: str) -> CircuitState:
        """Play what each letter stands for, and say how it ends.

        `(` asks, `P` and `F` pass or fail the oldest that was asked; `+` and `-` are both at once; `x` is
        turned away; `.` is five seconds.
        """
        for verb in story:
            match verb:
                case "(":
                    self.permits.append(self.admitted())
                case "+" | "-":
                    self.circuit.settle(self.admitted(), alive=verb == "+")
                case "P" | "F":
                    self.circuit.settle(self.permits.pop(0), alive=verb == "P")
                case "x":
                    assert self.circuit.admit() is None
                case ".":
                    self.clock.seconds += 5
                case _:
                    raise ValueError(verb)
        return self.circuit.state

    def admitted(self) -> int:
        permit = self.circuit.admit()
        assert permit is not None
        return permit


@pytest.mark.parametrize(
    ("story", "state"),
    [
        ("", "closed"),
        ("--", "closed"),
        ("---", "open"),
        ("--+--", "closed"),
        ("+---x", "open"),
        ("---x.x", "open"),
        ("---..(", "half_open"),
        ("---..(x..xx", "half_open"),
        ("---..+", "closed"),
        ("---..-x.x", "open"),
        ("---..-..+", "closed"),
        ("---..+--", "closed"),
        ("---..+---", "open"),
        # Those that were asked before say nothing about now.
        ("(((((FFF", "open"),
        ("(((((FFFPP", "open"),
        ("((((FFF..(F", "half_open"),
        ("((((FFF..(FP", "closed"),
        ("((((FFF..(P", "half_open"),
        ("((((FFF..(PF.x", "open"),
    ],
)
def test_the_states_of_a_circuit(story: str, state: CircuitState) -> None:
    assert Party().play(story) == state


@pytest.mark.parametrize(
    ("story", "state"),
    [
        ("-------", "closed"),
        ("-------.+", "closed"),
        ("-------.+-", "closed"),
        ("-.-", "closed"),
        ("-.--", "open"),
        ("--.-..(", "half_open"),
        ("--.-..-", "open"),
    ],
)
def test_failures_that_come_all_at_once_say_little(story: str, state: CircuitState) -> None:
    assert Party(opens_after_seconds=1).play(story) == state


def test_who_is_turned_away_learns_for_how_long() -> None:
    party = Party()
    party.play("---x")
    assert party.circuit.wait_seconds() == OPEN_SECONDS
    party.play(".x")
    assert party.circuit.wait_seconds() == OPEN_SECONDS - 5
    party.play(".(x")
    assert party.circuit.wait_seconds() == OPEN_SECONDS / 2


@pytest.mark.parametrize(
    ("story", "state"),
    [
        ("---..((x", "half_open"),
        ("---..-", "half_open"),
        ("---..-+", "closed"),
        ("---..--x.x", "open"),
        ("---..((PF", "closed"),
        ("---..((FP", "closed"),
        ("---..((FF.x", "open"),
        ("---..-..+", "closed"),
        ("---..--..-+", "closed"),
    ],
)
def test_one_of_several_probes_is_enough(story: str, state: CircuitState) -> None:
    assert Party(probes=2).play(story) == state


def test_whatever_happens_it_is_closed_again_once_the_party_is_back() -> None:
    for story in product("(PF.", repeat=7):
        party = Party()
        for verb in story:
            if verb in "PF" and party.permits:
                party.play(verb)
            elif verb == ".":
                party.play(".")
            elif verb == "(" and (permit := party.circuit.admit()) is not None:
                party.permits.append(permit)
        party.play("P" * len(party.permits))
        party.play(".." if party.circuit.state == "open" else "")
        assert party.play("+") == "closed", story


@dataclass
class StandIn:
    """An outside party that answers everything with one status, while its gate is open."""

    url: str
    status: int = 200
    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        await self.gate.wait()
        return web.Response(status=self.status, text="{}")


@pytest.fixture
async def stand_in(unused_tcp_port: int) -> AsyncIterator[StandIn]:
    stand_in = StandIn(f"http://127.0.0.1:{unused_tcp_port}")
    stand_in.gate.set()
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", stand_in.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    yield stand_in
    await runner.cleanup()


@asynccontextmanager
async def connected(url: str, **changes: Any) -> AsyncIterator[HttpParty]:
    given = {
        "circuit_opens_after": 3,
        "circuit_opens_after_seconds": 0,
        "circuit_open_seconds": 0.3,
        "call_timeout_seconds": 2.0,
        **changes,
    }
    settings = ServiceSettings(
        broker_url="amqp://none", database_url="postgresql://none", http_port=1, **given
    )
    party = HttpParty("party", url, settings)
    await party.open()
    try:
        yield party
    finally:
        await party.close()


async def ask(party: HttpParty) -> tuple[str, bool]:
    """What came of one request: `answered`, or why it failed and whether it may be done."""
    try:
        await party.post("/deeds", {}, idempotency_key="one")
    except CallFailed as failure:
        return failure.reason, failure.maybe_done
    return "answered", True


TURNED_AWAY = ("party_circuit_open", False)


async def is_back(party: HttpParty) -> bool:
    return (await ask(party))[0] == "answered"


@pytest.mark.parametrize(("status", "maybe_done"), [(500, True), (503, True), (429, False)])
async def test_a_failing_party_is_left_alone_and_probed(
    stand_in: StandIn, logged: Logged, status: int, maybe_done: bool
) -> None:
    stand_in.status = status
    async with connected(stand_in.url) as party:
        failed = (f"party_answered_{status}", maybe_done)
        assert [await ask(party) for _ in range(5)] == [failed] * 3 + [TURNED_AWAY] * 2
        assert stand_in.asked == 3
        # The probes fail, and one at a time.
        await eventually(lambda: probed(party, failed))
        assert stand_in.asked == 4
        stand_in.status = 200
        await eventually(lambda: is_back(party))
        assert [await ask(party) for _ in range(5)] == [("answered", True)] * 5
    lines = [(line["event"], line["party"]) for line in logged if line["event"].startswith("circuit")]
    assert lines == [("circuit_opened", "party"), ("circuit_closed", "party")]


async def probed(party: HttpParty, failed: tuple[str, bool]) -> bool:
    return await ask(party) == failed


async def test_a_party_that_is_not_there_is_left_alone(unused_tcp_port: int) -> None:
    async with connected(f"http://127.0.0.1:{unused_tcp_port}") as party:
        answers = [await ask(party) for _ in range(4)]
        assert answers == [("party_unreachable", False)] * 3 + [TURNED_AWAY]


async def test_a_party_that_does_not_answer_is_left_alone(stand_in: StandIn) -> None:
    stand_in.gate.clear()
    async with connected(stand_in.url, call_timeout_seconds=0.2) as party:
        assert [await ask(party) for _ in range(4)] == [("party_timeout", True)] * 3 + [TURNED_AWAY]


async def test_what_the_runtime_cancels_counts_as_unanswered(stand_in: StandIn) -> None:
    stand_in.gate.clear()
    async with connected(stand_in.url) as party:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ask(party)
        assert await ask(party) == TURNED_AWAY
        stand_in.gate.set()
        await eventually(lambda: is_back(party))


async def test_only_a_few_of_many_probe(stand_in: StandIn) -> None:
    stand_in.status = 500
    async with connected(stand_in.url, circuit_open_seconds=0.05, circuit_probes=2) as party:
        await asyncio.gather(*(ask(party) for _ in range(5)))
        asked = stand_in.asked
        stand_in.gate.clear()
        asking: list[asyncio.Task[tuple[str, bool]]] = []
        # Twice, if it was time for probes only when the last of the first twenty asked.
        while stand_in.asked < asked + 2:
            asking += [asyncio.create_task(ask(party)) for _ in range(20)]
            await asyncio.wait(asking, timeout=0.1)
        stand_in.status = 200
        stand_in.gate.set()
        answers = await asyncio.gather(*asking)
        assert sorted(answers) == [("answered", True)] * 2 + [TURNED_AWAY] * (len(asking) - 2)
        assert stand_in.asked == asked + 2


async def test_a_refusal_is_a_sign_of_life(stand_in: StandIn) -> None:
    async with connected(stand_in.url) as party:
        for status in [409, 402, 404, 401] * 3:
            stand_in.status = status
            assert await ask(party) == ("answered", True)
        stand_in.status = 500
        answers = [(await ask(party))[0] for _ in range(2)]
        stand_in.status = 409
        answers += [(await ask(party))[0]]
        stand_in.status = 500
        answers += [(await ask(party))[0] for _ in range(4)]
    failed = "party_answered_500"
    assert answers == [failed, failed, "answered", failed, failed, failed, TURNED_AWAY[0]]


async def test_a_mistake_of_our_own_says_nothing_of_the_party(stand_in: StandIn) -> None:
    async with connected(stand_in.url) as party:
        for _ in range(10):
            with pytest.raises(ValueError, match="not one line of text"):
                await party.post("/deeds", {}, idempotency_key="one\r\ntwo")
        assert await ask(party) == ("answered", True)
    assert stand_in.asked == 1


def test_a_probe_that_came_to_nothing_is_given_back() -> None:
    now = 0.0
    circuit = Circuit(opens_after=1, opens_after_seconds=0, open_seconds=5, probes=1, clock=lambda: now)
    permit = circuit.admit()
    assert permit is not None
    circuit.settle(permit, alive=False)
    now = 6.0
    probe = circuit.admit()
    assert probe is not None
    assert circuit.admit() is None
    circuit.withdraw(probe)
    assert circuit.admit() == probe
