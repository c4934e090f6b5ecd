"""`/states`: what a service knows of many orders at once, for whoever compares it; and to forget it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from events.http.application import Running
from events.http.authentication import MACHINE, VIEWER
from events.http.limits import StrictRoute
from events.storage.repository import Repository

MAX_ORDERS = 200

OrderIds = Annotated[
    list[UUID], Query(min_length=1, max_length=MAX_ORDERS, description="Repeated, once for each order.")
]


class OrdersToForget(BaseModel):
    """Orders that ended."""

    order_ids: list[UUID] = Field(min_length=1, max_length=MAX_ORDERS)


def states_router(repository: Repository) -> APIRouter:
    """The route of a service whose states are in `repository`."""
    router = APIRouter(tags=["states"], route_class=StrictRoute)

    @router.get("/states", dependencies=[VIEWER])
    async def states(order_id: OrderIds, runtime: Running) -> Response:
        """The states of these orders by order id, without personal data; unknown orders are left out."""
        found = await runtime.database.read(lambda connection: repository.read_many(connection, order_id))
        return Response(to_json({"states": found}), media_type="application/json")

    @router.post("/states/forget", dependencies=[MACHINE])
    async def forget(wanted: OrdersToForget, runtime: Running) -> Response:
        """Delete the states of orders that ended long ago, as the tracker asks once their time is over.

        What the service is not done with stays: it is not among the `forgotten`. Repeating is harmless.
        """
        async with runtime.database.transaction() as connection:
            forgotten = await repository.forget(connection, wanted.order_ids)
        return Response(to_json({"forgotten": forgotten}), media_type="application/json")

    return router
