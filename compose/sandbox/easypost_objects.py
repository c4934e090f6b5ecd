"""EasyPost's Shipments as the sandbox keeps them: what is asked of each, and what becomes of it by itself.

What is bought moves the ledger's shipment of the order that its reference names, by the rules of carrier.py.
Some errors are none in EasyPost's form, but inside an answer that is well: an address that cannot be found,
no rates, a refund that is rejected, a form that failed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from sqlite3 import Connection
from typing import Any, Literal

from compose.sandbox import carrier
from compose.sandbox.customers import UNSERVED
from compose.sandbox.http import OnReference
from compose.sandbox.operations import new_id

MAX_PAGE, PAGE = 100, 20
RefundStatus = Literal["submitted", "refunded", "rejected", "not_applicable"]
Thing = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """How shipments to a postcode end: what becomes of a refund at once and later, and of a form."""

    deliverable: bool = True
    refund: RefundStatus = "submitted"
    refund_later: RefundStatus = "refunded"
    form: Literal["created", "creating", "failed"] = "created"


ENDINGS: Mapping[str, Ending] = {
    "9911 RR": Ending(refund="rejected"),
    "9912 RL": Ending(refund_later="rejected"),
    "9913 NA": Ending(refund="not_applicable"),
    "9914 ND": Ending(deliverable=False),
    "9915 SC": Ending(form="creating"),
    "9916 SF": Ending(form="failed"),
}


class EasyPostProblem(Exception):
    """An answer in the form of EasyPost's errors."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error: Thing = {"code": code, "message": message, "errors": []}


def invalid(code: str, message: str) -> EasyPostProblem:
    return EasyPostProblem(422, code, message)


class Shipments:
    """The Shipments as the sandbox keeps them, at one instant."""

    def __init__(self, db: Connection, now: float, pending_seconds: float) -> None:
        self._db = db
        self._now = now
        self._pending_seconds = pending_seconds

    def find(self, shipment_id: str) -> Thing:
        """Raises EasyPostProblem (404)."""
        row = self._db.execute(
            "SELECT content FROM easypost_shipments WHERE id = ?", (shipment_id,)
        ).fetchone()
        if row is None:
            raise EasyPostProblem(404, "NOT_FOUND", "The requested resource could not be found.")
        found: Thing = json.loads(row["content"])
        return found

    def page(self, asked: Mapping[str, str]) -> Thing:
        """The latest first, those before `before_id`."""
        size = asked.get("page_size", str(PAGE))
        limit = min(int(size), MAX_PAGE) if size.isdigit() else PAGE
        rows = self._db.execute(
            "SELECT content FROM easypost_shipments WHERE number <"
            " coalesce((SELECT number FROM easypost_shipments WHERE id = ?), 9223372036854775807)"
            " AND (? OR bought) ORDER BY number DESC LIMIT ?",
            (asked.get("before_id"), asked.get("purchased", "true") == "false", limit + 1),
        ).fetchall()
        found = [seen(json.loads(row["content"])) for row in rows[:limit]]
        return {"shipments": found, "has_more": len(rows) > limit}

    def create(self, asked: Thing) -> Thing:
        """With its rates, or without any: that is no error."""
        wanted = _checked(asked)
        to = wanted["to_address"]
        delivery: Thing = {"success": _ending_at(to["zip"]).deliverable, "errors": [], "details": None}
        if not delivery["success"]:
            delivery["errors"] = [{"code": "E.ADDRESS.NOT_FOUND", "message": "Address not found"}]
        shipment: Thing = {
            "id": new_id("shp"),
            "object": "Shipment",
            "mode": "test",
            "reference": wanted.get("reference"),
            "status": "unknown",
            "created_at": _at(self._now),
            "to_address": {**to, "id": new_id("adr"), "verifications": {"delivery": delivery}},
            "messages": [],
            "rates": [],
            "selected_rate": None,
            "postage_label": None,
            "tracking_code": None,
            "refund_status": None,
            "scan_form": None,
            "_refunds": 0,
        }
        self._rate(shipment)
        self._save(shipment)
        return shipment

    def rerate(self, shipment: Thing) -> Thing:
        self._rate(shipment)
        self._save(shipment)
        return {"rates": shipment["rates"]}

    def _rate(self, shipment: Thing) -> None:
        if shipment["to_address"]["zip"] == UNSERVED.postcode:
            text = "shipment.to_address: not served"
            shipment["messages"] = [{"carrier": "Sandbox", "type": "rate_error", "message": text}]
            return
        services = (("Express", "12.80", 1), ("Economy", "5.20", carrier.DELIVERY_DAYS))
        shipment["rates"] = [
            {
                "id": new_id("rate"),
                "object": "Rate",
                "carrier": "Sandbox",
                "service": service,
                "rate": price,
                "currency": "USD",
                "delivery_date": None,
                "delivery_days": days,
                "est_delivery_days": days,
                "shipment_id": shipment["id"],
            }
            for service, price, days in services
        ]

    def buy(self, shipment: Thing, asked: Thing) -> Thing:
        """A label, once; and one for another Shipment of the same reference, which nobody here looks at."""
        if shipment["postage_label"] is not None:
            raise invalid("SHIPMENT.POSTAGE.EXISTS", "Postage already exists for this shipment.")
        chosen = _part(asked, "rate").get("id")
        rate = next((rate for rate in shipment["rates"] if rate["id"] == chosen), None)
        if rate is None:
            raise invalid("SHIPMENT.POSTAGE.FAILURE", "That is no rate of this shipment.")
        carrier.book(self._db, _booking(shipment), shipment["id"])
        label = {"id": new_id("pl"), "object": "PostageLabel", "created_at": _at(self._now)}
        shipment |= {"selected_rate": rate, "postage_label": label, "tracking_code": new_id("SB").upper()}
        self._save(shipment)
        return shipment

    def refund(self, shipment: Thing) -> Thing:
        """Submitted, most of the time; or rejected, which is no error, and may be asked for again."""
        if shipment["postage_label"] is None:
            raise invalid("SHIPMENT.REFUND.UNAVAILABLE", "There is no label that could be refunded.")
        if shipment["refund_status"] not in (None, "rejected"):
            raise invalid("SHIPMENT.REFUND.EXISTS", "A refund was requested before.")
        ending = _ending_at(shipment["to_address"]["zip"])
        shipment["refund_status"] = "rejected" if shipment["scan_form"] else ending.refund
        shipment["_refunds"] += 1
        if shipment["refund_status"] != "rejected":
            carrier.cancel(self._db, OnReference(reference=_reference(shipment)))
        self._save(shipment, self._pending_seconds if shipment["refund_status"] == "submitted" else None)
        return shipment

    def scan(self, asked: Thing) -> Thing:
        """Hand the parcels over. It is made later, for some, and cannot be, for others: that is no error."""
        given = _part(asked, "scan_form").get("shipments")
        shipments = [self.find(str(one.get("id"))) for one in given if isinstance(one, dict)] if given else []
        if not shipments or any(_cannot_leave(shipment) for shipment in shipments):
            raise invalid("SCAN_FORM.INVALID_SHIPMENTS", "A form is of labels that are on no other.")
        ending = _ending_at(shipments[0]["to_address"]["zip"])
        form = {"id": new_id("sf"), "object": "ScanForm", "status": ending.form, "created_at": _at(self._now)}
        for shipment in shipments:
            self._put_on(shipment, form)
        return form

    def _put_on(self, shipment: Thing, form: Thing) -> None:
        shipment["scan_form"] = form
        if form["status"] == "created":
            carrier.dispatch(self._db, OnReference(reference=_reference(shipment)))
        self._save(shipment, self._pending_seconds if form["status"] == "creating" else None)

    def go_on(self) -> None:
        """Whatever is due to happen by itself: refunds that end, forms that are made."""
        rows = self._db.execute(
            "SELECT content FROM easypost_shipments WHERE due_at <= ? ORDER BY due_at LIMIT 100", (self._now,)
        ).fetchall()
        for row in rows:
            shipment: Thing = json.loads(row["content"])
            if shipment["scan_form"] is not None:
                self._put_on(shipment, {**shipment["scan_form"], "status": "created"})
            else:
                self._end_refund(shipment)

    def _end_refund(self, shipment: Thing) -> None:
        later = _ending_at(shipment["to_address"]["zip"]).refund_later
        # Asked for once more, it is granted.
        shipment["refund_status"] = "refunded" if shipment["_refunds"] > 1 else later
        if shipment["refund_status"] == "rejected":
            carrier.put_back(self._db, _reference(shipment))
        self._save(shipment)

    def _save(self, shipment: Thing, due_in: float | None = None) -> None:
        self._db.execute(
            "INSERT INTO easypost_shipments (id, bought, content, due_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE"
            " SET bought = excluded.bought, content = excluded.content, due_at = excluded.due_at",
            (
                shipment["id"],
                shipment["postage_label"] is not None,
                json.dumps(shipment),
                None if due_in is None else self._now + due_in,
            ),
        )


