"""`GET /states`: what a service knows of many orders at once, for whoever compares it with others."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic_core import to_json

from events.runtime.http import Running
from events.runtime.states import Store

MAX_ORDERS = 200

OrderIds = Annotated[
    list[UUID], Query(min_length=1, max_length=MAX_ORDERS, description="Repeated, once for each order.")
]


def states_router(store: Store) -> APIRouter:
    """The route of a service whose states are in `store`."""
    router = APIRouter(tags=["states"])

    @router.get("/states")
    async def states(order_id: OrderIds, host: Running) -> Response:
        """The states of these orders by order id, without personal data; unknown orders are left out."""
        found = await host.database.read(lambda connection: store.read_many(connection, order_id))
        return Response(to_json({"states": found}), media_type="application/json")

    return router
