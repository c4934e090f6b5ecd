"""Amounts by ISO 4217: how many decimals a currency has, and how an amount is written."""

import json
from pathlib import Path

import pytest

from events.facts.base import DECIMALS, in_words

KNOWN = Path(__file__).with_name("currencies.json")


@pytest.mark.parametrize(
    ("amount_minor", "currency", "words"),
    [
        (1_250, "EUR", "12.50 EUR"),
        (5, "EUR", "0.05 EUR"),
        (0, "USD", "0.00 USD"),
        (1_250, "JPY", "1250 JPY"),
        (0, "JPY", "0 JPY"),
        (1_250, "KWD", "1.250 KWD"),
        (3, "CLF", "0.0003 CLF"),
        (-1_250, "EUR", "-12.50 EUR"),
        (1_250, "EUX", "1250 minor units of EUX"),
        (1_250, "XAU", "1250 minor units of XAU"),
    ],
)
def test_an_amount_in_words(amount_minor: int, currency: str, words: str) -> None:
    assert in_words(amount_minor, currency) == words


def test_what_has_no_minor_unit_is_no_currency_to_pay_in() -> None:
    assert not {"XAU", "XAG", "XXX", "XTS", "XDR", "XBA"} & DECIMALS.keys()


def test_a_currency_that_was_known_stays_known() -> None:
    """Orders in it may be in queues, and are in the stream: ISO 4217 may withdraw it, a release must not.

    A release of `iso4217` that lacks one needs a line for it in events/facts/base.py.
    """
    known = json.loads(KNOWN.read_text())
    assert {code: DECIMALS.get(code) for code in known} == known
