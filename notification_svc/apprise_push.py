"""Push messages by apprise: a customer's entry in the directory has a URL of one of its hundred services.

Whoever wrote that URL chooses where a request of ours goes. So it may name none but the services that the
operator allows, and of those that stand on servers of their users none but the servers that are named with
them. Nothing of a URL is logged or kept, for it holds secrets: apprise's own log, which shows parts of it,
goes nowhere.

apprise has no asynchronous plug-ins: its `async_notify` hands each to a thread of a pool that all share. Here
they have a bounded pool of their own. A thread cannot be stopped, so one that is late goes on until the
limits of its connection end it, and what it was to send counts as perhaps sent.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat, URLBase

from events.outbound.circuit import CircuitBreaker
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import TOO_MANY_REQUESTS, Accepted, Refused
from events.runtime.settings import ServiceSettings

NOT_UNDERSTOOD, NOT_ALLOWED = "push_url_not_understood", "push_service_not_allowed"
# These show a message on the machine that they run on, or write it into its log.
ON_THIS_MACHINE = frozenset(
    {"blink1", "dbus", "gio", "glib", "gnome", "kde", "macosx", "qt", "rsyslog", "syslog", "windows"}
)
# Arguments of a URL that name a file of ours or a server beside the one that is looked at.
LEADS_ELSEWHERE = frozenset(
    {
        *("callback", "callbackurl", "discovery", "endpoint", "file_url", "hsreq", "image_url", "keyfile"),
        *("pgp", "pgpprv", "pgppub", "relay", "smtp", "subfile", "template", "wkd"),
    }
)
# 4xx that another attempt may end otherwise.
_NOT_FINAL = frozenset({408, 409, 423, 425, TOO_MANY_REQUESTS})
_STATUS = re.compile(r"\berror=(\d{3})\b")
_KEY_HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class _Allowed:
    """One scheme that URLs may have. `servers`: on which; None where all of them lead to the same."""

    servers: frozenset[str] | None
    takes_headers: bool


def allowed_by(services: Sequence[str]) -> dict[str, _Allowed]:
    """By scheme, what entries such as `pover` and `ntfys@push.example` allow. Raises ValueError."""
    known = _schemes()
    found: dict[str, _Allowed] = {}
    for entry in services:
        scheme, _, server = entry.lower().partition("@")
        if scheme not in known or scheme in ON_THIS_MACHINE:
            raise ValueError(f"{entry}: apprise sends nothing to anywhere by {scheme!r}")
        tokens, takes_headers = known[scheme]
        has_server = bool(tokens & {"host", "domain"})
        if has_server != bool(server):
            how = f"{scheme}@host or {scheme}@host:port" if has_server else scheme
            raise ValueError(f"{entry}: write {how}")
        before = found.get(scheme)
        servers = ((before and before.servers) or frozenset()) | {server}
        found[scheme] = _Allowed(servers if has_server else None, takes_headers)
    return found


def _schemes() -> dict[str, tuple[set[str], bool]]:
    """By scheme, of what its URLs are made, and whether they may say headers to be sent."""
    found: dict[str, tuple[set[str], bool]] = {}
    for service in Apprise().details()["schemas"]:
        details = service["details"]
        headers = details["kwargs"].get("headers", {}).get("prefix") == "+"
        for scheme in (*(service["protocols"] or ()), *(service["secure_protocols"] or ())):
            found[scheme] = set(details["tokens"]), headers
    return found


def _parsed(url: str) -> dict[str, Any] | None:
    """Its parts, as apprise reads them: `qsd` has its arguments."""
    parts: dict[str, Any] | None = URLBase.parse_url(url, verify_host=False)  # type: ignore[no-untyped-call]
    return parts


@dataclass(slots=True)
class _Delivery:
    """One attempt. `begun`: a thread has taken it up. `status`: of the answer, where it was an error."""

    begun: bool = False
    delivered: bool = False
    status: int | None = None


class ApprisePushService:
    """Whatever service a URL names, behind a circuit for each scheme."""

    def __init__(
        self, services: Sequence[str], settings: ServiceSettings, *, threads: int, timeout_seconds: float
    ) -> None:
        """Raises ValueError for services that apprise does not have, or that nobody may be led to."""
        for talkative in ("apprise", "urllib3"):
            logging.getLogger(talkative).propagate = False
        # Else the level of ours decides whether a result has the entries that are read below.
        logging.getLogger("apprise").setLevel(logging.WARNING)
        self._allowed = allowed_by(services)
        self._breakers = {scheme: CircuitBreaker(f"push_{scheme}", settings) for scheme in self._allowed}
        self._timeout_seconds = min(timeout_seconds, settings.call_timeout_seconds)
        # No retries of its own, nothing on disk, no redirect to where nobody looked, and the caller's thread.
        self._asset = AppriseAsset(
            async_mode=False, service_timeout=0, storage_mode="memory", http_redirects=False
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="push")

    async def open(self) -> None:
        """Nothing to do: plug-ins connect for each message."""

    async def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def push(self, device: str, title: str, text: str, *, key: str) -> Accepted | Refused:
        """Send it to where the URL leads that `device` is; refused for a 4xx, or a URL that leads nowhere."""
        service = self._service(device, key)
        if not isinstance(service, NotifyBase):
            return service
        party, delivery = f"push_{service.schema}", _Delivery()
        with self._breakers[service.schema].request() as request:
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, self._deliver, delivery, service, title, text
            )
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await work
            except TimeoutError:
                raise CallFailed(f"{party}_timeout", maybe_done=delivery.begun) from None
            status = delivery.status
            request.alive = delivery.delivered or (
                status is not None and status < 500 and status != TOO_MANY_REQUESTS
            )
            if delivery.delivered:
                return Accepted()
            if status is None:
                # A lost connection, an answer that it does not understand, or an error of the plug-in.
                raise CallFailed(f"{party}_answer_lost", maybe_done=True)
            if status >= 500 or status in _NOT_FINAL:
                raise CallFailed(f"{party}_answered_{status}", maybe_done=status != TOO_MANY_REQUESTS)
            return Refused(f"push_refused_{status}")

    def _service(self, url: str, key: str) -> NotifyBase | Refused:
        """The plug-in that the URL means, bounded as it is not itself; refused where there is none."""
        scheme, separator, _ = url.partition("://")
        allowed = self._allowed.get(scheme.lower())
        if allowed is None:
            return Refused(NOT_ALLOWED if separator else NOT_UNDERSTOOD)
        parsed = _parsed(url)
        if parsed is None:
            return Refused(NOT_UNDERSTOOD)
        if parsed["qsd"].keys() & LEADS_ELSEWHERE:
            return Refused(NOT_ALLOWED)
        if allowed.takes_headers:
            url += f"{'&' if '?' in url else '?'}+{_KEY_HEADER}={quote(key, safe='')}"
        service = Apprise.instantiate(url, asset=self._asset)
        if not isinstance(service, NotifyBase) or service.schema not in self._allowed:
            return Refused(NOT_UNDERSTOOD)
        server = f"{service.host}:{service.port}" if service.port else f"{service.host}"
        if allowed.servers is not None and server.lower() not in allowed.servers:
            return Refused(NOT_ALLOWED)
        service.socket_connect_timeout = self._timeout_seconds / 2
        service.socket_read_timeout = self._timeout_seconds
        service.verify_certificate, service.redirects, service.retry = True, False, 0
        return service

    def _deliver(self, delivery: _Delivery, service: NotifyBase, title: str, text: str) -> None:
        """In a thread of the pool."""
        delivery.begun = True
        one = Apprise(asset=self._asset)
        one.add(service)
        with one.notify(body=text, title=title, body_format=NotifyFormat.TEXT) as result:
            # The status is nowhere else: apprise itself comes down to whether it worked.
            found = [_STATUS.search(entry.message) for entry in result.logs()]
            statuses = [int(status[1]) for status in found if status is not None]
            delivery.status = next((status for status in reversed(statuses) if 400 <= status < 600), None)
            delivery.delivered = bool(result)
