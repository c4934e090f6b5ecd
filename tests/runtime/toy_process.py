"""The toy as a process of its own, to be killed, frozen and stopped."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any
from uuid import UUID

from aiohttp import ClientError, ClientSession

from compose.local.ports import free_port
from events.runtime.crash import CrashPoint
from tests.runtime.eventually import eventually
from tests.runtime.stage import QUICK, Stage

EXIT_SECONDS = 60
TOY = "tests.runtime.toy"


class ToyProcess:
    """`python -m tests.runtime.toy` on a stage; its outside world keeps its book in a file."""

    def __init__(self, stage: Stage, folder: Path, **settings: Any) -> None:
        self.book = folder / "book.jsonl"
        self.log = folder / "toy.log"
        self._break_when = folder / "break"
        self._stage = stage
        self._settings = {**QUICK, **settings}
        self._process: Process | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *, crash_at: CrashPoint | None = None, broken: str = "") -> None:
        """Start it, and have it die at a named point, or break once told to (see `tests.breaking`)."""
        self.port = free_port()
        given = {
            "broker_url": self._stage.broker_url,
            "database_url": self._stage.database_url,
            "http_port": self.port,
            "toy_book": self.book,
            **({"crash_at": crash_at} if crash_at else {}),
            **self._settings,
        }
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MURMURATION_")
        }
        environment |= {f"MURMURATION_{name.upper()}": str(value) for name, value in given.items()}
        environment |= {"BREAK": broken, "BREAK_WHEN": str(self._break_when)}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.breaking", TOY), env=environment, stdout=log, stderr=log
            )
        self._stage.closing.push_async_callback(self.kill)

    async def start_ready(self, *, broken: str = "") -> None:
        await self.start(broken=broken)
        await eventually(self.is_ready, why="the toy's process gets ready")

    def break_it(self) -> None:
        """Now."""
        self._break_when.touch()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log about an event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def is_ready(self) -> bool:
        try:
            async with ClientSession() as http, http.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
                return answer.status == 200
        except ClientError:
            return False

    async def bump(self, order_id: UUID) -> None:
        """Count up, over HTTP."""
        assert await self.bump_status(order_id) == 200

    async def bump_status(self, order_id: UUID) -> int:
        """How it answers a wish to count up."""
        url = f"http://127.0.0.1:{self.port}/bumps/{order_id}"
        async with ClientSession() as http, http.post(url, json={}) as answer:
            return answer.status

    async def exit_code(self) -> int:
        """Wait for its end. Fails when it does not come."""
        assert self._process is not None
        async with asyncio.timeout(EXIT_SECONDS):
            return await self._process.wait()

    async def kill(self) -> None:
        """kill -9, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
