"""What a request to Stripe's door may say of money, and what it is answered that says anything else."""

from collections.abc import Mapping
from typing import Any

MAX_AMOUNT = 99_999_999
# Stripe's units are ISO 4217's minor ones, but for these: whole crowns and shillings in hundredths, and whole
# ariaries.
HUNDREDTHS_OF_WHOLE = frozenset({"isk", "ugx"})
WHOLE_FOR_HUNDREDTHS = frozenset({"mga"})
# Of three decimals the last one is 0.
THREE_DECIMALS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


class StripeProblem(Exception):
    """An error in Stripe's form."""

    def __init__(self, status: int, kind: str, code: str | None, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "code": code, "message": message, **more}


def invalid(code: str, message: str, **more: Any) -> StripeProblem:
    """A request that cannot be carried out as it is."""
    return StripeProblem(400, "invalid_request_error", code, message, **more)


def not_found(what: str, param: str = "id") -> StripeProblem:
    """An object that nobody made."""
    return StripeProblem(404, "invalid_request_error", "resource_missing", f"No such {what}", param=param)


def amount_in(asked: Mapping[str, Any]) -> int:
    """The amount asked for, in Stripe's units. Raises StripeProblem for one that it would not take."""
    text = str(asked.get("amount", ""))
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise invalid("parameter_invalid_integer", "Invalid integer: amount", param="amount")
    amount, currency = int(text), currency_in(asked)
    if abs(amount) > MAX_AMOUNT:
        raise invalid("amount_too_large", "Amount is too large.", param="amount")
    if amount == 0:
        raise invalid("amount_too_small", "Amount is too small.", param="amount")
    step = 100 if currency in HUNDREDTHS_OF_WHOLE else 10 if currency in THREE_DECIMALS else 1
    if amount % step:
        message = f"Invalid amount: of {currency} it must be evenly divisible by {step}."
        raise invalid("invalid_charge_amount_no_decimal_compatible", message, param="amount")
    return amount


def currency_in(asked: Mapping[str, Any]) -> str:
    return str(asked.get("currency", "")).lower()


def amount_minor_of(amount: int, currency: str) -> int:
    """Stripe's amount in ISO 4217's minor units, in which the ledger counts."""
    if currency in HUNDREDTHS_OF_WHOLE:
        return amount // 100
    return amount * 100 if currency in WHOLE_FOR_HUNDREDTHS else amount
