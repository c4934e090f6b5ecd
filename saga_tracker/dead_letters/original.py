"""The message that a dead letter was, ready to be sent again.

A dead letter whose message has no id that is any good (none, or one that another fact has) gets one of its
own when it is replayed. It is derived from what no service, broker or tracing changes on the way: the key it
was first sent with, and its body, which names the order and all that subscribers go by. So the dead letters
of all who could not use the message get the same id, and one that is replayed again keeps it. The id that
such a dead letter has says nothing: where there is none, aiormq makes one up for each service that sends the
message on.
"""

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

import aio_pika

from events.messaging.copies import copy_of
from events.messaging.envelope import Unreadable, decode, uuid_in
from events.messaging.retries import ROUTING_KEY
from saga_tracker.dead_letters.dead_letter import REPLAY_OF
from saga_tracker.dead_letters.properties import from_text

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
