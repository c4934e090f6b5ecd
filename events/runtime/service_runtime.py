"""One service, running: everything of the runtime wired together, its start and its orderly stop."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prometheus_client.metrics_core import Metric

from events.decision import Call, Command
from events.http.intake import Intake
from events.messaging.broker import ServiceBroker
from events.messaging.connection import blocked_detail
from events.messaging.consumer import Consumer
from events.messaging.dead_letters import DeadLetterPublisher
from events.messaging.relay import relay_of
from events.outbound.dispatcher import CallDispatcher, Gateway
from events.runtime.batch import Batch, Committed
from events.runtime.causes import Cause, Causes
from events.runtime.definition import ServiceDefinition
from events.runtime.locks import LockedOut
from events.runtime.loops import Loop, Loops
from events.runtime.settings import ServiceSettings
from events.runtime.worker import Overloaded, Worker
from events.storage.database import BY_KEY, Database
from events.storage.instance import Instance
from events.storage.outbox import read_backlogs
from events.storage.retention import Retention
from events.telemetry.log import log
from events.telemetry.metrics import LookUp, broker_blocked, connections
from events.telemetry.tracing import current_traceparent


class ServiceRuntime:
    """A running instance of one service."""

    def __init__(self, definition: ServiceDefinition, settings: ServiceSettings) -> None:
        self.service = service = definition.with_settings(settings)
        self.settings = settings
        lock_wait = f"{max(1, round(settings.lock_wait_seconds * 1000))}ms"
        self.database = Database(settings, service.name, {**BY_KEY, "lock_timeout": lock_wait})
        self._gateway = service.gateway(settings) if service.gateway is not None else None
        self._instance = Instance(settings, service.name)
        self.causes = Causes(settings.cause_memory)
        self._relay = relay_of(settings, self.database, self._instance, service.name)
        self._dead_letters = DeadLetterPublisher(
            settings,
            service.name,
            self.causes,
            acknowledge=lambda messages: self._consumer.acknowledge(messages),
            handle_again=lambda message: self._worker.receive(message),
        )
        self._locked_out = LockedOut(settings, self.database)
        self._worker = Worker(
            settings,
            self.database,
            Batch(service, service.repository, self.database, self._instance, settings.lock_probe_seconds),
            service,
            self._locked_out,
            self.causes,
            pass_on=self._pass_on,
            look_in_tables=self._look_in_tables,
            acknowledge=lambda messages: self._consumer.acknowledge(messages),
            take_failures=self._dead_letters.take,
        )
        self._consumer = Consumer(settings, service, self._worker.receive)
        self._dispatcher = self._dispatcher_of(self._gateway) if self._gateway is not None else None
        self._intake = (
            Intake(settings, self.database, service.oldest, cut_off=lambda: not self._publishes)
            if service.oldest
            else None
        )
        self._retention = Retention(settings, self.database)
        self._backlogs = LookUp(self.database, read_backlogs)
        self.loops = Loops()
        self._starting: asyncio.Task[None] | None = None

    @property
    def broker(self) -> ServiceBroker:
        """What it subscribes and publishes by, on FastStream."""
        return self._consumer.broker

    def failed_at(self, call_id: UUID) -> tuple[datetime, ...]:
        """When the last attempts of a call that goes on failed."""
        return self._dispatcher.failed_at(call_id) if self._dispatcher is not None else ()

    @property
    def gateway(self) -> Gateway[Call] | None:
        """Its way to the parties outside, if it has any."""
        return self._gateway

    async def start(self) -> None:
        """Start without waiting for broker or database: they may come later."""
        await self.database.open()
        if self._gateway is not None:
            await self._gateway.open()
        await self.loops.open()
        self._starting = self.loops.begin("start", self._start)

    async def stop(self) -> None:
        """Take nothing new, finish what has begun within the grace period, let go."""
        if self._starting is not None:
            self._starting.cancel()
        await self._consumer.stop_receiving()
        if not self.loops.failed:
            await self._drain()
        await self.loops.close(self.settings.stop_grace_seconds)
        if self._gateway is not None:
            await self._gateway.close()
        await self._instance.leave()
        await self.database.close()
        log.info("stopped")

    async def ask(self, command: Command, traceparent: str | None = None) -> Any:
        """Commit a command and answer the state it led to.

        Raises Overloaded, and TimeoutError when it is not committed in time; it may still be, later.
        """
        if self._relay.backlog >= self.settings.max_outbox_backlog:
            raise Overloaded
        async with asyncio.timeout(self.settings.command_timeout_seconds):
            return await self._worker.ask(command, current_traceparent() or traceparent)

    def admit(self) -> None:
        """Raises IntakeClosed when it is better to accept no new order now."""
        if self._intake is not None:
            self._intake.admit()

    async def ready(self) -> dict[str, Any]:
        """What this instance needs and whether it really has it now; and what the broker refuses."""
        refused = {"refused_messages": self._relay.set_aside} if self._relay.set_aside else {}
        return {
            **refused,
            **self._locked_out.detail,
            **(self._intake.detail if self._intake is not None else {}),
            **blocked_detail(self._relay.blocked),
            "database": await self.database.working(),
            "broker": self._publishes,
            "consumer": await self._consumer.working(),
            "runtime": bool(running := self.loops.running) and all(running.values()),
        }

    @property
    def lock_session(self) -> str | None:
        """The session that holds the lock that some orders wait for, if that is known."""
        locked = self._locked_out.detail.get("locked")
        return str(locked["session"]) if locked else None

    def causes_for_all(self) -> list[Cause]:
        """Why no order goes on here now: broker or database are away, or the broker lets nobody publish."""
        found: list[Cause] = []
        now = datetime.now(UTC)
        if self.database.outage.ongoing:
            found.append(Cause("database", "any transaction", now, party="database", error="away"))
        if not self._relay.connected:
            found.append(Cause("broker", "publishing", now, party="broker", error="away"))
        elif self._relay.blocked:
            found.append(Cause("broker", "publishing", now, party="broker", error="blocked"))
        return found

    @property
    def _publishes(self) -> bool:
        """Whether the broker takes what is published."""
        return self._relay.connected and not self._relay.blocked

    async def gauges(self) -> list[Metric]:
        """What waits in the tables, and whether database and broker are there."""
        backlogs = await self._backlogs.gauges()
        return [
            connections(database=backlogs is not None, broker=self._relay.connected),
            broker_blocked(bool(self._relay.blocked)),
            *self._locked_out.gauges(),
            *(self._intake.gauges() if self._intake is not None else ()),
            *(backlogs or ()),
        ]

    async def _start(self) -> None:
        await self.database.until_done(self._instance.enter)
        await self._relay.adopt()  # before any command is taken: it may be too much already
        loops: dict[str, Loop] = {
            "instance": self._instance.stay,
            "relay": self._relay.run,
            "relay_sweep": self._relay.sweep,
            "relay_forget": self._relay.forget,
            "worker": self._worker.run,
            "locks": self._locked_out.run,
            "consumer": self._consumer.run,
            "dead_letters": self._dead_letters.run,
            "retention": self._retention.run,
        }
        if self._dispatcher is not None:
            loops |= {
                "call_dispatcher": self._dispatcher.run,
                "call_dispatcher_sweep": self._dispatcher.sweep,
            }
        if self._intake is not None:
            loops["intake"] = self._intake.run
        self.loops.start(loops)
        log.info("started", instance=self._instance.number)

    def _dispatcher_of(self, gateway: Gateway[Call]) -> CallDispatcher:
        return CallDispatcher(
            self.settings, self.database, self._instance, self.service, gateway, self._worker.learn
        )

    def _pass_on(self, committed: Committed) -> None:
        if committed.outbox:
            self._relay.hand_over(committed.outbox)
        if committed.calls and self._dispatcher is not None:
            self._dispatcher.hand_over(committed.calls)

    def _look_in_tables(self) -> None:
        self._relay.look_in_table()
        if self._dispatcher is not None:
            self._dispatcher.look_in_table()

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.stop_grace_seconds):
                while not self._drained():  # noqa: ASYNC110 - several parts drain, in any order
                    await asyncio.sleep(0.02)

    def _drained(self) -> bool:
        calls_idle = self._dispatcher is None or self._dispatcher.idle
        return self._worker.idle and self._dead_letters.idle and self._relay.idle and calls_idle
