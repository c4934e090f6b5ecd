"""What a fact says, as a number: how a true repetition is told from another fact in its place.

The number is made from the decoded fact in its newest version, so a repetition counts as one whatever its
bytes were: an old version, other spaces, fields that nobody here knows. It also says which fields the fact
had. A release that gives a fact one more field makes other numbers of the same messages, and such are not
compared.
"""

import json
from functools import cache
from hashlib import blake2b

from events.facts.base import Fact

_CONTENT_BYTES = 6
_FIELDS_BYTES = 2


def content_of(fact: Fact, body: str | None = None) -> int:
    """The number of this fact, which fits PostgreSQL's bigint. `body` is its JSON, where that is at hand."""
    body = fact.model_dump_json() if body is None else body
    digest = blake2b(body.encode(), digest_size=_CONTENT_BYTES).digest()
    return int.from_bytes(_fields_of(type(fact)) + digest, signed=True)


def contradict(one: int | None, other: int | None) -> bool:
    """Whether two contents of what should be one fact differ. False where they cannot be compared."""
    if one is None or other is None or one == other:
        return False
    return one >> 8 * _CONTENT_BYTES == other >> 8 * _CONTENT_BYTES


@cache
def _fields_of(kind: type[Fact]) -> bytes:
    """What tells releases apart that know this fact with other fields."""
    schema = json.dumps(kind.model_json_schema(mode="serialization"), sort_keys=True)
    return blake2b(f"{kind.wire_name} {schema}".encode(), digest_size=_FIELDS_BYTES).digest()
