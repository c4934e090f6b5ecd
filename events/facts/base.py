"""What every fact is: past tense, versioned, immutable, about one order."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Annotated, Any, ClassVar
from uuid import UUID

from iso4217 import raw_table
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, StringConstraints
from pydantic_core import PydanticCustomError, PydanticKnownError


def _decimals() -> dict[str, int]:
    found = {str(code): str(row["CcyMnrUnts"]) for code, row in raw_table.items()}
    return {code: int(decimals) for code, decimals in found.items() if decimals.isdigit()}


# Of every currency that has a minor unit. Precious metals, baskets and test codes have none.
DECIMALS: Mapping[str, int] = MappingProxyType(_decimals())


def in_words(amount_minor: int, currency: str) -> str:
    """An amount as people write it, such as `12.50 EUR`, `1250 JPY` or `1.250 KWD`.

    Facts of before may carry a currency that ISO 4217 does not know: its amount is shown as it is.
    """
    decimals = DECIMALS.get(currency)
    if decimals is None:
        return f"{amount_minor} minor units of {currency}"
    sign, digits = "-" if amount_minor < 0 else "", f"{abs(amount_minor):0{decimals + 1}d}"
    point = len(digits) - decimals
    return f"{sign}{digits[:point]}{'.' if decimals else ''}{digits[point:]} {currency}"


MAX_LINES = 100
MAX_QUANTITY = 1_000_000
MAX_AMOUNT_MINOR = 10**12

Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Sku = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
# What a fact carries that follows from another. What an order may be placed in is an OrderCurrency.
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Person = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
# Neither `true`, nor "3", nor 1.0: wherever it comes from.
WholeNumber = Annotated[int, Strict()]
AmountMinor = Annotated[WholeNumber, Field(ge=0, le=MAX_AMOUNT_MINOR)]
Quantity = Annotated[WholeNumber, Field(ge=1, le=MAX_QUANTITY)]


def _known(currency: str) -> str:
    if currency not in DECIMALS:
        why = "ISO 4217 knows no currency {currency} with a minor unit"
        raise PydanticCustomError("unknown_currency", why, {"currency": currency})
    return currency


OrderCurrency = Annotated[Currency, AfterValidator(_known)]

_published: dict[str, type["Fact"]] = {}


class Line(BaseModel):
    """So many units of one SKU, for so much money in all."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sku: Sku
    quantity: Quantity
    amount_minor: AmountMinor


def _some_and_affordable(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """Facts further down carry the sum, so a sum they cannot carry must not get in.

    That there are any is checked here, where every line is good: before, a bad line counts as none, too.
    """
    if not lines:
        missing = {"field_type": "Tuple", "min_length": 1, "actual_length": 0}
        raise PydanticKnownError("too_short", missing)
    if sum(line.amount_minor for line in lines) > MAX_AMOUNT_MINOR:
        raise ValueError(f"all lines together must not cost more than {MAX_AMOUNT_MINOR}")
    return lines


Lines = Annotated[
    tuple[Line, ...],
    Field(max_length=MAX_LINES, json_schema_extra={"minItems": 1}),
    AfterValidator(_some_and_affordable),
]


class Fact(BaseModel):
    """Something one service publishes and nobody can retract.

    A subclass names itself on the wire, `<owner>.<fact>.v<N>`; that is also its routing key. Fields it does
    not know are ignored, so that a newer publisher may add some; a field it knows has JSON's own type, and
    nothing is taken for another. With `case=True` it says that its owner can do no more by itself: it also
    goes to the owner's dead letters, for a person to see. With `from_outside=True` it says that others than
    its owner publish it, too, so it is read with more care.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    wire_name: ClassVar[str]
    owner: ClassVar[str]
    version: ClassVar[int]
    case: ClassVar[bool] = False
    from_outside: ClassVar[bool] = False

    order_id: UUID

    def __init_subclass__(
        cls, *, wire: str = "", case: bool = False, from_outside: bool = False, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, wire: str = "", case: bool = False, from_outside: bool = False, **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not wire:
            return
        cls.case, cls.from_outside = case, from_outside
        owner, _, version = wire.split(".")
        cls.wire_name, cls.owner, cls.version = wire, owner, int(version.removeprefix("v"))
        if _published.setdefault(wire, cls) is not cls:
            raise TypeError(f"two facts are named {wire}")


class SupersededFact(Fact):
    """A version that old publishers still send; it is turned into the next one on the way in."""

    @abstractmethod
    def upcast(self) -> Fact:
        """The same fact in the next version."""


def published_facts() -> Mapping[str, type[Fact]]:
    """Every fact version by its wire name."""
    return MappingProxyType(_published)


def fact_type(wire_name: str) -> type[Fact] | None:
    """The class of a wire name, or None for a fact or a version nobody here knows."""
    return _published.get(wire_name)


# What a fact says, as a number: by which a true repetition differs from another fact in its place.
#
# The number is made from the decoded fact in its newest version, so a repetition counts as one whatever its
# bytes were: an old version, other spaces, fields that nobody here knows. It also says which fields the
# fact had. A release that gives a fact one more field makes other numbers of the same messages, and such
# are not compared.

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
