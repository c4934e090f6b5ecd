"""How a drill went, as plain values, and what went on during it, moment by moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, LiteralString

import psycopg

from compose.rig import Whereabouts

# What went on during a drill, moment by moment: orders accepted, ended and in flight, and the faults.

SAMPLE_SECONDS = 0.25
ANSWER_SECONDS = 2

# Where an order's end can be seen, each way in another service: nobody asks the tracker, for it may be away.
# One whose refund failed after all had been cancelled before.
ENDED: dict[str, LiteralString] = {
    "order": "SELECT count(*) FROM orders WHERE status = 'cancelled'",
    "payment": "SELECT count(*) FROM payments WHERE status = 'refund_failed' AND NOT reversed",
    "fulfillment": (
        "SELECT count(*) FROM shipments WHERE status IN ('dispatched', 'dispatch_failed', 'cancel_failed')"
    ),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """How many orders so far, `at_seconds` after the drill's begin. None while nobody can tell."""

    at_seconds: float
    accepted: int
    ended: int | None

    @property
    def in_flight(self) -> int | None:
        return None if self.ended is None else max(0, self.accepted - self.ended)


@dataclass(slots=True)
class Fault:
    """Something that was broken, from when to when."""

    label: str
    began_seconds: float
    healed_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which orders were in flight and none of them ended."""

    from_seconds: float
    to_seconds: float

    @property
    def seconds(self) -> float:
        return self.to_seconds - self.from_seconds


@dataclass(slots=True)
class Timeline:
    """Times are seconds since it was made."""

    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    sampled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with every sample."""
    _began: float = field(default_factory=time.monotonic)

    @property
    def now_seconds(self) -> float:
        return time.monotonic() - self._began

    @contextmanager
    def fault(self, label: str) -> Iterator[None]:
        """Inside, something is broken."""
        fault = Fault(label, self.now_seconds)
        self.faults.append(fault)
        try:
            yield
        finally:
            fault.healed_seconds = self.now_seconds

    @property
    def healed_seconds(self) -> float | None:
        """When the last fault was healed, 0 where there was none; None while one is not."""
        latest = 0.0
        for fault in self.faults:
            if fault.healed_seconds is None:
                return None
            latest = max(latest, fault.healed_seconds)
        return latest

    @property
    def seconds_to_end(self) -> float | None:
        """How long after everything was healed every order had ended; None when they have not."""
        if self.healed_seconds is None or not self.samples or self.samples[-1].in_flight != 0:
            return None
        return max(0.0, self.samples[-1].at_seconds - self.healed_seconds)

    async def in_flight_at_most(self, orders: float) -> None:
        """Return with the first sample from now on that shows no more orders on their way than so many."""
        while True:
            self.sampled.clear()
            await self.sampled.wait()
            in_flight = self.samples[-1].in_flight
            if in_flight is not None and in_flight <= orders:
                return

    @property
    def longest_stall(self) -> Stall:
        return longest_stall(self.samples)

    def ended_of_late(self, seconds: float) -> int:
        """How many orders ended in so many seconds before the last sample."""
        if not self.samples:
            return 0
        since = self.samples[-1].at_seconds - seconds
        known = [sample.ended for sample in self.samples if sample.at_seconds >= since]
        counts = [ended for ended in known if ended is not None]
        return counts[-1] - counts[0] if counts else 0


def longest_stall(samples: Sequence[Sample]) -> Stall:
    """The longest time between two ends of orders, or from an acceptance to an end, or to the last sample."""
    longest = Stall(0.0, 0.0)
    since: float | None = None
    ended = 0
    for sample in samples:
        if since is None and sample.accepted > ended:
            since = sample.at_seconds
        if since is None:
            continue
        found = Stall(since, sample.at_seconds)
        longest = max(longest, found, key=lambda stall: stall.seconds)
        if sample.ended is not None and sample.ended > ended:
            ended = sample.ended
            since = sample.at_seconds if sample.accepted > ended else None
    return longest


class Sampler:
    """Counts ended orders in the services' own databases, as long as these answer."""

    def __init__(self, where: Whereabouts) -> None:
        self._urls = {name: where.database_url(name) for name in ENDED}
        self._connections: dict[str, psycopg.AsyncConnection[Any]] = {}
        self._ended_before = 0

    async def begin(self) -> None:
        """Count from here. Raises psycopg.Error and TimeoutError when a database does not answer."""
        self._ended_before = await self._count_all()

    async def ended(self) -> int | None:
        """How many orders ended since `begin`; None when a database does not answer."""
        try:
            return await self._count_all() - self._ended_before
        except (psycopg.Error, TimeoutError, OSError):
            await self.close()
            return None

    async def close(self) -> None:
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            with suppress(psycopg.Error):
                await connection.close()

    async def _count_all(self) -> int:
        async with asyncio.timeout(ANSWER_SECONDS):
            return sum([await self._count(name, query) for name, query in ENDED.items()])

    async def _count(self, name: str, query: LiteralString) -> int:
        if name not in self._connections:
            self._connections[name] = await psycopg.AsyncConnection.connect(
                self._urls[name], autocommit=True, application_name="drill", connect_timeout=ANSWER_SECONDS
            )
        cursor = await self._connections[name].execute(query)
        row = await cursor.fetchone()
        assert row is not None, "count(*) has a row"
        return int(row[0])


