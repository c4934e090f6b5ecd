"""What every fact is: past tense, versioned, immutable, about one order."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MAX_LINES = 100
MAX_QUANTITY = 1_000_000
MAX_AMOUNT_MINOR = 10**12

Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Sku = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Person = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
AmountMinor = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]

_published: dict[str, type["Fact"]] = {}


class Line(BaseModel):
    """So many units of one SKU, for so much money in all."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sku: Sku
    quantity: Quantity
    amount_minor: AmountMinor


def _affordable(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """Facts further down carry the sum, so a sum they cannot carry must not get in."""
    if sum(line.amount_minor for line in lines) > MAX_AMOUNT_MINOR:
        raise ValueError(f"all lines together must not cost more than {MAX_AMOUNT_MINOR}")
    return lines


Lines = Annotated[tuple[Line, ...], Field(min_length=1, max_length=MAX_LINES), AfterValidator(_affordable)]


class Fact(BaseModel):
    """Something one service states and nobody can retract.

    A subclass names itself on the wire, `<owner>.<fact>.v<N>`; that is also its routing key. Fields it
    does not know are ignored, so that a newer publisher may add some. With `case=True` it says that its
    owner can do no more by itself: it also goes to the owner's dead letters, for a person to see.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    wire_name: ClassVar[str]
    owner: ClassVar[str]
    version: ClassVar[int]
    case: ClassVar[bool] = False

    order_id: UUID

    def __init_subclass__(cls, *, wire: str = "", case: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, wire: str = "", case: bool = False, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not wire:
            return
        cls.case = case
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
