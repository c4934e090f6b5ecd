"""What is told of an error has no secret, token, customer or amount in it, and still says what is wrong."""

import io
import logging
import sys

import psycopg
import pytest
from pydantic import BaseModel, ValidationError

from events.decision import Contradiction
from events.facts.order import OrderCreated
from events.telemetry.log import configure_logging, log
from events.telemetry.redaction import in_words, redacted, traceback_of

CANARIES = ("cust_canary", "tok_canary", "66613", "s3cret-canary")


def assert_clean(text: str) -> None:
    assert not [canary for canary in CANARIES if canary in text], text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "cannot reach amqp://order:s3cret-canary@127.0.0.1:5672/",
            "cannot reach amqp://...@127.0.0.1:5672/",
        ),
        ("GET https://s3cret-canary@bank.example/x failed", "GET https://...@bank.example/x failed"),
        ("sent Authorization: Bearer s3cret-canary", "sent Authorization: Bearer ..."),
        ('{"customer": "cust_canary", "sku": "apple"}', '{"customer": ..., "sku": "apple"}'),
        (
            "{'payment_token': 'tok_canary', 'amount_minor': 66613}",
            "{'payment_token': ..., 'amount_minor': ...}",
        ),
        ("Order(customer='cust_canary', amount_minor=66613)", "Order(customer=..., amount_minor=...)"),
        ("no mail to s3cret-canary@example.org", "no mail to ..."),
        (
            'row violates check constraint "x"\nDETAIL:  Failing row contains (cust_canary,\n66613).',
            'row violates check constraint "x"',
        ),
        ("lines.0.amount_minor: Input should be a valid integer", None),
        ("MURMURATION_ADMIN_TOKEN is not set", None),
    ],
)
def test_what_reads_like_a_secret_is_hidden(text: str, left: str | None) -> None:
    assert redacted(text) == (text if left is None else left)


def test_of_a_body_it_is_shown_where_it_is_wrong_and_not_what_was_there() -> None:
    wrong = {"customer": "cust_canary!", "currency": 66613, "payment_token": ["tok_canary"]}
    with pytest.raises(ValidationError) as refused:
        OrderCreated.model_validate({"order_id": "s3cret-canary", **wrong})
    words = in_words(refused.value)
    assert_clean(words)
    assert "customer: String should match pattern" in words
    assert "payment_token: Input should be a valid string" in words
    assert "lines: Field required" in words


class _Holder(BaseModel):
    amount_minor: int


def raising(customer: str, token: str, amount: str) -> None:
    """What a traceback shows of the program has no values in it; so they are not written here."""
    try:
        try:
            _Holder.model_validate({"amount_minor": f"{amount} EUR"})
        except ValidationError as error:
            raise KeyError(customer) from error
    except KeyError:
        int(token)


def test_a_traceback_shows_the_way_and_no_values() -> None:
    with pytest.raises(ValueError, match="invalid") as failed:
        raising(*CANARIES[:3])
    shown = traceback_of(
        ExceptionGroup("two", [failed.value, OSError(f"no way to amqp://a:{CANARIES[3]}@host")])
    )
    assert_clean(shown)
    for part in ("in raising", "ValidationError: amount_minor: ", "KeyError: ...", "ValueError: invalid"):
        assert part in shown
    assert "OSError: no way to amqp://...@host" in shown


def test_what_somebody_worded_with_care_stays() -> None:
    assert in_words(Contradiction("order 17 began with another order.created")) == (
        "order 17 began with another order.created"
    )
    assert in_words(KeyError("broken on purpose")) == "'broken on purpose'"
    assert in_words(psycopg.OperationalError("connection to server at 127.0.0.1, port 5432 failed")) == (
        "connection to server at 127.0.0.1, port 5432 failed"
    )


def test_whatever_is_logged_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    before = logging.getLogger().handlers[:], sys.excepthook
    configure_logging("canary", "json", "INFO")
    try:
        log.info("said", why="amqp://order:s3cret-canary@host", customer_is="customer=cust_canary")
        try:
            raising(*CANARIES[:3])
        except ValueError as error:
            log.error("failed", exc_info=error)
            logging.getLogger("library").exception("of a library: token=%s", CANARIES[1])
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        logging.getLogger().handlers[:], sys.excepthook = before
    lines = written.getvalue().splitlines()
    assert len(lines) == 4
    assert_clean(written.getvalue())
