"""Stripe's objects as the sandbox keeps them: what is asked of each, and what becomes of it by itself.

A PaymentIntent moves the ledger's money for the order that its metadata name, by the rules of provider.py.
Test payment methods do what Stripe says of their names; the sandbox's own test tokens are methods, too.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, Literal

from compose.sandbox import provider
from compose.sandbox.http import OnReference
from compose.sandbox.operations import new_id
from compose.sandbox.provider import CARDS
from compose.sandbox.stripe_requests import (
    StripeProblem,
    amount_in,
    amount_minor_of,
    currency_in,
    invalid,
    not_found,
)

Object = dict[str, Any]
Later = Literal["succeeded", "failed"]
INTENT, REFUND, CREDIT, DISPUTE = "payment_intent", "refund", "customer_balance_transaction", "dispute"


@dataclass(frozen=True, slots=True)
class Method:
    """How a test payment method behaves: over a card of the sandbox, and what only Stripe's do.

    `declines` by this decline code. `unattended`: its bank wants its holder to act. `processing`: its
    authorisation is answered late. `refund_status`: how a refund begins; `refund_later`: how it ends.
    """

    card: str = "tok_ok"
    declines: str | None = None
    unattended: bool = False
    processing: Later | None = None
    refund_status: Literal["succeeded", "pending"] = "succeeded"
    refund_later: Later | None = None
    disputes: bool = False


METHODS: Mapping[str, Method] = {
    "pm_card_visa": Method(),
    "pm_card_mastercard": Method(),
    "pm_card_amex": Method(),
    "pm_card_chargeDeclined": Method(declines="generic_decline"),
    "pm_card_visa_chargeDeclined": Method(declines="generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": Method(declines="insufficient_funds"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": Method(declines="insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": Method(declines="lost_card"),
    "pm_card_authenticationRequired": Method(unattended=True),
    "pm_card_pendingRefund": Method(refund_status="pending", refund_later="succeeded"),
    "pm_card_refundFail": Method(refund_later="failed"),
    "pm_card_createDispute": Method(disputes=True),
    # Not of Stripe's: what its documents describe and no name of its makes happen.
    "pm_sandbox_processing": Method(processing="succeeded"),
    "pm_sandbox_processingDeclined": Method(processing="failed"),
    "pm_sandbox_pendingRefundFails": Method(refund_status="pending", refund_later="failed"),
    **{
        token: Method(token, declines="generic_decline" if card.declines else None)
        for token, card in CARDS.items()
    },
}


def seen(thing: Mapping[str, Any]) -> Object:
    """As it is shown: without what only the sandbox knows."""
    return {name: value for name, value in thing.items() if not name.startswith("_")}


class Objects:
    """All objects, within one step of the ledger. `emit` takes what happens to them, by the type of an event.

    `pending_seconds`: after how long what is pending ends by itself. `hold_seconds`: for how long what was
    authorised may be captured.
    """

    def __init__(
        self,
        db: Connection,
        now: float,
        emit: Callable[[str, Object], None],
        *,
        pending_seconds: float,
        hold_seconds: float,
    ) -> None:
        self._db = db
        self._now = now
        self._emit = emit
        self._pending_seconds = pending_seconds
        self._hold_seconds = hold_seconds

    def find(self, kind: str, object_id: str) -> Object:
        """One of them. Raises StripeProblem (404)."""
        row = self._db.execute(
            "SELECT content FROM stripe_objects WHERE id = ? AND kind = ?", (object_id, kind)
        ).fetchone()
        if row is None:
            raise not_found(f"{kind}: '{object_id}'")
        return dict(json.loads(row["content"]))

    def of_parent(self, kind: str, parent: str, after: str | None, limit: int) -> tuple[list[Object], bool]:
        """Those of one parent, the latest first, and whether there are more."""
        before = self._db.execute("SELECT rowid FROM stripe_objects WHERE id = ?", (after,)).fetchone()
        rows = self._db.execute(
            "SELECT content FROM stripe_objects WHERE kind = ? AND parent = ? AND rowid < ?"
            " ORDER BY rowid DESC LIMIT ?",
            (kind, parent, before["rowid"] if before else 2**62, limit + 1),
        ).fetchall()
        return [json.loads(row["content"]) for row in rows[:limit]], len(rows) > limit

    def create_intent(self, asked: Mapping[str, Any]) -> Object:
        """Unconfirmed, with manual capture."""
        amount = amount_in(asked)
        method = str(asked.get("payment_method", ""))
        if method not in METHODS:
            raise invalid("resource_missing", f"No such PaymentMethod: '{method}'", param="payment_method")
        if asked.get("capture_method") != "manual":
            raise invalid("parameter_invalid", "the sandbox captures manually", param="capture_method")
        metadata = dict(asked.get("metadata") or {})
        intent = {
            "id": new_id("pi"),
            "object": INTENT,
            "amount": amount,
            "amount_capturable": 0,
            "amount_received": 0,
            "cancellation_reason": None,
            "capture_method": "manual",
            "created": int(self._now),
            "currency": currency_in(asked),
            "customer": asked.get("customer"),
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": metadata,
            "payment_method": method,
            "status": "requires_confirmation",
            "_method": method,
            "_disputed": False,
        }
        intent["_reference"] = metadata.get("order_id") or intent["id"]
        self._save(intent)
        self._emit("payment_intent.created", seen(intent))
        return intent

    def confirm(self, intent: Object) -> Object:
        """Authorise it. Raises StripeProblem, 402 when it is declined: that is kept with it as well."""
        _expect(intent, "requires_confirmation")
        method = METHODS[intent["_method"]]
        if method.processing is not None:
            self._become(intent, "processing", due_in=self._pending_seconds)
            self._emit("payment_intent.processing", seen(intent))
            return intent
        self._authorise(intent, method)
        return intent

    def _authorise(self, intent: Object, method: Method) -> None:
        if method.unattended:
            self._decline(intent, "authentication_required", "authentication_required")
        elif method.declines is not None:
            self._decline(intent, "card_declined", method.declines)
        else:
            wanted = provider.Authorisation(
                reference=intent["_reference"],
                amount_minor=amount_minor_of(intent["amount"], intent["currency"]),
                currency=intent["currency"].upper(),
                payment_token=method.card,
            )
            answer = provider.authorise(self._db, wanted)
            if answer.http_status != 201:
                # Of one order twice: Stripe would do it, and the ledger shows that nobody asks for it.
                self._decline(intent, "card_declined", "duplicate_transaction")
                return
            intent["latest_charge"] = new_id("ch")
            intent["amount_capturable"] = intent["amount"]
            self._become(intent, "requires_capture", due_in=self._hold_seconds)
            self._emit("payment_intent.amount_capturable_updated", seen(intent))

    def _decline(self, intent: Object, code: str, decline_code: str) -> None:
        error = {"type": "card_error", "code": code, "decline_code": decline_code, "message": "Declined."}
        intent["last_payment_error"] = error
        intent["payment_method"] = None
        self._become(intent, "requires_payment_method")
        self._emit("payment_intent.payment_failed", seen(intent))

    def capture(self, intent: Object) -> Object:
        """Take what was authorised."""
        _expect(intent, "requires_capture")
        provider.capture(self._db, OnReference(reference=intent["_reference"]))
        intent["amount_received"], intent["amount_capturable"] = intent["amount"], 0
        disputes = METHODS[intent["_method"]].disputes
        self._become(intent, "succeeded", due_in=self._pending_seconds if disputes else None)
        self._emit("payment_intent.succeeded", seen(intent))
        return intent

    def cancel(self, intent: Object, reason: str | None = None) -> Object:
        """Let go of it."""
        _expect(intent, "requires_confirmation", "requires_payment_method", "requires_capture")
        if intent["status"] == "requires_capture":
            provider.void(self._db, OnReference(reference=intent["_reference"]))
        intent["cancellation_reason"], intent["amount_capturable"] = reason, 0
        self._become(intent, "canceled")
        self._emit("payment_intent.canceled", seen(intent))
        return intent

    def create_refund(self, asked: Mapping[str, Any]) -> Object:
        """Of all that was captured."""
        intent = self.find(INTENT, str(asked.get("payment_intent", "")))
        _expect(intent, "succeeded")
        if intent["_disputed"]:
            raise invalid("charge_disputed", "The charge is disputed.")
        refunds, _ = self.of_parent(REFUND, intent["id"], None, 100)
        if any(refund["status"] in ("pending", "succeeded") for refund in refunds):
            raise invalid("charge_already_refunded", "The charge has already been refunded.")
        method = METHODS[intent["_method"]]
        refund = {
            "id": new_id("re"),
            "object": REFUND,
            "amount": intent["amount"],
            "charge": intent["latest_charge"],
            "created": int(self._now),
            "currency": intent["currency"],
            "failure_reason": None,
            "metadata": dict(asked.get("metadata") or {}),
            "payment_intent": intent["id"],
            "status": method.refund_status,
            "_parent": intent["id"],
            "_reference": intent["_reference"],
            "_becomes": method.refund_later,
        }
        due_in = self._pending_seconds if method.refund_later else None
        if not provider.card_of(method.card).refunds:
            refund["status"], refund["failure_reason"] = "failed", "expired_or_canceled_card"
        elif method.refund_later is None:
            answer = provider.refund(self._db, OnReference(reference=intent["_reference"]))
            if answer.http_status != 201:
                raise invalid("charge_already_refunded", "The money is back already.")
        self._save(refund, due_in)
        self._emit("refund.created", seen(refund))
        return refund

    def create_credit(self, customer: str, asked: Mapping[str, Any]) -> Object:
        """What a customer is owed for an order."""
        amount = amount_in(asked)
        if amount >= 0:
            raise invalid("parameter_invalid_integer", "a credit is negative", param="amount")
        metadata = dict(asked.get("metadata") or {})
        answer = provider.issue_credit_note(
            self._db, OnReference(reference=metadata.get("order_id") or "none")
        )
        if answer.http_status != 201:
            raise invalid(answer.body["reason"], "The credit is refused.")
        credit = {
            "id": new_id("cbtxn"),
            "object": CREDIT,
            "amount": amount,
            "created": int(self._now),
            "currency": currency_in(asked),
            "customer": customer,
            "ending_balance": amount,
            "metadata": metadata,
            "type": "adjustment",
            "_parent": customer,
        }
        self._save(credit)
        return credit

    def charge_of(self, intent: Object) -> Object:
        """Its charge, where it is asked for in full."""
        refunds, _ = self.of_parent(REFUND, intent["id"], None, 100)
        refunded = any(refund["status"] == "succeeded" for refund in refunds)
        return {
            "id": intent["latest_charge"],
            "object": "charge",
            "amount": intent["amount"],
            "amount_refunded": intent["amount"] if refunded else 0,
            "captured": intent["status"] == "succeeded",
            "disputed": intent["_disputed"],
            "payment_intent": intent["id"],
            "refunded": refunded,
        }

    def go_on(self) -> None:
        """Whatever is due to happen by itself: holds that expire, what was pending, disputes."""
        rows = self._db.execute(
            "SELECT content FROM stripe_objects WHERE due_at <= ? ORDER BY due_at LIMIT 100", (self._now,)
        ).fetchall()
        for row in rows:
            thing: Object = json.loads(row["content"])
            if thing["object"] == REFUND:
                self._end_refund(thing)
            elif thing["status"] == "requires_capture":
                self.cancel(thing, "automatic")
            elif thing["status"] == "processing":
                method = METHODS[thing["_method"]]
                declines = "do_not_honor" if method.processing == "failed" else None
                self._authorise(thing, Method(method.card, declines=declines))
            else:
                self._dispute(thing)

    def _end_refund(self, refund: Object) -> None:
        if refund["_becomes"] == "succeeded":
            provider.refund(self._db, OnReference(reference=refund["_reference"]))
            self._become(refund, "succeeded")
            self._emit("refund.updated", seen(refund))
        else:
            refund["failure_reason"] = "lost_or_stolen_card"
            self._become(refund, "failed")
            self._emit("refund.failed", seen(refund))

    def _dispute(self, intent: Object) -> None:
        dispute = {
            "id": new_id("dp"),
            "object": DISPUTE,
            "amount": intent["amount"],
            "charge": intent["latest_charge"],
            "created": int(self._now),
            "currency": intent["currency"],
            "payment_intent": intent["id"],
            "reason": "fraudulent",
            "status": "needs_response",
            "_parent": intent["id"],
        }
        intent["_disputed"] = True
        self._save(intent)
        self._save(dispute)
        self._emit("charge.dispute.created", seen(dispute))

    def _become(self, thing: Object, status: str, due_in: float | None = None) -> None:
        thing["status"] = status
        self._save(thing, due_in)

    def _save(self, thing: Object, due_in: float | None = None) -> None:
        self._db.execute(
            "INSERT INTO stripe_objects (id, kind, parent, content, due_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET content = excluded.content, due_at = excluded.due_at",
            (
                thing["id"],
                thing["object"],
                thing.get("_parent"),
                json.dumps(thing),
                None if due_in is None else self._now + due_in,
            ),
        )


def method_of(name: str) -> Object:
    """A test payment method, saved with a customer of its own. Raises StripeProblem (404)."""
    if name not in METHODS:
        raise not_found(f"PaymentMethod: '{name}'", "payment_method")
    return {"id": name, "object": "payment_method", "customer": f"cus_{name}", "type": "card"}


def declined(intent: Object) -> StripeProblem | None:
    """What a confirmation is answered that was declined."""
    error = intent["last_payment_error"]
    if intent["status"] != "requires_payment_method" or error is None:
        return None
    more = {"decline_code": error["decline_code"], "payment_intent": seen(intent)}
    return StripeProblem(402, "card_error", error["code"], error["message"], **more)


def _expect(intent: Object, *statuses: str) -> None:
    if intent["status"] not in statuses:
        raise invalid(
            "payment_intent_unexpected_state",
            f"This PaymentIntent has a status of {intent['status']}.",
            payment_intent=seen(intent),
        )
