"""Sends dead letters back: to the one service that could not use them, confirmed before they are marked.

A fact that the view does not know goes to the stream, too: else an order that nobody could read at first
would go its way unseen. However many dead letters there are of it, it counts there once.

The dead letters are locked from before they are sent until they are marked. Killed in between, this sends a
dead letter once more when it is replayed again, which the service's inbox makes harmless.

A replayed dead letter stays what it is, replayed. Should the service fail again, a new dead letter arrives
that names the replayed one.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid5

import aio_pika
from aio_pika.abc import AbstractExchange
from aio_pika.exceptions import DeliveryError

from events.facts.payment import PaymentCaptured
from events.http.authentication import Identity
from events.messaging.connection import BROKER_AWAY, closed_means_away, connection_url, lost_means_away
from events.messaging.copies import copy_of
from events.messaging.envelope import Unreadable, decode, uuid_in
from events.messaging.retries import ROUTING_KEY
from events.messaging.topology import TRACKER
from events.runtime.loops import promptly
from events.service import REDRIVE_EXCHANGE, name_of
from events.storage.database import Connection, Database
from events.telemetry.redaction import in_words
from saga_tracker.dead_letters import repository
from saga_tracker.dead_letters.dead_letter import REPLAY_OF, DeadLetterKind, DeadLetterState, from_text
from saga_tracker.http import audit
from saga_tracker.http import manual_cases as cases
from saga_tracker.http.audit import Entry, Proposal, second
from saga_tracker.http.manual_cases import ManualCase
from saga_tracker.scheduler import redrive
from saga_tracker.settings import TrackerSettings

# A dead letter whose message has no id that is any good (none, or one that another fact has) gets one of
# its own when it is replayed. It is derived from what no service, broker or tracing changes on the way: the
# key it was first sent with, and its body, which names the order and all that subscribers go by. So the
# dead letters of all who could not use the message get the same id, and one that is replayed again keeps
# it. The id that such a dead letter has says nothing: where there is none, aiormq makes one up for each
# service that sends the message on.

WITHOUT_GOOD_ID = ("no_fact_id", "reused_message_id")

_OURS = "dead_letter_"
_VIEWED = ("order_id", "stated_at", "causation_id", "traceparent", REPLAY_OF, ROUTING_KEY)
_NEW_IDS = UUID("8f0c1f0e-6a59-5d0b-9f57-1c5f8f1f7a21")


def original_of(dead_letter: Mapping[str, Any]) -> aio_pika.Message:
    """The message a dead letter was, with headers that name the dead letter and its first routing key."""
    properties = from_text(dead_letter["properties"])
    headers = {name: value for name, value in properties.pop("headers").items() if not name.startswith(_OURS)}
    for name in ("delivery_mode", "expiration", "user_id", "cluster_id"):
        properties.pop(name, None)
    added = {REPLAY_OF: str(dead_letter["letter_id"])}
    if dead_letter["routing_key"]:
        added[ROUTING_KEY] = dead_letter["routing_key"]
    original = copy_of(aio_pika.Message(dead_letter["body"], headers=headers, **properties), added)
    if dead_letter["reason"] in WITHOUT_GOOD_ID or uuid_in(original.message_id) is None:
        original.message_id = str(_new_id(dead_letter))
    return original


def for_view(dead_letter: Mapping[str, Any]) -> aio_pika.Message:
    """The same with no more headers than the view is made from: a stream cannot hold every type of them.

    RabbitMQ 3.10 ends the connection over a decimal, and so every replay of that dead letter.
    """
    original = original_of(dead_letter)
    headers = original.headers.items()
    original.headers = {name: value for name, value in headers if name in _VIEWED and isinstance(value, str)}
    return original


def fact_in(dead_letter: Mapping[str, Any], original: aio_pika.Message) -> tuple[UUID, UUID] | None:
    """The ids of the order and the fact that it tells of, if it can be read here."""
    try:
        envelope = decode(original, dead_letter["routing_key"])
    except Unreadable:
        return None
    return envelope.fact.order_id, envelope.fact_id


def _new_id(dead_letter: Mapping[str, Any]) -> UUID:
    sent_as = dead_letter["routing_key"] or dead_letter["wire_name"] or ""
    digest = hashlib.sha256(sent_as.encode(errors="replace") + b"\n" + dead_letter["body"])
    return uuid5(_NEW_IDS, digest.hexdigest())


# A message, and by name whom it is for.
Publication = tuple[aio_pika.Message, str]


class NotSent(Exception):
    """The broker did not confirm: these dead letters, and those after them, are as they were."""


@dataclass(slots=True)
class Replayed:
    """What came of the dead letters that were to be replayed."""

    replayed: list[UUID] = field(default_factory=list)
    # Replayed or discarded before, or their case was answered already.
    skipped: list[UUID] = field(default_factory=list)


async def replay(
    settings: TrackerSettings,
    database: Database,
    letter_ids: Sequence[UUID],
    *,
    who: Identity,
    note: str | None,
    done: Replayed,
) -> None:
    """Replay those that are open, in batches of one transaction each, noted in `done` as they are committed.

    A case is not sent anywhere: its owner is asked to try again. Raises NotSent, or what the database raises.
    """
    async with _Sender(settings) as sender:
        for begin in range(0, len(letter_ids), settings.replay_batch_size):
            batch = letter_ids[begin : begin + settings.replay_batch_size]
            async with database.transaction() as connection:
                some = await _replay_batch(connection, sender, batch, who=who, note=note)
            done.replayed += some.replayed
            done.skipped += some.skipped


def moves_money(service: str, *bodies: bytes) -> bool:
    """Whether a message to this service is about money: payment's are, and those that name an amount."""
    return service == PaymentCaptured.owner or any(map(_names_an_amount, bodies))


