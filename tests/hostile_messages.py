"""Messages at AMQP's limits, for Hypothesis: what any client may send, byte by byte.

What RabbitMQ itself refuses is left out: a delivery mode other than 1 and 2, a user that is not the
publisher's, an expiration that is no number, addresses for copies that are no array (it closes the channel
over these), and floats that are no numbers (it ends the connection).
"""

import struct
from dataclasses import dataclass
from uuid import UUID

from hypothesis import strategies as st

from tests import raw_amqp
from tests.raw_amqp import Header, deep, long_string, nested_table, short

MAX_BYTES = raw_amqp.MAX_SHORT_BYTES
# A frame has room for 131,072 bytes; each of these takes seven.
MANY_HEADERS = 18_000
MAX_NESTED = 40

_ODD_TEXTS = (
    b"",
    b"a" * MAX_BYTES,
    b"\xff" * MAX_BYTES,
    b"\0" * MAX_BYTES,
    "\u20ac".encode() * 85,
    b"\xed\xa0\x80" * 85,  # half of a surrogate pair
    b"\xf0\x9f\x98",  # cut off
)
# What somebody gives a meaning: this system, the broker, OpenTelemetry.
_KNOWN = (
    *("order_id", "stated_at", "causation_id", "traceparent", "tracestate", "baggage"),
    *("retry_attempts", "retry_first_at", "retry_routing_key", "replayed_letter_id", "headers_cut"),
    *("dead_letter_reason", "dead_letter_detail", "dead_letter_attempts", "dead_letter_routing_key"),
    *("dead_letter_first_at", "dead_letter_at", "unreadable_headers"),
    *("x-death", "x-first-death-queue", "x-last-death-queue", "x-stream-offset", "x-delivery-count"),
)
_KNOWN_TEXTS = (
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"00-00000000000000000000000000000000-0000000000000000-01",
    b"0001-01-01T00:00:00+14:00",
    b"9999-12-31T23:59:59-14:00",
    b"9" * 5_000,
)


@dataclass(frozen=True, slots=True)
class Hostile:
    """Headers and properties, each as its bytes. What it is about is not in here."""

    headers: tuple[Header, ...] | None
    given: tuple[tuple[str, bytes], ...]

    def properties(self, message_id: UUID, **more: bytes) -> raw_amqp.RawProperties:
        """With an id that is good, and what else must be as it is said here."""
        known = {**dict(self.given), "message_id": short(str(message_id).encode()), **more}
        return raw_amqp.properties(self.headers, **known)


def texts(max_size: int = MAX_BYTES) -> st.SearchStrategy[bytes]:
    return st.sampled_from(_ODD_TEXTS) | st.binary(max_size=max_size)


def _extreme(letter: bytes, size: int) -> st.SearchStrategy[bytes]:
    """A number of so many bytes: the least, the greatest, signed and not, or any."""
    middle = b"\x80" + b"\0" * (size - 1), b"\x7f" + b"\xff" * (size - 1)
    extremes = st.sampled_from([b"\0" * size, b"\xff" * size, *middle])
    return (extremes | st.binary(min_size=size, max_size=size)).map(letter.__add__)


def _floats(letter: bytes, width: int) -> st.SearchStrategy[bytes]:
    form = ">f" if width == 32 else ">d"
    numbers = st.floats(width=32 if width == 32 else 64, allow_nan=False, allow_infinity=False)
    return numbers.map(lambda number: letter + struct.pack(form, number))


_DECIMALS = st.tuples(st.sampled_from([0, 2, 254, 255]) | st.integers(0, 255), _extreme(b"", 4)).map(
    lambda parts: b"D" + bytes([parts[0]]) + parts[1]
)
_PLAIN = st.one_of(
    *(_extreme(letter, size) for letter, size in [(b"t", 1), (b"b", 1), (b"B", 1), (b"s", 2), (b"u", 2)]),
    *(_extreme(letter, size) for letter, size in [(b"I", 4), (b"i", 4), (b"l", 8), (b"L", 8), (b"T", 8)]),
    _floats(b"f", 32),
    _floats(b"d", 64),
    st.sampled_from(_KNOWN_TEXTS).map(long_string),
    texts(2_000).map(long_string),
    texts(2_000).map(lambda text: long_string(text, b"x")),
    st.just(b"V"),
)


def _values(*, decimals: bool) -> st.SearchStrategy[bytes]:
    plain = _PLAIN | _DECIMALS if decimals else _PLAIN
    nested = st.builds(deep, st.integers(1, MAX_NESTED), st.sampled_from(["F", "A", "FA"]))
    deaths = st.lists(st.tuples(st.sampled_from([b"queue", b"time", b"reason", b"routing-keys"]), plain))
    return st.one_of(
        plain,
        st.lists(plain, max_size=5).map(raw_amqp.array),
        st.lists(st.tuples(texts(), plain), max_size=5).map(nested_table),
        deaths.map(lambda notes: raw_amqp.array([nested_table(notes)])),
        nested,
    )


def _headers(*, decimals: bool) -> st.SearchStrategy[list[Header]]:
    names = st.sampled_from(_KNOWN).map(str.encode) | texts()
    some = st.lists(st.tuples(names, _values(decimals=decimals)), max_size=8)
    many = st.integers(1_000, MANY_HEADERS).map(lambda count: [(b"%05d" % n, b"V") for n in range(count)])
    copies = st.tuples(st.sampled_from([b"CC", b"BCC"]), st.lists(_PLAIN, max_size=3).map(raw_amqp.array))
    return st.one_of(some, some, st.tuples(some, copies).map(lambda both: [*both[0], both[1]]), many)


def hostile(*, decimals: bool = True) -> st.SearchStrategy[Hostile]:
    """Anything that a broker lets pass. `decimals` are none where a stream of RabbitMQ 3.10 is to hold it."""
    strings = ("content_type", "content_encoding", "correlation_id", "reply_to", "app_id", "cluster_id")
    given = st.fixed_dictionaries(
        {},
        optional={
            **{name: texts().map(short) for name in strings},
            "delivery_mode": st.sampled_from([b"\1", b"\2"]),
            "priority": st.sampled_from([b"\0", b"\x09", b"\x0a", b"\xff"]),
            "expiration": st.sampled_from([b"600000", b"+600000", b"4294967295"]).map(short),
            "timestamp": _extreme(b"", 8),
        },
    )
    headers = st.none() | _headers(decimals=decimals).map(tuple)
    return st.builds(Hostile, headers, given.map(lambda known: tuple(known.items())))
