"""What a carrier promises.

- One shipment per reference: nothing -> booked -> dispatched, or booked -> cancelled, or nothing -> closed.
- A cancellation before dispatch always succeeds, even when nothing was booked: then the reference is closed
  and a booking that arrives late is refused. A dispatched shipment is on the road and cannot be cancelled.
- It does not serve every address.
- A request repeated under its Idempotency-Key is answered as the first time and does nothing (operations.py).
"""

from datetime import UTC, datetime, timedelta
from sqlite3 import Connection
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from compose.sandbox.customers import DEPOTS, UNSERVED
from compose.sandbox.http import Body, OnReference, Reference
from compose.sandbox.operations import Answer, Manner, new_id

DELIVERY_DAYS = 3
MAX_LINES = 200

Status = Literal["nothing", "booked", "dispatched", "cancelled", "closed"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Destination(Body):
    """Where a shipment goes."""

    street: Text
    city: Text
    postcode: Text
    country: Text


class Parcel(Body):
    """What is in it: `quantity` pieces of `sku`."""

    sku: Text
    quantity: Annotated[int, Field(gt=0)]


class Booking(Body):
    """A shipment to book."""

    reference: Reference
    recipient: Text
    address: Destination
    lines: Annotated[list[Parcel], Field(min_length=1, max_length=MAX_LINES)]


def book(db: Connection, wanted: Booking, shipment_id: str | None = None) -> Answer:
    """201 booked, 422 refused; 409 when the reference has a shipment already."""
    match status_of(db, wanted.reference):
        case "closed" | "cancelled":
            return Answer(422, {"status": "refused", "reason": "reference_closed"})
        case "booked" | "dispatched":
            return _refused("already_booked")
        case "nothing":
            pass
    if wanted.address.postcode == UNSERVED.postcode:
        return Answer(422, {"status": "refused", "reason": "address_not_served"})
    shipment_id = shipment_id or new_id("shp")
    deliver_on = (datetime.now(UTC).date() + timedelta(days=DELIVERY_DAYS)).isoformat()
    db.execute(
        "INSERT INTO shipments (reference, status, shipment_id, deliver_on, postcode)"
        " VALUES (?, 'booked', ?, ?, ?)",
        (wanted.reference, shipment_id, deliver_on, wanted.address.postcode),
    )
    return Answer(201, {"status": "booked", "shipment_id": shipment_id, "deliver_on": deliver_on})


def cancel(db: Connection, wanted: OnReference) -> Answer:
    """201 cancelled; 409 once dispatched. Afterwards nothing can be booked or dispatched."""
    match status_of(db, wanted.reference):
        case "nothing":
            db.execute("INSERT INTO shipments (reference, status) VALUES (?, 'closed')", (wanted.reference,))
        case "booked":
            _set_status(db, wanted.reference, "cancelled")
        case "closed" | "cancelled":
            pass
        case "dispatched":
            return _refused("dispatched")
    return Answer(201, {"status": "cancelled"})


def dispatch(db: Connection, wanted: OnReference) -> Answer:
    """201 dispatched: it leaves the house; 409 when nothing is booked or it left before."""
    match status_of(db, wanted.reference):
        case "booked":
            _set_status(db, wanted.reference, "dispatched")
            return Answer(201, {"status": "dispatched"})
        case "nothing":
            return _refused("not_booked")
        case "dispatched":
            return _refused("already_dispatched")
        case "closed" | "cancelled":
            return _refused("cancelled")


def put_back(db: Connection, reference: str) -> None:
    """What was cancelled turns out not to be."""
    if status_of(db, reference) == "cancelled":
        _set_status(db, reference, "booked")


def status_of(db: Connection, reference: str) -> Status:
    """Where the shipment under a reference stands."""
    row = db.execute("SELECT status FROM shipments WHERE reference = ?", (reference,)).fetchone()
    status: Status = "nothing" if row is None else row[0]
    return status


def manner_of_booking(_db: Connection, wanted: Booking) -> Manner:
    """How the booking is gone about: by the depot of its address."""
    return DEPOTS.get(wanted.address.postcode, Manner.WELL)


def manner_of_follow_up(db: Connection, wanted: OnReference) -> Manner:
    """How everything after is gone about: by the depot it was booked with."""
    row = db.execute("SELECT postcode FROM shipments WHERE reference = ?", (wanted.reference,)).fetchone()
    return Manner.WELL if row is None else DEPOTS.get(row[0], Manner.WELL)


def _set_status(db: Connection, reference: str, status: Status) -> None:
    db.execute("UPDATE shipments SET status = ? WHERE reference = ?", (status, reference))


def _refused(reason: str) -> Answer:
    return Answer(409, {"status": "refused", "reason": reason})
