"""Push by apprise: which URLs are taken, what its plug-ins may do, and what of them is seen."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from compose.local.ports import free_port
from events.outbound.circuit import BREAKERS
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import Accepted, Refused
from events.runtime.settings import ServiceSettings
from notification_svc.apprise_push import LEADS_ELSEWHERE, ON_THIS_MACHINE, ApprisePushService, allowed_by
from notification_svc.gateway import NotificationSettings
from tests.gateways.http_server import CLOSE, Server, listening
from tests.gateways.world import in_short, settings_for

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def error(status: int, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d No\r\n%sContent-Length: 0\r\n\r\n" % (status, more)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server(answers=[[FINE, CLOSE]], port=free_port())
    async with listening(server):
        yield server


def service(server: Server, *, threads: int = 4, **settings: Any) -> ApprisePushService:
    allowed = (f"json@127.0.0.1:{server.port}", f"form@127.0.0.1:{server.port}")
    return ApprisePushService(
        allowed, settings_for(ServiceSettings, None, **settings), threads=threads, timeout_seconds=0.5
    )


async def push(server: Server, url: str = "json://127.0.0.1:{}/a", **more: Any) -> Accepted | Refused:
    pushes = service(server, **more)
    try:
        return await pushes.push(url.format(server.port), "Hello", "Good news", key="send_push:1")
    finally:
        await pushes.close()


@pytest.mark.parametrize("scheme", ["json", "form"])
async def test_its_key_goes_with_it(server: Server, scheme: str) -> None:
    url = scheme + "://127.0.0.1:{}/a?+X-Of-The-Customer=1"
    assert await push(server, url) == Accepted()
    (asked,) = server.asked
    assert b"Idempotency-Key: send_push:1\r\n" in asked
    assert b"X-Of-The-Customer: 1\r\n" in asked


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "push_url_not_understood"),
        ("nonsense", "push_url_not_understood"),
        ("json://", "push_url_not_understood"),
        ("json://:{}/a", "push_url_not_understood"),
        ("nobody://knows.example", "push_service_not_allowed"),
        ("pover://user@token", "push_service_not_allowed"),
        ("file:///etc/passwd", "push_service_not_allowed"),
        ("syslog://", "push_service_not_allowed"),
        ("https://discord.com/api/webhooks/1/2", "push_service_not_allowed"),
        ("json://169.254.169.254/latest", "push_service_not_allowed"),
        ("json://127.0.0.1/a", "push_service_not_allowed"),
        ("json://127.0.0.1:1/a", "push_service_not_allowed"),
        ("json://localhost:{}/a", "push_service_not_allowed"),
        ("jsons://127.0.0.1:{}/a", "push_service_not_allowed"),
        ("json://127.0.0.1:{}/a?template=/etc/passwd", "push_service_not_allowed"),
        ("json://127.0.0.1:{}/a?TEMPLATE=/etc/passwd", "push_service_not_allowed"),
    ],
)
async def test_a_url_that_leads_nowhere_or_where_it_may_not_is_refused(
    server: Server, url: str, reason: str
) -> None:
    assert await push(server, url) == Refused(reason)
    assert server.asked == []


async def test_no_redirect_is_followed_whatever_the_url_wants(server: Server) -> None:
    there = b"Location: http://127.0.0.1:%d/elsewhere\r\n" % server.port
    server.answers = [[error(307, there), CLOSE]]
    with pytest.raises(CallFailed):
        await push(server, "json://127.0.0.1:{}/a?redirect=yes")
    assert len(server.asked) == 1


async def test_the_url_has_no_retries_of_its_own(server: Server) -> None:
    server.answers = [[error(503), CLOSE]]
    with pytest.raises(CallFailed):
        await push(server, "json://127.0.0.1:{}/a?retry=5&wait=0")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
async def test_a_final_no_is_refused(server: Server, status: int) -> None:
    server.answers = [[error(status), CLOSE]]
    assert await push(server) == Refused(f"push_refused_{status}")


@pytest.mark.parametrize(
    ("status", "maybe_done"), [(408, True), (409, True), (429, False), (500, True), (503, True)]
)
async def test_what_may_end_otherwise_is_tried_again(server: Server, status: int, maybe_done: bool) -> None:
    server.answers = [[error(status), CLOSE]]
    with pytest.raises(CallFailed) as failure:
        await push(server)
    assert in_short([failure.value]) == [(f"push_json_answered_{status}", maybe_done)]


async def test_the_status_is_known_however_little_is_logged(server: Server) -> None:
    server.answers = [[error(404), CLOSE]]
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.CRITICAL)
    try:
        assert await push(server) == Refused("push_refused_404")
    finally:
        logging.getLogger().setLevel(before)


async def test_a_service_that_does_not_answer_blocks_nobody(server: Server) -> None:
    """The loop turns while plug-ins wait, no more of them than there are threads, and all end in time."""
    server.answers = [[]]
    pushes, began = service(server, threads=2, circuit_opens_after=100), time.monotonic()
    asked = [
        asyncio.create_task(
            pushes.push(f"json://127.0.0.1:{server.port}/a?rto=60", "a", "b", key=str(number))
        )
        for number in range(6)
    ]
    turns = 0
    while not all(task.done() for task in asked):
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 20
    assert time.monotonic() - began < 3
    failures = [error for error in (task.exception() for task in asked) if isinstance(error, CallFailed)]
    assert len(server.asked) <= 4
    # Those that never had a thread did nothing.
    assert in_short(failures).count(("push_json_timeout", False)) >= 2
    assert all(failure.maybe_done or "timeout" in failure.reason for failure in failures)
    assert len(failures) == 6
    await pushes.close()


async def test_each_kind_of_service_has_a_circuit_of_its_own(server: Server) -> None:
    server.answers = [[error(503), CLOSE]]
    pushes = service(server, circuit_opens_after=2, circuit_opens_after_seconds=0)
    reasons = []
    for _ in range(3):
        with pytest.raises(CallFailed) as failure:
            await pushes.push(f"json://127.0.0.1:{server.port}/a", "a", "b", key="k")
        reasons.append(failure.value.reason)
    assert reasons[-1] == "push_json_circuit_open"
    server.answers = [[FINE, CLOSE]]
    assert await pushes.push(f"form://127.0.0.1:{server.port}/a", "a", "b", key="k") == Accepted()
    # A URL that cannot be used says nothing of the service.
    await pushes.push("json://", "a", "b", key="k")
    assert [BREAKERS[f"push_{scheme}"].state for scheme in ("json", "form")] == ["open", "closed"]
    await pushes.close()


class Written(logging.Handler):
    """What gets to the log of a process, at its most talkative."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture
