"""The tables leave nothing out: what they must cover is read off the types of each `decide`."""

from functools import partial
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from compose.system import SERVICES
from events.decision import Call, Command, GaveUp, Outcome
from events.facts import Fact
from events.service import Service
from inventory_svc.decide import Reservation, Shelf
from tests.decide import (
    test_fulfillment,
    test_inventory,
    test_notification,
    test_order,
    test_payment,
    test_payment_pending,
)
from tests.decide.table import Row

TABLES: dict[str, list[Row]] = {
    "order": test_order.TABLE,
    "inventory": test_inventory.TABLE,
    "payment": [*test_payment.TABLE, *test_payment_pending.TABLE],
    "fulfillment": [*test_fulfillment.TABLE, *test_fulfillment.BEGUN_THERE],
    "notification": test_notification.TABLE,
}

every_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)


def hints(service: Service) -> dict[str, Any]:
    function = service.decide.func if isinstance(service.decide, partial) else service.decide
    return get_type_hints(function)


def received_kinds(service: Service, base: type) -> list[type]:
    """What `decide` takes of this base: facts, commands or outcomes."""
    kinds = [get_origin(kind) or kind for kind in get_args(hints(service)["message"])]
    return [kind for kind in kinds if issubclass(kind, base)]


def statuses(service: Service) -> set[str | None]:
    """Every status its state can have, and None for no state yet."""
    state = next(iter(hints(service).values()))
    kind = Reservation if state is Shelf else next(kind for kind in get_args(state) if kind is not type(None))
    return {None, *get_args(get_type_hints(kind)["status"])}


def status_of(state: Any) -> str | None:
    row = state.reservation if isinstance(state, Shelf) else state
    return None if row is None else row.status


@every_service
@pytest.mark.parametrize("base", [Fact, Command])
def test_every_status_meets_every_fact_and_command(service: Service, base: type) -> None:
    wanted = {(status, kind) for status in statuses(service) for kind in received_kinds(service, base)}
    covered = {(status_of(row.state), type(row.message)) for row in TABLES[service.name]}
    assert sorted(f"{status} | {kind.__name__}" for status, kind in wanted - covered) == []


@every_service
def test_every_outcome_is_learnt_somewhere(service: Service) -> None:
    fed = {type(row.message) for row in TABLES[service.name] if row.state is not None}
    assert set(received_kinds(service, Outcome)) - fed == set()


@every_service
def test_every_call_is_given_up_done_or_not(service: Service) -> None:
    wanted = {(call, done) for call in service.calls.values() for done in (True, False)}
    fed = {
        (type(row.message.call), row.message.maybe_done)
        for row in TABLES[service.name]
        if isinstance(row.message, GaveUp) and row.state is not None
    }
    assert wanted - fed == set()


@every_service
def test_every_declared_fact_is_published_and_every_declared_call_asked_for(service: Service) -> None:
    decisions = [row.decision for row in TABLES[service.name] if row.decision is not None]
    published: set[type[Fact]] = {type(fact) for decision in decisions for fact in decision.facts}
    asked: set[type[Call]] = {type(call) for decision in decisions for call in decision.calls}
    assert published == set(service.publishes)
    assert asked == set(service.calls.values())
