"""Money by ISO 4217: which currencies there are, how many decimals each has, and an amount in words."""

from collections.abc import Mapping
from types import MappingProxyType

from iso4217 import raw_table


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
