"""The toy's outside world: it does what a call's plan says, and keeps a book of what it was asked and did."""

import asyncio
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from events.outbound.dispatcher import CallFailed
from tests.runtime.toy.decide import Rang, Ring
from tests.runtime.toy.facts import Behaviour


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the book."""

    what: Literal["asked", "did", "looked_up"]
    key: str
    at: float


class Book:
    """What happened outside, in order; on disk when the process that asks may be killed."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.entries: list[Entry] = []
        if file is not None and file.exists():
            self.entries = [Entry(**json.loads(line)) for line in file.read_text().splitlines()]

    def write(self, what: Literal["asked", "did", "looked_up"], key: str) -> None:
        entry = Entry(what, key, asyncio.get_running_loop().time())
        self.entries.append(entry)
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps(asdict(entry)) + "\n")

    def count(self, what: Literal["asked", "did", "looked_up"]) -> Counter[str]:
        """How often, by idempotency key."""
        return Counter(entry.key for entry in self.entries if entry.what == what)

    def story(self, key: str) -> list[str]:
        """What happened under one idempotency key, in order."""
        return [entry.what for entry in self.entries if entry.key == key]


class Outside:
    """A gateway to a world that recognises idempotency keys, as a provider does."""

    def __init__(self, book: Book | None = None) -> None:
        self.book = book or Book()
        self.gate = asyncio.Event()
        self.under_way = 0
        self.most_under_way = 0

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def perform(self, call: Ring) -> Rang:
        """One attempt, which goes as planned."""
        key = call.idempotency_key
        attempt = self.book.count("asked")[key]
        self.book.write("asked", key)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._behave(call, call.plan[min(attempt, len(call.plan) - 1)])
        finally:
            self.under_way -= 1

    async def look_up(self, call: Ring) -> Rang | None:
        """What was done under this key."""
        self.book.write("looked_up", call.idempotency_key)
        if call.look_up_fails:
            raise CallFailed("nobody_says", maybe_done=False)
        return Rang(call, "done") if self.book.count("did")[call.idempotency_key] else None

    async def _behave(self, call: Ring, behaviour: Behaviour) -> Rang:
        match behaviour:
            case "answers":
                return self._do(call)
            case "refuses":
                return Rang(call, "refused")
            case "fails":
                raise CallFailed("out_of_order", maybe_done=False)
            case "loses":
                self._do(call)
                raise CallFailed("answer_lost", maybe_done=True)
            case "hangs":
                await asyncio.Event().wait()
            case "hangs_done":
                self._do(call)
                await asyncio.Event().wait()
            case "breaks":
                raise LookupError("nobody expected this")
            case "waits":
                await self.gate.wait()
                return self._do(call)
        raise AssertionError("unreachable")

    def _do(self, call: Ring) -> Rang:
        if not self.book.count("did")[call.idempotency_key]:
            self.book.write("did", call.idempotency_key)
        return Rang(call, "done")
