"""A published fact version stays what it was: its encoding, its schema, and that old JSON can be read."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from compose.system import SERVICES
from events.facts import Fact, SupersededFact
from events.facts.base import MAX_AMOUNT_MINOR, Line
from events.messaging.definitions import definitions, user_names
from events.messaging.topology import PUBLISHER
from tests.contracts.published import (
    EXAMPLES,
    GOLDEN,
    PUBLISHED,
    body_of,
    golden_body,
    golden_schema,
    schema_of,
)
from tests.decide.given import order_created

HOW_TO = "a new version needs `python -m tests.contracts.published`; a published one must not change"

every_example = pytest.mark.parametrize("fact", EXAMPLES, ids=lambda fact: fact.wire_name)


def test_every_published_version_has_an_example_and_golden_files() -> None:
    assert {type(fact) for fact in EXAMPLES} == set(PUBLISHED.values())
    wanted = {path.name for fact in EXAMPLES for path in (golden_body(type(fact)), golden_schema(type(fact)))}
    assert {path.name for path in GOLDEN.iterdir()} == wanted, HOW_TO


@every_example
def test_its_encoding_has_not_changed(fact: Fact) -> None:
    assert body_of(fact) == golden_body(type(fact)).read_text(), HOW_TO


@every_example
def test_its_schema_has_not_changed(fact: Fact) -> None:
    assert schema_of(type(fact)) == golden_schema(type(fact)).read_text(), HOW_TO


@every_example
def test_what_was_written_can_be_read(fact: Fact) -> None:
    assert type(fact).model_validate_json(golden_body(type(fact)).read_text()) == fact


@every_example
def test_unknown_fields_are_tolerated(fact: Fact) -> None:
    body = json.loads(golden_body(type(fact)).read_text())
    assert type(fact).model_validate_json(json.dumps(with_news(body))) == fact


def with_news(value: Any) -> Any:
    """The same JSON from a newer publisher, who says more of everything."""
    match value:
        case dict():
            return {key: with_news(part) for key, part in value.items()} | {"news": {"since": "v9"}}
        case list():
            return [with_news(part) for part in value]
        case _:
            return value


@every_example
def test_it_is_immutable(fact: Fact) -> None:
    with pytest.raises(ValueError, match="frozen"):
        fact.order_id = fact.order_id


@every_example
def test_it_names_its_owner_and_version(fact: Fact) -> None:
    owner, _, version = fact.wire_name.split(".")
    assert (fact.owner, f"v{fact.version}") == (owner, version)


def test_versions_of_a_fact_have_no_gaps_and_only_the_newest_is_published() -> None:
    newest: dict[str, list[type[Fact]]] = {}
    for kind in sorted(PUBLISHED.values(), key=lambda kind: kind.version):
        newest.setdefault(kind.wire_name.rpartition(".")[0], []).append(kind)
    for kinds in newest.values():
        assert kinds[0].version == 1 or len(kinds) == kinds[0].version
        assert all(later.version == earlier.version + 1 for earlier, later in pairwise(kinds))
        assert all(issubclass(kind, SupersededFact) for kind in kinds[:-1])
        assert not issubclass(kinds[-1], SupersededFact)


def test_what_an_outside_publisher_may_publish_is_read_with_more_care() -> None:
    users = user_names(SERVICES)
    rights = definitions(SERVICES, dict.fromkeys(users, "x"))["topic_permissions"]
    (outsiders,) = (entry["write"] for entry in rights if entry["user"] == PUBLISHER)
    assert {name for name in PUBLISHED if re.match(outsiders, name)} == {
        name for name, kind in PUBLISHED.items() if kind.from_outside
    }


def test_a_wire_name_is_taken_once() -> None:
    with pytest.raises(TypeError, match=r"two facts are named order\.confirmed\.v1"):
        type("Forged", (Fact,), {"__module__": __name__}, wire="order.confirmed.v1")


def test_lines_that_cost_more_than_a_fact_can_carry_are_refused() -> None:
    """Every fact down the chain carries the sum: an order whose sum is out of bounds must not begin."""
    most = Line(sku="gold", quantity=1, amount_minor=MAX_AMOUNT_MINOR)
    assert order_created(lines=(most,)).amount_minor == MAX_AMOUNT_MINOR
    with pytest.raises(ValueError, match="must not cost more than"):
        order_created(lines=(most, most.model_copy(update={"amount_minor": 1})))
