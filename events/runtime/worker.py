"""A service's one loop: whatever arrived since the last commit is the next batch.

An idle service commits a lone fact at once, a busy one commits many together (see `pace.py`).
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any
from uuid import uuid4

from events.decision import Command, Contradiction, Outcome
from events.facts import Fact
from events.messaging.connection import broker_user
from events.messaging.envelope import Unreadable, decode
from events.messaging.retries import Failure, attempts_before, original_routing_key, why_it_failed
from events.messaging.subscriber import Arrived
from events.outbound.dispatcher import CallRow
from events.runtime.batch import Batch, Committed, NotNeeded
from events.runtime.causes import Causes, error_words
from events.runtime.crash import crash_point
from events.runtime.input import Entry, Input
from events.runtime.locks import LockedOut
from events.runtime.pace import Pace
from events.runtime.settings import ServiceSettings
from events.service import REDRIVE_EXCHANGE, Service
from events.storage.database import AWAY, BEYOND_LIMITS, CONTENTION, Database, Locked
from events.storage.repository import AppearedMeanwhile, StateNotUnderstood
from events.storage.retention import Forgotten
from events.telemetry import metrics
from events.telemetry.log import log, story
from events.telemetry.redaction import in_words, named
from events.telemetry.tracing import BatchTrace, trace_id

MAX_CONTENTION_RETRIES = 5
_IN_THE_LOG = {"fact": "received", "command": "asked", "outcome": "learned"}


class Overloaded(Exception):
    """More commands are waiting than the service takes: come back later."""


class Worker:
    """Commits batches one after the other, and passes on what they leave behind."""

    def __init__(
        self,
        settings: ServiceSettings,
        database: Database,
        batch: Batch,
        service: Service,
        locked_out: LockedOut,
        causes: Causes,
        *,
        pass_on: Callable[[Committed], None],
        look_in_tables: Callable[[], None],
        acknowledge: Callable[[Sequence[Arrived]], Awaitable[None]],
        take_failures: Callable[[Sequence[Failure]], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._batch = batch
        self._service = service.name
        self._user = broker_user(settings)
        self._subscribes_to = service.subscribes_to
        self._max_bytes = settings.max_message_bytes
        self._locked_out = locked_out
        self._causes = causes
        self._pass_on = pass_on
        self._look_in_tables = look_in_tables
        self._acknowledge = acknowledge
        self._take_failures = take_failures
        self._waiting: deque[Entry] = deque()
        self._asked: deque[Entry] = deque()
        self._promised: set[asyncio.Future[Any]] = set()
        self._over = False
        self._wake = asyncio.Event()
        self._pace = Pace(settings.rest_share, settings.rest_cap_seconds)
        self._working = False
        self._uncertain = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits, but for locks."""
        return not self._waiting and not self._asked and not self._working

    def receive(self, message: Arrived) -> None:
        """Take what was delivered. The broker's prefetch bounds how much waits."""
        if message.redelivered:
            metrics.REDELIVERIES.inc()
        self._waiting.append(Entry(message=message))
        self._wake.set()

    async def ask(self, command: Command, traceparent: str | None) -> Any:
        """Commit a command; answers the order's state then, or None if it counted before.

        Raises Overloaded, or what `decide` raises.
        """
        if self._over or len(self._promised) >= self._settings.max_pending_commands:
            raise Overloaded
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Until it is committed, however long its caller waits for that: the bound is on what is in memory.
        self._promised.add(done)
        done.add_done_callback(self._promised.discard)
        item = Input("command", command.order_id, command, command.once_id or uuid4(), traceparent, done)
        self._enqueue(item, self._asked)
        # Whoever asked may give up; it counts until it is committed all the same.
        return await asyncio.shield(done)

    async def learn(self, row: CallRow, outcome: Outcome) -> None:
        """Commit the outcome of a call. Raises what `decide` raises."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(
            Input("outcome", row.order_id, outcome, row.call_id, row.traceparent, done), self._waiting
        )
        await done

    async def run(self) -> None:
        """Work for ever. At the end, whoever waits for a command learns that it was not answered in time."""
        try:
            while True:
                idle_from = monotonic()
                await self._woken()
                self._pace.idled(monotonic() - idle_from)
                await self._gather()
                self._wake.clear()
                while self._waiting or self._asked or self._locked_out.due:
                    self._working = True
                    try:
                        began = monotonic()
                        if self._waiting or self._asked:
                            await self._work(self._next_batch())
                        await self._try_again()
                    finally:
                        self._working = False
                    await self._rest(monotonic() - began)
        finally:
            self._over = True
            for promised in self._promised:
                if not promised.done():
                    promised.set_exception(TimeoutError("the service stops"))

    async def _rest(self, worked_seconds: float) -> None:
        """Let more arrive for the next batch. A full one does not wait."""
        rest_seconds = self._pace.rest_seconds(worked_seconds)
        if len(self._waiting) + len(self._asked) < self._settings.batch_size:
            await asyncio.sleep(rest_seconds)

    async def _try_again(self) -> None:
        """One of those that met a lock, if it is time; once one got through, all of them."""
        await self._send_on(self._locked_out.take_overdue())
        if (entry := self._locked_out.take_due()) is None:
            return
        if await self._work([entry]):
            self._locked_out.wait_longer()
        else:
            self._waiting += self._locked_out.release()

    async def _send_on(self, overdue: Sequence[Entry]) -> None:
        """These wait for a lock for too long to be kept: messages come again later, commands get an error."""
        why = Locked("what it needs is locked by another session of the database")
        messages = [entry.message for entry in overdue if entry.message is not None]
        self._take_failures(
            [Failure(message, "Locked", str(why), for_good=False, locked=True) for message in messages]
        )
        for entry in overdue:
            if entry.item is not None:
                self._tell_why_not(entry.item, why)

    async def _woken(self) -> None:
        """Wait for work, but no longer than until those that wait for a lock are due."""
        if self._locked_out.pause_seconds is None:
            await self._wake.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._locked_out.pause_seconds):
                await self._wake.wait()

    async def _gather(self) -> None:
        """Wait as long as each turn of the event loop brings more: what the socket had is one batch."""
        before = 0
        while len(self._waiting) > before:
            before = len(self._waiting)
            await asyncio.sleep(0)

    def _next_batch(self) -> list[Entry]:
        """Commands first, for somebody waits for the answers; but half at most while anything else waits."""
        size = self._settings.batch_size
        commands = min(len(self._asked), max(size - len(self._waiting), (size + 1) // 2))
        others = min(len(self._waiting), size - commands)
        return [self._asked.popleft() for _ in range(commands)] + [
            self._waiting.popleft() for _ in range(others)
        ]

    def _published_here(self, message: Arrived) -> bool:
        """Whether it comes from this service's own outbox: then its effect was committed before it was sent.

        The broker vouches for the user. (Where all processes share one, the relay alone names it.)
        """
        return message.user_id == self._user and message.app_id == self._service

    def _enqueue(self, item: Input, queue: deque[Entry]) -> None:
        queue.append(Entry(item=item))
        self._wake.set()

    async def _work(self, entries: Sequence[Entry]) -> int:
        """One batch from its deliveries to their acknowledgement; answers how many of it are set aside."""
        failures: list[Failure] = []
        locked: list[Entry] = []
        with BatchTrace(self._service) as trace:
            entered = self._enter(entries, trace, failures)
            entry_of = {id(item): entry for item, entry in entered}
            for item, why in await self._commit([item for item, _ in entered]):
                trace.fail(item, named(why))
                entry = entry_of[id(item)]
                if isinstance(why, Locked) and item.kind != "command":
                    locked.append(entry)
                    self._causes.locked_out(item.order_id, item.name)
                elif entry.message is not None:
                    failures.append(_failure(entry.message, why))
                else:
                    self._tell_why_not(item, why)
        if failures:
            self._take_failures(failures)
        if locked:
            self._locked_out.set_aside(locked)
        left = {id(failure.message) for failure in failures} | {id(entry.message) for entry in locked}
        messages = [entry.message for entry in entries if entry.message is not None]
        if done := [message for message in messages if id(message) not in left]:
            crash_point("before_ack")
            await self._acknowledge(done)
        return len(locked)

    def _enter(
        self, entries: Sequence[Entry], trace: BatchTrace, failures: list[Failure]
    ) -> list[tuple[Input, Entry]]:
        """What is to be decided, each with where it comes from; what cannot be read is among the failures."""
        entered: list[tuple[Input, Entry]] = []
        for entry in entries:
            if entry.item is not None:
                entered.append((trace.enter(entry.item), entry))
            elif entry.message is not None and not self._published_here(entry.message):
                try:
                    received = read(entry.message, self._subscribes_to, self._max_bytes)
                    entered.append((trace.enter(received, entry.message), entry))
                except Unreadable as error:
                    failures.append(Failure(entry.message, error.reason, in_words(error), for_good=True))
                except Exception as error:  # noqa: BLE001 - one message must not end the service for all
                    failures.append(_unforeseen(entry.message, error))
        return entered

    async def _commit(self, inputs: Sequence[Input]) -> list[tuple[Input, Exception]]:
        """Commit all that can be; answers what cannot, alone, with the reason.

        A batch that fails is halved until what is wrong in it stands alone.
        """
        contention = 0
        while inputs:
            try:
                committed = await self._attempt(inputs)
            except Locked as error:
                self._locked_out.met()
                return await self._halve(inputs, error)
            except (AppearedMeanwhile, *CONTENTION) as error:
                contention += 1
                if contention > MAX_CONTENTION_RETRIES:
                    return await self._halve(inputs, error)
                await asyncio.sleep(random.uniform(0, 0.01 * contention))  # noqa: S311
            except BEYOND_LIMITS as error:
                return await self._halve(inputs, error)
            except AWAY as error:
                # The commit may have gone through, and only its answer was lost.
                self._uncertain = True
                await self._database.wait_until_back(error)
            except Exception as error:  # noqa: BLE001 - whatever decide or the repository raises
                return await self._halve(inputs, error)
            else:
                if self._uncertain:
                    # Only now: the server may have been busy with the lost commit until this one. It may be
                    # so still, if something waits for a lock.
                    self._uncertain = self._locked_out.ongoing
                    self._look_in_tables()
                self._pass_on(committed)
                self._answer(inputs, committed)
                self._causes.moved_on(item.order_id for item, _ in committed.decided)
                # After what this leads to is on its way.
                asyncio.get_running_loop().call_soon(_report, committed)
                return committed.refused
        return []

    async def _attempt(self, inputs: Sequence[Input]) -> Committed:
        """One transaction; brief in its waits for locks from the first that took long until all are gone."""
        if not self._locked_out.ongoing:
            return await self._batch.commit(inputs)
        self._locked_out.about_to_wait()
        return await self._batch.commit(inputs, briefly=True)

    async def _halve(self, inputs: Sequence[Input], error: Exception) -> list[tuple[Input, Exception]]:
        if len(inputs) == 1:
            return [(inputs[0], error)]
        middle = len(inputs) // 2
        return [*await self._commit(inputs[:middle]), *await self._commit(inputs[middle:])]

    def _tell_why_not(self, item: Input, why: Exception) -> None:
        """A command or an outcome is not kept for later here: whoever waits for it decides what to do."""
        if isinstance(why, Forgotten):
            log.info("order_is_forgotten", order_id=str(item.order_id))
        else:
            _not_handled(item, why)
        if item.done is not None and not item.done.done():
            item.done.set_exception(why)

    def _answer(self, inputs: Sequence[Input], committed: Committed) -> None:
        states = {id(item): decision.state for item, decision in committed.decided}
        refused = {id(item) for item, _ in committed.refused}
        for item in inputs:
            if item.done is not None and not item.done.done() and id(item) not in refused:
                item.done.set_result(states.get(id(item)))


def _not_handled(item: Input, why: Exception) -> None:
    # A lock has its own line in the log.
    (log.info if isinstance(why, Locked) else log.error)(
        "not_handled",
        order_id=str(item.order_id),
        trace_id=trace_id(item.traceparent),
        payload=type(item.payload).__name__,
        why=named(why),
    )


def _failure(message: Arrived, why: Exception) -> Failure:
    """What was not committed comes again later, unless that cannot change anything."""
    if isinstance(why, Contradiction):
        return Failure(message, why.reason, in_words(why), for_good=True)
    if isinstance(why, StateNotUnderstood):
        return Failure(message, "not_understood", in_words(why), for_good=False, for_others=True)
    if isinstance(why, NotNeeded):
        reason, detail = why_it_failed(message)
        return Failure(
            message, reason, f"{detail}; since then its order has gone on without it", for_good=True
        )
    return Failure(message, type(why).__name__, in_words(why), for_good=False, words=error_words(why))


def _report(committed: Committed) -> None:
    """What happened, a line each, as far as the log takes it."""
    for item, decision in committed.decided:
        if story.goes_on():
            log.info(
                _IN_THE_LOG[item.kind],
                what=item.name,
                order_id=str(item.order_id),
                fact_id=str(item.causation_id),
                trace_id=trace_id(item.traceparent),
                published=[fact.wire_name for fact in decision.facts],
                calls=[call.name for call in decision.calls],
            )


def _unforeseen(message: Arrived, error: Exception) -> Failure:
    """A message that nobody can read for a reason that nobody thought of: a mistake in the program."""
    log.error("message_broke_reading", message_id=message.message_id, wire_name=message.type, exc_info=error)
    return Failure(message, type(error).__name__, in_words(error), for_good=True)


def read(message: Arrived, subscribes_to: tuple[type[Fact], ...], max_bytes: int) -> Input:
    """A delivery as an input. Raises Unreadable, also for a fact that this service does not receive."""
    envelope = decode(message, original_routing_key(message), max_bytes)
    if not isinstance(envelope.fact, subscribes_to):
        raise Unreadable("not_subscribed", f"this service does not subscribe to {envelope.fact.wire_name}")
    return Input(
        "fact",
        envelope.fact.order_id,
        envelope.fact,
        envelope.fact_id,
        envelope.traceparent,
        again=message.exchange == REDRIVE_EXCHANGE,
        failures=attempts_before(message),
    )