def _names_an_amount(body: bytes) -> bool:
    names: set[str] = set()
    try:
        json.loads(body, object_pairs_hook=lambda pairs: names.update(name for name, _ in pairs))
    except (ValueError, RecursionError):
        # Nobody knows what is in it.
        return True
    return "amount_minor" in names


def edited_id(letter_id: UUID, body: bytes) -> UUID:
    """The id of an edited message: it derives from the letter and the body, so sent twice it counts once."""
    return uuid5(letter_id, body.hex())


async def replay_edited(
    settings: TrackerSettings, database: Database, letter_id: UUID, body: bytes, *, who: Identity, note: str
) -> Proposal | None:
    """Send an open dead letter's message with another body, under a new id; nothing if it is not open.

    The letter keeps what it was, and the audit has the new id. What moves money waits as a proposal for a
    second person, where that takes two. Raises NotSent, Problem, or what the database raises.
    """
    message_id = edited_id(letter_id, body)
    async with _Sender(settings) as sender, database.transaction() as connection:
        (dead_letter,) = await repository.take(connection, [letter_id]) or ({},)
        if dead_letter.get("state") != DeadLetterState.OPEN or dead_letter["kind"] == DeadLetterKind.CASE:
            return None
        about = dead_letter["service"], dead_letter["order_id"], letter_id
        if settings.second_approver and moves_money(dead_letter["service"], dead_letter["body"], body):
            entry = Entry.of(who, "edit_proposed", f"{note} (as {message_id})", *about)
            seconds = settings.proposal_seconds
            waits = await second(connection, entry, letter_id, for_seconds=seconds, content=body)
            if waits is not None:
                return waits
        edited = {**dead_letter, "body": body}
        original = original_of(edited)
        original.message_id = str(message_id)
        publications: list[Publication] = [(original, str(edited["service"]))]
        if fact_in(edited, original) is not None:
            view = for_view(edited)
            view.message_id = original.message_id
            publications.append((view, TRACKER))
        await sender.send(publications)
        noted = f"{note} (sent edited as {message_id})"
        await audit.enter(connection, [Entry.of(who, "edited", noted, *about)])
        await repository.mark(connection, [letter_id], DeadLetterState.REPLAYED)
    return None


