"""Stocking SKUs and seeing where their units are."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from psycopg.errors import CheckViolation
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import insert

from events.facts.base import Sku, WholeNumber
from events.http.application import Running
from events.http.authentication import STOCK, VIEWER
from events.http.limits import InDigits, StrictRoute
from events.http.problems import Problem
from events.storage.sql import compiled
from inventory_svc.repository import stock

router = APIRouter(prefix="/stock", tags=["stock"], route_class=StrictRoute)

MAX_STOCKED = 10**12
MAX_PAGE = 1_000


class StockRequest(BaseModel):
    """How many units of a SKU there are in all: available, reserved and sold together."""

    model_config = ConfigDict(extra="forbid")

    stocked: Annotated[WholeNumber, Field(ge=0, le=MAX_STOCKED)]


class StockView(BaseModel):
    """Where the units of a SKU are; available + reserved + sold = stocked."""

    sku: str
    available: int
    reserved: int
    sold: int
    stocked: int


class StockPage(BaseModel):
    """SKUs in their order; `next_after` is the cursor of the next page, if there is one."""

    stock: list[StockView]
    next_after: str | None


_given = insert(stock).values(
    sku=bindparam("sku"), available=bindparam("stocked"), stocked=bindparam("stocked")
)
_PUT = compiled(
    _given.on_conflict_do_update(
        index_elements=[stock.c.sku],
        set_={
            "stocked": _given.excluded.stocked,
            "available": _given.excluded.stocked - stock.c.reserved - stock.c.sold,
        },
    ).returning(*stock.c)
)
_LIST = compiled(
    select(*stock.c)
    .where(stock.c.sku > bindparam("after"))
    .order_by(stock.c.sku)
    .limit(bindparam("row_limit"))
)


@router.put(
    "/{sku}",
    dependencies=[STOCK],
    responses={409: {"description": "More units than that are reserved or sold"}},
)
async def put(sku: Annotated[Sku, Path()], wanted: StockRequest, runtime: Running) -> StockView:
    """Set how many units there are. Fewer than are reserved or sold already is refused (409)."""
    try:
        rows = await runtime.database.rows(_PUT, sku=sku, stocked=wanted.stocked)
    except CheckViolation as error:
        raise Problem(409, f"more than {wanted.stocked} units of {sku} are reserved or sold") from error
    return StockView(**rows[0])


@router.get("", dependencies=[VIEWER])
async def see(
    runtime: Running,
    after: Annotated[str, Query(max_length=64)] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE), InDigits] = 100,
) -> StockPage:
    """Where the units of every SKU are, a page at a time."""
    rows = await runtime.database.rows(_LIST, after=after, row_limit=limit)
    page = [StockView(**row) for row in rows]
    return StockPage(stock=page, next_after=page[-1].sku if len(page) == limit else None)