@asynccontextmanager
async def sampling(
    timeline: Timeline, where: Whereabouts, accepted: Callable[[], int]
) -> AsyncIterator[None]:
    """Inside, samples are added to the timeline."""
    sampler = Sampler(where)
    await sampler.begin()

    async def sample() -> None:
        while True:
            # First what ended, so that no order seems to end before it was accepted.
            ended = await sampler.ended()
            timeline.samples.append(Sample(timeline.now_seconds, accepted(), ended))
            timeline.sampled.set()
            await asyncio.sleep(SAMPLE_SECONDS)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await sampler.close()


Result = Literal["pass", "FAIL", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be true after a drill, and what speaks against it."""

    sentence: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What a drill may cost at most. One that allows more than the usual says why."""

    kept: float = 0.99
    """Of the orders that had every reason to complete, the share that has to."""
    manual: int = 0
    """How many orders may be left to a person that were not placed to need one."""
    ended_within_seconds: float = 60.0
    """How long after everything is healed the last order may end."""
    why: str = ""


USUAL = Target()


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a drill's faults cost. `sound` orders had every reason to complete."""

    sound: int
    completed: int
    """How many of the sound ones did."""
    manual: int = 0
    """How many orders are left to a person that were not placed to need one."""
    refused: int = 0
    """How many orders were answered "not now" (503) at least once."""
    turned_away: int = 0
    """How many of the refused ones gave up."""
    ended_after_seconds: float | None = None
    """How long after the last healing every order had ended; None when they have not."""
    on_their_way: int = 0
    """How many orders had not ended when the wait for them was given up."""
    still_ending: bool = False
    """Whether others of them were ending until then: the system was slow, not stuck."""

    @property
    def kept(self) -> float | None:
        """The share of sound orders that completed; None where there were none."""
        return self.completed / self.sound if self.sound else None

    @property
    def kept_text(self) -> str:
        """In percent, and never rounded up to all."""
        if self.kept is None:
            return "none placed"
        return f"{int(self.kept * 1000) / 10:.1f} %" if self.completed < self.sound else "100 %"

    @property
    def ended_text(self) -> str:
        """When everything had ended; or whether what had not was late or stuck."""
        if self.ended_after_seconds is not None:
            return f"{self.ended_after_seconds:.0f} s"
        return f"{self.on_their_way} {'not caught up' if self.still_ending else 'stuck'}"

    @property
    def refused_text(self) -> str:
        if not self.turned_away:
            return str(self.refused)
        return f"{self.refused} ({self.turned_away} for good)"


@dataclass(slots=True)
class Outcome:
    """One row of the report."""

    name: str
    title: str
    seconds: float = 0.0
    accepted: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)
    """How many orders ended how."""
    checks: tuple[Check, ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)
    """The end state of every server and process."""
    timeline: Timeline = field(default_factory=Timeline)
    skipped_because: str | None = None
    broke_off: list[str] = field(default_factory=list)
    """Why the drill itself could not go on."""
    recovery: Recovery | None = None
    """None where that could not be judged."""
    notes: Sequence[str] = ()
    """What the drill counted."""
    target: Target = USUAL

    def breaks_off(self, why: str) -> None:
        """Note that the drill could not go on."""
        self.broke_off.append(why)

    @property
    def problems(self) -> list[str]:
        """Everything that speaks against a pass."""
        found = [problem for check in self.checks for problem in check.problems]
        return [*self.broke_off, *found]

    @property
    def result(self) -> Result:
        if self.skipped_because:
            return "skipped"
        return "FAIL" if self.problems else "pass"


@dataclass(slots=True)
class Report:
    """All drills of one run, as far as it has come."""

    rig: str
    seed: int
    began_at: str
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(outcome.result != "FAIL" for outcome in self.outcomes)

    @property
    def accepted(self) -> int:
        return sum(outcome.accepted for outcome in self.outcomes)

    def count(self, result: Result) -> int:
        return sum(outcome.result == result for outcome in self.outcomes)

    @property
    def headline(self) -> str:
        """The whole run in a line."""
        counts = f"{self.count('pass')} passed, {self.count('FAIL')} failed, {self.count('skipped')} skipped"
        return f"{counts}; {self.accepted} orders accepted under faults"