def written() -> Iterator[list[str]]:
    root, handler = logging.getLogger(), Written()
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler.lines
    root.removeHandler(handler)
    root.setLevel(before)


async def test_nothing_of_a_url_is_seen(server: Server, written: list[str]) -> None:
    secret = "hunter2"
    urls = (f"json://ada:{secret}@127.0.0.1:{{}}/{secret}?:x={secret}", f"json://{secret}", f"{secret}://")
    seen: list[str] = []
    for answer in (FINE, error(503), b"", error(404)):
        server.answers = [[answer, CLOSE]]
        for url in urls:
            try:
                seen.append(repr(await push(server, url)))
            except CallFailed as failure:
                seen.append(f"{failure!r} {failure.__cause__!r} {failure.__context__!r}")
    seen += [str(breaker.last_error) for breaker in BREAKERS.values()]
    assert secret not in " ".join(seen)
    assert [line for line in written if not line.startswith("asyncio")] == []
    assert any(secret.encode() in asked for asked in server.asked)


@pytest.mark.parametrize(
    "services",
    [
        ["nobody"],
        ["json"],
        ["pover@pushover.example"],
        ["file"],
        ["mailto"],
        *([scheme] for scheme in sorted(ON_THIS_MACHINE)),
    ],
)
def test_services_that_nobody_may_be_led_to_are_no_setting(services: list[str]) -> None:
    given = {"push": "apprise", "push_services": services}
    urls = {"directory_url": "http://directory", "smtp_url": "smtp://mail"}
    with pytest.raises(ValidationError) as refused:
        settings_for(NotificationSettings, None, **given, **urls)
    assert "push_services" in str(refused.value)


def test_by_default_none_leads_to_a_server_of_its_users_or_reads_a_file() -> None:
    from apprise import Apprise

    settings = settings_for(
        NotificationSettings, None, push="apprise", directory_url="http://directory", smtp_url="smtp://mail"
    )
    allowed = allowed_by(settings.push_services)
    assert all(each.servers is None for each in allowed.values())
    arguments: set[str] = set()
    for plugin in Apprise().details()["schemas"]:
        if {*(plugin["protocols"] or ()), *(plugin["secure_protocols"] or ())} & allowed.keys():
            arguments |= plugin["details"]["args"].keys()
    assert arguments & LEADS_ELSEWHERE == set()


@pytest.mark.parametrize("push_by", ["sandbox", "apprise"])
def test_the_sandboxs_url_is_needed_where_it_shows_messages(push_by: str) -> None:
    urls = {"directory_url": "http://directory", "smtp_url": "smtp://mail"}
    if push_by == "apprise":
        assert settings_for(NotificationSettings, None, push=push_by, **urls).push_url is None
        return
    with pytest.raises(ValidationError):
        settings_for(NotificationSettings, None, push=push_by, **urls)