def seen(thing: Thing) -> Thing:
    """As it is shown: without what the sandbox notes of it."""
    return {name: value for name, value in thing.items() if not name.startswith("_")}


def _part(asked: Thing, name: str) -> Thing:
    """Raises EasyPostProblem (422)."""
    found = asked.get(name)
    if not isinstance(found, dict):
        raise invalid("SHIPMENT.INVALID_PARAMS", f"{name} is missing.")
    return found


def _checked(asked: Thing) -> Thing:
    """A Shipment as it may be asked for. Raises EasyPostProblem (422)."""
    wanted = _part(asked, "shipment")
    to, weight = _part(wanted, "to_address"), _part(wanted, "parcel").get("weight")
    if not str(_part(wanted, "from_address").get("id", "")).startswith("adr_"):
        raise invalid("ADDRESS.INVALID", "from_address is no Address of this account.")
    if not isinstance(weight, int | float) or weight <= 0:
        raise invalid("PARCEL.WEIGHT.INVALID", "A parcel has a weight.")
    needed = [to.get(part) for part in ("name", "street1", "city", "zip")]
    if not all(isinstance(part, str) and part for part in needed):
        raise invalid("ADDRESS.PARAMETERS.INVALID", "An address has a name, street1, city and zip.")
    return wanted


def _cannot_leave(shipment: Thing) -> bool:
    refunded = shipment["refund_status"] not in (None, "rejected")
    return shipment["postage_label"] is None or refunded or shipment["scan_form"] is not None


def _booking(shipment: Thing) -> carrier.Booking:
    to = shipment["to_address"]
    address = carrier.Destination(
        street=to["street1"], city=to["city"], postcode=to["zip"], country=to.get("country") or "US"
    )
    return carrier.Booking(
        reference=_reference(shipment),
        recipient=to["name"],
        address=address,
        lines=[carrier.Parcel(sku="parcel", quantity=1)],
    )


def _reference(shipment: Thing) -> str:
    return shipment["reference"] or str(shipment["id"])


def _ending_at(postcode: str) -> Ending:
    return ENDINGS.get(postcode, Ending())


def _at(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
