"""The toy, wired like a real service."""

from pathlib import Path
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from events.facts.base import WholeNumber
from events.http.application import Running
from events.http.authentication import MACHINE, PUBLIC
from events.http.limits import StrictRoute
from events.http.problems import Problem
from events.runtime.definition import ServiceDefinition
from events.runtime.process import run_service
from events.runtime.settings import ServiceSettings
from tests.runtime.toy.decide import Bump, decide
from tests.runtime.toy.outside import Book, Outside
from tests.runtime.toy.repository import TALLIES

router = APIRouter(route_class=StrictRoute)


class ToySettings(ServiceSettings):
    """What the toy reads besides: where its outside world keeps its book."""

    toy_book: Path


class BumpRequest(BaseModel):
    """How far to count up."""

    by: WholeNumber = 1
    note: str = ""


@router.post("/bumps/{order_id}", dependencies=[PUBLIC])
async def bump(order_id: UUID, wanted: BumpRequest, host: Running) -> dict[str, Any]:
    """Count up."""
    tally = await host.ask(Bump(order_id=order_id, by=wanted.by))
    return {"count": tally.count}


@router.get("/tallies/{order_id}", dependencies=[PUBLIC])
async def see(order_id: UUID, host: Running) -> dict[str, Any]:
    """How far it has come."""
    tally = await host.database.read(lambda connection: TALLIES.read(connection, order_id))
    if tally is None:
        raise Problem(404, f"no order {order_id} is known here")
    return {"count": tally.count}


class RaiseRequest(BaseModel):
    """Whose count to raise, and how far."""

    order_id: UUID
    by: WholeNumber = 1


@router.post("/raises", dependencies=[PUBLIC])
async def count_up(wanted: RaiseRequest, host: Running) -> dict[str, Any]:
    """Count up, as the body says."""
    tally = await host.ask(Bump(order_id=wanted.order_id, by=wanted.by))
    return {"count": tally.count}


@router.post("/secrets", dependencies=[MACHINE])
async def secret() -> dict[str, str]:
    """For the admin alone."""
    return {"secret": "told"}


TOY = ServiceDefinition(
    name="toy",
    decide=decide,
    repository=TALLIES,
    settings=ToySettings,
    gateway=lambda settings: Outside(Book(settings.toy_book)),
    routers=(router,),
)


def main() -> None:
    """Run until stopped."""
    run_service(TOY)
