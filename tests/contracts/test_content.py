"""What tells a true repetition of a fact from another fact in its place."""

from uuid import UUID, uuid4

import pytest
from pydantic import create_model

from events.facts import Fact, published_facts
from events.facts.base import content_of, contradict
from events.facts.order import OrderCreated, OrderCreatedV1
from tests.decide.given import CONTRADICTING, ORDER_CREATED
from tests.tracker.facts import facts_of

BIGINT = range(-(2**63), 2**63)


@pytest.mark.parametrize("fact", facts_of().values(), ids=facts_of())
def test_it_survives_json_and_fits_the_database(fact: Fact) -> None:
    read = type(fact).model_validate_json(fact.model_dump_json(indent=2))
    assert content_of(read) == content_of(fact, fact.model_dump_json()) == content_of(fact)
    assert content_of(fact) in BIGINT


def test_each_published_fact_has_fields_of_its_own() -> None:
    kinds = [kind for kind in published_facts().values() if kind.owner != "toy"]
    contents = {content_of(kind.model_construct(order_id=UUID(int=1))) >> 48 for kind in kinds}
    assert len(contents) == len(kinds)


@pytest.mark.parametrize("other", CONTRADICTING)
def test_whatever_an_order_consists_of_counts(other: OrderCreated) -> None:
    assert contradict(content_of(ORDER_CREATED), content_of(other))
    assert not contradict(content_of(ORDER_CREATED), content_of(ORDER_CREATED))
    assert not contradict(None, content_of(other))
    assert not contradict(content_of(other), None)


def test_an_old_version_says_what_the_new_one_says() -> None:
    given = {"order_id": uuid4(), "customer": "c", "payment_token": "t"}
    line = {"sku": "a", "quantity": 2, "amount_minor": 300}
    old = OrderCreatedV1.model_validate(given | line)
    new = OrderCreated.model_validate(given | {"currency": "EUR", "lines": (line,)})
    assert content_of(old.upcast()) == content_of(new)


def test_a_release_that_knows_more_fields_is_not_compared() -> None:
    more = create_model("OrderCreated", __base__=OrderCreated, gift=(bool, False))
    known = more.model_validate({**ORDER_CREATED.model_dump(), "gift": True})
    assert content_of(known) != content_of(ORDER_CREATED)
    assert not contradict(content_of(known), content_of(ORDER_CREATED))
