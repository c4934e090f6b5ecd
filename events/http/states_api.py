"""`/states`: what a service knows of many orders at once, for whoever compares it; and to forget it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from pydantic_core import to_json
from sqlalchemy import bindparam, select

from events.http.application import Admin, Running
from events.http.limits import InDigits, StrictRoute
from events.storage.repository import Repository
from events.storage.sql import compiled
from events.strict_json import JSON_TYPE

MAX_ORDERS = 200
MAX_PAGE = 1_000
FIRST = UUID(int=0)

OrderIds = Annotated[
    list[UUID], Query(min_length=1, max_length=MAX_ORDERS, description="Repeated, once for each order.")
]


Limit = Annotated[int, Query(ge=1, le=MAX_PAGE), InDigits]


class OrdersToForget(BaseModel):
    """Orders that ended."""

    order_ids: list[UUID] = Field(min_length=1, max_length=MAX_ORDERS)


def states_router(repository: Repository) -> APIRouter:
    """The route of a service whose states are in `repository`."""
    router = APIRouter(tags=["states"], route_class=StrictRoute)
    order_ids = repository.table.c.order_id
    page = compiled(
        select(order_ids)
        .where(order_ids > bindparam("after", type_=order_ids.type))
        .order_by(order_ids)
        .limit(bindparam("row_limit"))
    )

    @router.get("/states")
    async def states(order_id: OrderIds, runtime: Running) -> Response:
        """The states of these orders by order id, without personal data; unknown orders are left out."""
        found = await runtime.database.read(lambda connection: repository.read_many(connection, order_id))
        return Response(to_json({"states": found}), media_type="application/json")

    @router.get("/states/orders")
    async def orders(runtime: Running, after: UUID | None = None, limit: Limit = MAX_PAGE) -> Response:
        """Which orders it has states of, by their ids: those after this one. For whoever looks for others."""
        found = await runtime.database.rows(page, after=after or FIRST, row_limit=limit)
        return Response(to_json({"order_ids": [row["order_id"] for row in found]}), media_type=JSON_TYPE)

    @router.post("/states/forget", dependencies=[Admin])
    async def forget(wanted: OrdersToForget, runtime: Running) -> Response:
        """Delete the states of orders that ended long ago, as the tracker asks once their time is over.

        What the service is not done with stays: it is not among the `forgotten`. Repeating is harmless.
        """
        async with runtime.database.transaction() as connection:
            forgotten = await repository.forget(connection, wanted.order_ids)
        return Response(to_json({"forgotten": forgotten}), media_type="application/json")

    return router