async def _replay_batch(
    connection: Connection, sender: "_Sender", letter_ids: Sequence[UUID], *, who: Identity, note: str | None
) -> Replayed:
    dead_letters = await repository.take(connection, letter_ids)
    still_open = [dead_letter for dead_letter in dead_letters if dead_letter["state"] == DeadLetterState.OPEN]
    messages = [dead_letter for dead_letter in still_open if dead_letter["kind"] != DeadLetterKind.CASE]
    await sender.send(await _publications(connection, messages))
    entries = [
        Entry.of(
            who, "replayed", note, dead_letter["service"], dead_letter["order_id"], dead_letter["letter_id"]
        )
        for dead_letter in messages
    ]
    await audit.enter(connection, entries)
    asked = [
        dead_letter
        for dead_letter in still_open
        if dead_letter["kind"] == DeadLetterKind.CASE
        and await _ask_owner(connection, dead_letter, who=who, note=note)
    ]
    replayed = [dead_letter["letter_id"] for dead_letter in (*messages, *asked)]
    await repository.mark(connection, replayed, DeadLetterState.REPLAYED)
    skipped = [
        dead_letter["letter_id"]
        for dead_letter in dead_letters
        if dead_letter["letter_id"] not in set(replayed)
    ]
    return Replayed(replayed, skipped)


async def _publications(
    connection: Connection, dead_letters: Sequence[Mapping[str, Any]]
) -> list[Publication]:
    """Each service's own, and for the tracker what its view does not know."""
    to_services = [(original_of(dead_letter), str(dead_letter["service"])) for dead_letter in dead_letters]
    facts: dict[redrive.Key, Mapping[str, Any]] = {}
    for dead_letter, (original, _) in zip(dead_letters, to_services, strict=True):
        key = fact_in(dead_letter, original)
        if key is not None:
            facts.setdefault(key, dead_letter)
    known = await redrive.facts_at(connection, list(facts)) if facts else {}
    to_tracker = [(for_view(dead_letter), TRACKER) for key, dead_letter in facts.items() if key not in known]
    return to_services + to_tracker


def _waves(publications: Sequence[Publication]) -> Iterable[list[Publication]]:
    """So that no id is in flight twice: aiormq would take one's return for the other's."""
    waves: dict[int, list[Publication]] = {}
    sent: Counter[str | None] = Counter()
    for message, name in publications:
        waves.setdefault(sent[message.message_id], []).append((message, name))
        sent[message.message_id] += 1
    return waves.values()


async def _ask_owner(
    connection: Connection, dead_letter: Mapping[str, Any], *, who: Identity, note: str | None
) -> bool:
    traceparent = from_text(dead_letter["properties"])["headers"].get("traceparent")
    case = ManualCase(
        fact_id=UUID(dead_letter["message_id"]),
        order_id=dead_letter["order_id"],
        service=dead_letter["service"],
        name=name_of(dead_letter["wire_name"]),
        traceparent=traceparent if isinstance(traceparent, str) else None,
    )
    note = note or f"dead letter {dead_letter['letter_id']} replayed"
    return await cases.ask_again(connection, case, who=who, note=note, letter_id=dead_letter["letter_id"])


class _Sender:
    """A connection for one request, made when there is something to send: that is rare."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._exchange: AbstractExchange | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await promptly(self._stack.aclose(), self._settings.replay_timeout_seconds)
        except BROKER_AWAY:
            # What was confirmed is; a connection that does not answer is ended by its heartbeat.
            return

    async def send(self, publications: Sequence[Publication]) -> None:
        """Publish all of them, confirmed. Raises NotSent."""
        if not publications:
            return
        try:
            with lost_means_away(), closed_means_away():
                await promptly(self._send(publications), self._settings.replay_timeout_seconds)
        except (*BROKER_AWAY, DeliveryError) as error:
            raise NotSent(in_words(error) or type(error).__name__) from error

    async def _send(self, publications: Sequence[Publication]) -> None:
        exchange = self._exchange or await self._connect()
        for wave in _waves(publications):
            await asyncio.gather(*(exchange.publish(message, name, mandatory=True) for message, name in wave))

    async def _connect(self) -> AbstractExchange:
        connection = await self._stack.enter_async_context(
            await aio_pika.connect(
                connection_url(self._settings),
                client_properties={"connection_name": f"{TRACKER} replay"},
                timeout=self._settings.replay_timeout_seconds,
            )
        )
        channel = await connection.channel(on_return_raises=True)
        self._exchange = await channel.get_exchange(REDRIVE_EXCHANGE, ensure=False)
        return self._exchange
