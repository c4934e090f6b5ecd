"""A tracker with sagas in every state, its pages served over HTTP, and a browser that looks at them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from aiohttp import web
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response, async_playwright

from events.http.authentication import ACTING_HEADER
from events.runtime.process import uvicorn_server
from saga_tracker.service import Tracker
from tests.runtime.eventually import eventually
from tests.servers import Servers, serving
from tests.tracker.dead_letters import TOKENS, give_up, unusable
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import Watch, new_watch

CHROMIUM = "/usr/bin/chromium"
# No sandbox: tests run as root. The rest keeps it from asking the internet for anything.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
QUICK = {"board_poll_seconds": 0.1, "board_fresh_seconds": 0.2, "board_late_seconds": 0.5}
SCREEN = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


METRICS = """\
murmuration_outbox_backlog 3.0
murmuration_outbox_oldest_seconds 12.5
murmuration_call_backlog 1.0
murmuration_call_oldest_seconds 4.0
murmuration_circuit_open{party="provider"} 1.0
murmuration_connected{to="database"} 1.0
murmuration_connected{to="broker"} 1.0
"""
# What the provider says of every order for which payment failed.
OUTSIDE = [
    {"call": "refund", "party": "provider", "answer": "undo refused, refund_refused"},
    {"call": "issue_credit_note", "party": "provider", "answer": "undo refused, credit_note_refused"},
]
# Why every order waits for payment.
CAUSE = {
    "kind": "call",
    "what": "authorise",
    "party": "provider",
    "attempt": 2,
    "of": 4,
    "error": "provider_timeout",
    "circuit": "closed",
    "since": "2026-11-28T06:00:00Z",
    "failed_at": ["2026-11-28T06:00:01Z"],
}


class Payment:
    """What stands in for payment: it is ready, tells its figures, and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.acting_for: list[str] = []
        self.refuses = False

    async def get(self, request: web.Request) -> web.Response:
        if request.path == "/metrics":
            return web.Response(text=METRICS)
        if request.path == "/outside":
            asked = request.query.getall("order_id", [])
            return web.json_response({"orders": dict.fromkeys(asked, OUTSIDE)})
        if request.path == "/causes":
            asked = request.query.getall("order_id", [])
            return web.json_response({"orders": {one: [CAUSE] for one in asked}, "service": []})
        return web.json_response({"status": "ready"})

    async def post(self, request: web.Request) -> web.Response:
        self.acting_for.append(request.headers.get(ACTING_HEADER, ""))
        self.asked.append((request.path, request.headers["Authorization"], await request.text()))
        if self.refuses:
            return web.json_response({"detail": "the payment is not held: captured"}, status=409)
        return web.json_response({}, status=202)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve; the address."""
        app = web.Application()
        app.add_routes([web.get("/{path:.*}", self.get), web.post("/{path:.*}", self.post)])
        async with serving(app) as url:
            yield url


@dataclass
class Stage:
    """The pages of a running tracker, and what it was told."""

    watch: Watch
    tracker: Tracker
    url: str
    payment: Payment
    orders: dict[str, UUID] = field(default_factory=dict)

    async def say(self, name: str, names: str, *, seconds_ago: float = 30.0) -> UUID:
        """Publish the facts of an order, and remember it by a name."""
        order = self.orders.setdefault(name, uuid4())
        began = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        before = await self.watch.facts_seen()
        published = envelopes(names, order, began)
        await self.watch.say(*published)
        await self.watch.sees_facts(before + len(published))
        return order

    async def seed(self) -> None:
        """A saga in every state, dead letters, and a manual case."""
        await self.say("completed", PATHS["completed"])
        await self.say("declined", PATHS["declined"])
        await self.say("timed out", PATHS["timed out"])
        await self.say("redriven", "created reserved redriven", seconds_ago=20)
        await self.say("pending", "created reserved", seconds_ago=12)
        await self.say("held", "created reserved held", seconds_ago=15)
        await self.say("shipping", "created reserved captured", seconds_ago=5)
        await self.say("manual", "created reserved captured shipment_rejected refund_failed", seconds_ago=60)
        await give_up(self.watch, unusable(self.orders["pending"]), unusable(), why="bad_body")
        await give_up(self.watch, unusable(), service="inventory", why="IntegrityError: positive_amount")

        async def all_there() -> bool:
            rows = await self.watch.rows("SELECT count(*) AS letters FROM dead_letters")
            return int(rows[0]["letters"]) == 4

        await eventually(all_there, why="all letters are in the tracker")


@asynccontextmanager
async def running_stage(servers: Servers, port: int = 0, **changes: Any) -> AsyncIterator[Stage]:
    """A tracker that nobody else speaks to, and its pages at an address of their own."""
    payment = Payment()
    async with new_watch(servers) as watch, payment.serving() as payment_url:
        tracker = await watch.start(tokens=TOKENS, service_urls={"payment": payment_url}, **QUICK, **changes)
        app = watch.app(tracker)
        # Started and stopped by the watch.
        app.router.lifespan_context = _nothing
        server = uvicorn_server(app, tracker.settings)
        app.state.is_stopping = lambda: server.should_exit
        with socket.create_server(("127.0.0.1", port)) as listening:
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                yield Stage(watch, tracker, f"http://127.0.0.1:{listening.getsockname()[1]}", payment)
            finally:
                server.should_exit = True
                await serving


@asynccontextmanager
async def _nothing(_: object) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Debian's Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Looked:
    """What went wrong in a browser while it was looked at pages: what it logged, and what was refused."""

    complaints: list[str] = field(default_factory=list)
    # Of pages that are meant to say that something is wrong.
    expected: tuple[int, ...] = ()

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        if any(f"status of {status}" in message.text for status in self.expected):
            return
        self.complaints.append(f"{message.type}: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.complaints.append(f"{response.status}: {response.url}")


@asynccontextmanager
async def looking(
    browser: Browser, stage: Stage, *, dark: bool = False, phone: bool = False, scripts: bool = True
) -> AsyncIterator[tuple[Page, Looked]]:
    """A page in a context of its own. What goes wrong in it fails the test."""
    context: BrowserContext = await browser.new_context(
        base_url=stage.url,
        viewport=PHONE if phone else SCREEN,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
    )
    context.set_default_timeout(60_000)
    page = await context.new_page()
    looked = Looked()
    looked.watch(page)
    try:
        yield page, looked
    finally:
        await context.close()
    assert looked.complaints == []
