"""The load sends what it says, when it is due, and counts everything that becomes of it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench.completions import Completions
from tests.bench.load import Load, Sent
from tests.bench.orders import MIX, MIX_OF, NO_SKU, Kind, Orders
from tests.bench.poster import NOT_ANSWERED, Answer, Poster
from tests.bench.stage import seconds_of
from tests.runtime.eventually import eventually

ACCEPTED = "HTTP/1.1 202 Accepted\r\nLocation: /orders/{key}\r\nContent-Length: 2\r\n\r\n{{}}"
BUSY = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
BROKEN = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


class Shop:
    """An order_svc that answers from a list, and accepts once that is used up. None: it hangs up."""

    def __init__(self, *answers: str | None) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.completions = Completions()
        self.ends_at_once = False
        self._answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            headers = {}
            while (header := await reader.readline()) != b"\r\n":
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append((line.decode().strip(), headers, body))
            answer = self._answers.pop(0) if self._answers else ACCEPTED
            if answer is None:
                break
            key = headers.get("idempotency-key", "")
            writer.write(answer.format(key=key).encode())
            if self.ends_at_once and answer == ACCEPTED:
                asyncio.get_running_loop().call_later(0.01, self.end, key)
        writer.close()

    def end(self, key: str) -> None:
        self.completions.note(key, "order.cancelled.v1")
        self.completions.note(key, "notification.customer_notified.v1")

    @property
    def paths(self) -> list[str]:
        return [line.split()[1] for line, _, _ in self.requests]


@asynccontextmanager
async def opened(shop: Shop) -> AsyncIterator[str]:
    server = await asyncio.start_server(shop.serve, "127.0.0.1")
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.close()


async def answers_to(url: str, count: int, connections: int = 1) -> list[Answer]:
    poster = Poster([url], connections)
    answers: list[Answer] = []
    for ordered in (Orders(Kind()).next() for _ in range(count)):
        poster.send(ordered.request, answers.append)
    await eventually(lambda: len(answers) == count)
    poster.close()
    return answers


def test_the_mix_is_as_documented() -> None:
    orders = Orders()
    bodies = [json.loads(orders.next().request.split(b"\r\n\r\n")[1]) for _ in range(2 * MIX_OF)]
    assert sum(body["payment_token"] == "tok_declined" for body in bodies) == 2
    assert sum(body["customer"].startswith("cust_refused_") for body in bodies) == 2
    assert sum(body["lines"][0]["sku"] == NO_SKU for body in bodies) == 2
    assert len({body["customer"] for body in bodies}) == len(bodies)
    assert sum(kind.cancelled for kind in MIX.values()) == 1


async def test_requests_wait_for_a_connection_and_are_all_answered() -> None:
    shop = Shop(BUSY, BROKEN)
    async with opened(shop) as url:
        answers = await answers_to(url, 5)
    assert [answer.status for answer in answers] == [503, 500, 202, 202, 202]
    assert answers[0].retry_after == "1"
    key = shop.requests[2][1]["idempotency-key"]
    assert answers[2].location == f"/orders/{key}"


async def test_a_request_whose_connection_ends_is_sent_again_under_its_key() -> None:
    shop = Shop(None)
    async with opened(shop) as url:
        answers = await answers_to(url, 1)
    assert [answer.status for answer in answers] == [202]
    assert len({headers["idempotency-key"] for _, headers, _ in shop.requests}) == 1
    assert len(shop.requests) == 2


async def test_where_nobody_listens_nothing_is_answered() -> None:
    async with opened(Shop()) as url:
        pass
    assert await answers_to(url, 2) == [Answer(NOT_ANSWERED)] * 2


async def test_at_a_rate_latency_counts_from_when_an_order_was_due() -> None:
    shop = Shop(BUSY, BROKEN)
    async with opened(shop) as url:
        load = Load([url], shop.completions, Orders(Kind()))
        sent = await load.at_rate(100, 0.5)
        load.close()
    assert (len(sent.due_at), sent.refused, sent.busy) == (48, 2, 1)
    due = sorted(sent.due_at.values())
    assert all(abs(at - sent.begin - (number + 2) / 100) < 0.001 for number, at in enumerate(due))
    assert len(sent.post_seconds) == 48
    assert min(sent.post_seconds) > 0


async def test_in_flight_another_order_goes_out_when_one_ends_or_is_refused() -> None:
    shop = Shop(BUSY)
    shop.ends_at_once = True
    async with opened(shop) as url:
        load = Load([url], shop.completions, Orders(Kind()))
        sent = await load.in_flight(5, 0.5)
        load.close()
    assert sent.refused == 1
    assert len(sent.due_at) > 50
    assert not await shop.completions.wait_for(sent.due_at, 5)
    assert shop.completions.cancelled == set(sent.due_at)


async def test_as_accepted_does_not_wait_for_ends() -> None:
    shop = Shop()
    async with opened(shop) as url:
        load = Load([url], shop.completions, Orders(Kind()))
        sent = await load.as_accepted(4, 0.3)
        load.close()
    assert len(sent.due_at) > 20
    assert not shop.completions.ended_at


async def test_a_cancelled_order_is_cancelled_once_it_is_accepted() -> None:
    shop = Shop()
    async with opened(shop) as url:
        load = Load([url], shop.completions, Orders(Kind(cancelled=True)))
        sent = await load.at_rate(50, 0.02)
        await eventually(lambda: len(shop.requests) == 2)
        load.close()
    (order_id,) = sent.due_at
    assert shop.paths == ["/orders", f"/orders/{order_id}/cancel"]


def test_second_by_second_orders_come_end_and_are_in_flight() -> None:
    sent = Sent(accepted_at=[100.1, 100.2, 101.5], begin=100.0)
    ended = {"a": 101.1, "b": 103.0, "c": 103.9}
    assert seconds_of(sent, ended) == [(2, 0, 2), (1, 1, 2), (0, 0, 2), (0, 2, 0)]


async def test_waiting_ends_when_nothing_ends_any_more() -> None:
    completions = Completions()
    completions.note("a", "fulfillment.shipment_dispatched.v2")
    completions.note("a", "notification.customer_notified.v1")
    completions.note("b", "notification.customer_notified.v1")
    began = time.monotonic()
    assert await completions.wait_for(["a", "b"], 0.1) == {"b"}
    assert time.monotonic() - began < 5
    assert not completions.cancelled
