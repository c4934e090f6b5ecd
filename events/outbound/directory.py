"""The customer directory: who is behind a customer's token, asked over HTTP and remembered for seconds.

It is asked for every order, by several services. So an entry is kept for a short while, in memory alone: what
is in it is personal. All who ask for one customer at the same moment share one request. A customer who is
unknown is not remembered, for they may be entered any moment; nor is a request that failed.
"""

import asyncio
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel, Field, SecretStr

from events.outbound.http_party import NOT_FOUND, OK, HttpParty, HttpUrl, OutsideParty
from events.runtime.settings import ServiceSettings

EntryT = TypeVar("EntryT", bound=BaseModel)
EntryT_co = TypeVar("EntryT_co", bound=BaseModel, covariant=True)


class DirectorySettings(ServiceSettings):
    """What a service reads besides that asks the directory."""

    directory_url: HttpUrl
    directory_token: SecretStr | None = None
    # An entry is used for so long, and then forgotten; 0: it is asked for every time.
    directory_cache_seconds: float = Field(default=30.0, ge=0, le=3600)
    directory_cache_entries: int = Field(default=5_000, gt=0)


class CustomerDirectory(OutsideParty, Protocol[EntryT_co]):
    """Who is behind a customer's token, as far as a service needs to know."""

    async def entry(self, customer: str) -> EntryT_co | None:
        """Who they are, or None for nobody. Raises CallFailed when another attempt may help."""


class HttpCustomerDirectory(Generic[EntryT]):
    """The directory at a URL. `kind` is as much of an entry as this service needs: nothing else is kept."""

    def __init__(self, settings: DirectorySettings, kind: type[EntryT]) -> None:
        self._party = HttpParty(
            "directory", settings.directory_url, settings, bearer_token=settings.directory_token
        )
        self._kind = kind
        self._keep_seconds = settings.directory_cache_seconds
        self._keep_entries = settings.directory_cache_entries
        # In the order in which they are forgotten, each with when that is.
        self._kept: OrderedDict[str, tuple[float, EntryT]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[EntryT | None]] = {}
        self._forgetting: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Get ready; connections are made when they are needed."""
        await self._party.open()

    async def close(self) -> None:
        """Let go of connections, and forget everybody."""
        await self._party.close()
        self._kept.clear()
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    @property
    def remembered(self) -> int:
        """How many customers are in memory now."""
        return len(self._kept)

    async def entry(self, customer: str) -> EntryT | None:
        """200 or 404, or what was learned moments ago. Raises CallFailed when another attempt may help."""
        kept = self._kept.get(customer)
        if kept is not None:
            return kept[1]
        asking = self._asking.get(customer)
        if asking is None:
            asking = self._asking[customer] = asyncio.create_task(self._ask(customer))
            asking.add_done_callback(lambda _: self._asking.pop(customer))
        # Whoever gives up waiting does not take the answer away from the others.
        return await asyncio.shield(asking)

    async def _ask(self, customer: str) -> EntryT | None:
        reply = await self._party.get("/customers", last_part=customer)
        if reply.http_status == NOT_FOUND:
            return None
        if reply.http_status != OK:
            raise reply.unexpected()
        entry = reply.read_as(self._kind)
        self._keep(customer, entry)
        return entry

    def _keep(self, customer: str, entry: EntryT) -> None:
        if not self._keep_seconds:
            return
        if len(self._kept) >= self._keep_entries:
            self._kept.popitem(last=False)
        loop = asyncio.get_running_loop()
        self._kept[customer] = loop.time() + self._keep_seconds, entry
        if self._forgetting is None:
            self._forgetting = loop.call_later(self._keep_seconds, self._forget)

    def _forget(self) -> None:
        """Forget whose time is over, whether or not anybody asks again; come back for the next ones."""
        loop = asyncio.get_running_loop()
        self._forgetting = None
        while self._kept:
            customer, (until, _) = next(iter(self._kept.items()))
            if until > loop.time():
                self._forgetting = loop.call_at(until, self._forget)
                return
            del self._kept[customer]
