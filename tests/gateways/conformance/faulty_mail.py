"""Between an adapter and a mail server: passes everything on, but for a mail that is to meet a fault."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.gateways.conformance.faulty import LATE_SECONDS, Fault

# What a mail is answered instead of being passed on; None: nothing, the connection ends.
INSTEAD = {
    Fault.LOST_BEFORE: None,
    Fault.LIMITED: b"451 4.7.1 Too many, try again later\r\n",
    Fault.UNAVAILABLE: b"421 4.3.2 Shutting down\r\n",
}
# What it is answered after it was passed on; b"": as it was, later.
AFTERWARDS = {
    Fault.LOST_AFTER: None,
    Fault.LATE: b"",
    Fault.BROKE_AFTER: b"451 4.3.0 Something broke\r\n",
    Fault.GARBAGE: b"<html>\r\n",
    Fault.TRUNCATED: b"25",
}
ENDS = (Fault.TRUNCATED, Fault.UNAVAILABLE)


@dataclass
class FaultyMail:
    """Lets the next mails meet a fault."""

    upstream_port: int
    port: int = 0
    fault: Fault | None = None
    times: int = 0

    def meets(self, fault: Fault, times: int = 1) -> None:
        self.fault, self.times = fault, times

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._replies(from_server, writer)
                while line := await reader.readuntil(b"\r\n"):
                    if line.upper() != b"DATA\r\n":
                        to_server.write(line)
                        await self._replies(from_server, writer)
                    elif not await self._mail(reader, writer, from_server, to_server, line):
                        break
        finally:
            writer.close()
            to_server.close()

    async def _mail(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        command: bytes,
    ) -> bool:
        """Whether the connection goes on."""
        fault = None
        if self.times > 0:
            self.times -= 1
            fault = self.fault
        if fault in INSTEAD:
            return self._say(writer, fault, INSTEAD[fault])
        to_server.write(command)
        await self._replies(from_server, writer)
        to_server.write(await reader.readuntil(b"\r\n.\r\n"))
        if fault not in AFTERWARDS:
            await self._replies(from_server, writer)
            return True
        answer = await from_server.readuntil(b"\r\n")
        if fault is Fault.LATE:
            await asyncio.sleep(LATE_SECONDS)
            return self._say(writer, fault, answer)
        return self._say(writer, fault, AFTERWARDS[fault])

    @staticmethod
    def _say(writer: asyncio.StreamWriter, fault: Fault, answer: bytes | None) -> bool:
        if answer is not None:
            writer.write(answer)
        return answer is not None and fault not in ENDS

    @staticmethod
    async def _replies(from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one reply, of however many lines."""
        while line := await from_server.readuntil(b"\r\n"):
            writer.write(line)
            if line[3:4] != b"-":
                return


@asynccontextmanager
async def faulty_mail(upstream_port: int) -> AsyncIterator[FaultyMail]:
    """Listening on a port of its own."""
    between = FaultyMail(upstream_port)
    listener = await asyncio.start_server(between.talk, "127.0.0.1", 0)
    between.port = listener.sockets[0].getsockname()[1]
    try:
        yield between
    finally:
        listener.close()
