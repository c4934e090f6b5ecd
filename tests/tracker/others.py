"""Everybody the tracker compares its view with: real HTTP servers that say what a test tells them to."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from compose.system import SERVICE_NAMES

PROVIDER = "provider"

STATES_WHEN_DONE: dict[str, dict[str, Any]] = {
    "order": {"status": "confirmed", "amount_minor": 4_000, "currency": "EUR"},
    "inventory": {"status": "sold"},
    "payment": {"status": "captured", "amount_minor": 4_000, "currency": "EUR", "settled_by": None},
    "fulfillment": {"status": "dispatched"},
    "notification": {"status": "notified", "ending": "confirmed"},
}


class Others:
    """What the services and the provider say.

    `silent`: who answers 503. `asked`: about how many orders. `replies`: what is answered instead.
    `not_done`: what a service does not forget, when it is asked to.
    """

    def __init__(self) -> None:
        self.states: dict[str, dict[UUID, dict[str, Any]]] = {service: {} for service in SERVICE_NAMES}
        self.entries: list[dict[str, Any]] = []
        self.silent: set[str] = set()
        self.replies: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.most_at_once = 0
        self.token = "letmein"  # a test's own
        self.not_done: set[tuple[str, UUID]] = set()
        self.base_url = ""

    def completed(self, *order_ids: UUID) -> None:
        """Let everybody say that these orders were completed."""
        for order_id in order_ids:
            for service, one_state in STATES_WHEN_DONE.items():
                self.states[service][order_id] = dict(one_state)
            self.move(order_id, "authorised", "captured")

    def move(self, order_id: object, *kinds: str, amount_minor: int = 4_000) -> None:
        """Enter movements of money into the provider's ledger."""
        for kind in kinds:
            entry = {"id": len(self.entries) + 1, "reference": str(order_id), "kind": kind}
            at = f"2026-11-28T06:00:{len(self.entries) % 60:02}Z"
            self.entries.append(
                {
                    **entry,
                    "amount_minor": amount_minor,
                    "currency": "EUR",
                    "at": at,
                    "note": "more than is read",
                }
            )

    def settings(self, *but: str) -> dict[str, Any]:
        """The tracker's settings that lead here; without the URLs of some, for quick rounds."""
        where = {service: f"{self.base_url}/{service}" for service in SERVICE_NAMES if service not in but}
        urls: dict[str, Any] = {"service_urls": where}
        if PROVIDER not in but:
            urls["provider_ledger_url"] = f"{self.base_url}/{PROVIDER}/ledger"
        return {
            **urls,
            "reconciliation_interval_seconds": 0.05,
            "reconciliation_settle_seconds": 0.3,
            "reconciliation_recheck_seconds": 0.1,
            "reconciliation_timeout_seconds": 2.0,
            "reconciliation_batch_size": 4,
            "ledger_page_size": 3,
            # Others know of orders before a test publishes them.
            "reconciliation_walk_orders": 0,
        }

    def forget(self, service: str, order_ids: list[UUID]) -> list[UUID]:
        """What a service forgets of what it is asked to."""
        gone = [one for one in order_ids if (service, one) not in self.not_done]
        for one in gone:
            self.states[service].pop(one, None)
        return gone

    def answer(self, path: str) -> tuple[int, Any]:
        """What a GET is answered."""
        url = urlsplit(path)
        party = url.path.split("/")[1]
        asked = parse_qs(url.query)
        if party in self.silent:
            return 503, {"detail": "away"}
        if party == PROVIDER:
            after, limit = int(asked["after"][0]), int(asked["limit"][0])
            rest = [entry for entry in self.entries if entry["id"] > after]
            page = rest[:limit]
            return 200, {"entries": page, "next_after": page[-1]["id"] if len(rest) > limit else None}
        if url.path.endswith("/causes"):
            return 404, {"detail": "a service of before says nothing of that"}
        if url.path.endswith("/states/orders"):
            begin = UUID(asked.get("after", [str(UUID(int=0))])[0])
            known_here = [str(one) for one in sorted(self.states[party]) if one > begin]
            return 200, {"order_ids": known_here[: int(asked["limit"][0])]}
        order_ids = [UUID(order_id) for order_id in asked["order_id"]]
        self.asked[party] += len(order_ids)
        self.most_at_once = max(self.most_at_once, len(order_ids))
        known = self.states[party]
        return 200, {"states": {str(one): known[one] for one in order_ids if one in known}}


@contextmanager
def others_answering() -> Iterator[Others]:
    """Others, listening on a port of their own."""
    others = Others()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """The name is what http.server asks for."""
            status, content = others.answer(self.path)
            body = others.replies.get(urlsplit(self.path).path.split("/")[1]) or json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            """A service is asked to forget orders, by whoever has the token."""
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            forgotten = others.forget(self.path.split("/")[1], [UUID(one) for one in given["order_ids"]])
            allowed = self.headers["Authorization"] == f"Bearer {others.token}"
            self.send_response(200 if allowed and self.path.endswith("/states/forget") else 401)
            body = json.dumps({"forgotten": [str(one) for one in forgotten]}).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in http.server
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    others.base_url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield others
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
