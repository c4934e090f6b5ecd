"""Payments by Stripe, on its official package.

    register             a PaymentIntent, not confirmed, of the PaymentMethod that the order's token is
    authorise            confirms it off-session
    capture              captures it
    void                 cancels it; where its id was never learned, creates it again under the same key first
    refund               a Refund of all of it
    issue_credit_note    credit on the balance of the Customer whose PaymentMethod it is

Each request has a key of its own, and a new one is never used where the old one may have worked. What became
of a request is read off the object, by its id: an error that Stripe saved under a key is answered for 24
hours, whatever the object says. Nothing is ever searched for, as a search lags behind.
"""

from collections.abc import AsyncIterator
from typing import Any, assert_never
from uuid import uuid4

import stripe

from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import HttpParty
from payment_svc.payment import (
    AuthorisationDeclined,
    Authorise,
    Authorised,
    Calls,
    Capture,
    CaptureRefused,
    Follow,
    IssueCreditNote,
    Pending,
    Refund,
    Register,
    Registered,
    Results,
    Stands,
    Undone,
    UndoRefused,
    Void,
)
from payment_svc.stripe_api import (
    ALREADY_REFUNDED,
    CANCELABLE,
    EXPIRED,
    MAX_PAGES,
    NOT_CHARGEABLE,
    NOT_NOW,
    PAGE,
    REFUND_PENDING,
    UNKNOWN_METHOD,
    Charge,
    Credit,
    Intent,
    Methods,
    Page,
    RefundObject,
    Transport,
    amount_there,
    authorisation_in,
    capture_in,
    failure_of,
    from_after,
    is_elsewhere,
    parsed,
    read,
    refusal,
    why_declined,
)


class StripePayments:
    """The gateway to Stripe. Every method raises CallFailed when another attempt may help."""

    def __init__(self, party: HttpParty, base_url: str, api_key: str) -> None:
        self._party = party
        # Nothing of us goes out but what was asked for.
        stripe.enable_telemetry = False
        # The package's own retries are off: the dispatcher's know whether the work may have been done.
        client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base_url},
            max_network_retries=0,
            http_client=Transport(party, base_url),
        )
        self._stripe, self._methods = client.v1, Methods(client.v1)

    async def open(self) -> None:
        """Get ready."""
        await self._party.open()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._party.close()

    async def perform(self, call: Calls) -> Results:
        """Do it, under the call's key."""
        try:
            match call:
                case Register():
                    return await self._register(call)
                case Authorise():
                    return await self._authorise(call)
                case Capture():
                    return await self._capture(call)
                case Void():
                    return await self._void(call)
                case Refund() | IssueCreditNote():
                    return await self._give_back(call)
                case Follow():
                    return await self._follow(call)
                case _:
                    assert_never(call)
        except stripe.StripeError as error:
            raise failure_of(error) from None

    async def look_up(self, call: Calls) -> Results | None:
        """What became of it, by the payment itself; None where it does not show."""
        if call.provider_payment is None:
            # No id was ever learned: whoever repeats the request under its key learns it.
            return None
        try:
            intent = await self._intent(call.provider_payment)
            match call:
                case Register():
                    return Registered(intent.id)
                case Authorise():
                    return authorisation_in(intent)
                case Capture():
                    return capture_in(intent)
                case Void():
                    return await self._voided(call, intent)
                case Refund() | IssueCreditNote():
                    return await self._given_back(call, intent)
                case Follow():
                    return None
                case _:
                    assert_never(call)
        except stripe.StripeError as error:
            raise failure_of(error) from None

    async def _register(self, call: Register) -> Registered | AuthorisationDeclined:
        amount = amount_there(call.amount_minor, call.currency)
        if amount is None:
            return AuthorisationDeclined(NOT_CHARGEABLE)
        try:
            method = await self._methods.of(call)
            asked: dict[str, Any] = {
                "amount": amount,
                "currency": call.currency.lower(),
                "capture_method": "manual",
                # Nobody is there who could be sent to a page of a bank.
                "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
                "payment_method": method.id,
                "metadata": {"order_id": str(call.order_id)},
            }
            if method.customer is not None:
                asked["customer"] = method.customer
            creating: Any = self._stripe.payment_intents.create_async
            intent = await read(Intent, creating(asked, {"idempotency_key": call.idempotency_key}))
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return AuthorisationDeclined(UNKNOWN_METHOD)
            return AuthorisationDeclined(refusal(error))
        return Registered(intent.id)

    async def _authorise(self, call: Authorise) -> Results:
        options: Any = {"idempotency_key": call.idempotency_key}
        confirming = self._stripe.payment_intents.confirm_async(_id_of(call), {"off_session": True}, options)
        try:
            intent = await read(Intent, confirming)
        except stripe.CardError as error:
            return AuthorisationDeclined(why_declined(error))
        except stripe.InvalidRequestError as error:
            if not is_elsewhere(error):
                return AuthorisationDeclined(refusal(error))
            intent = await self._intent(_id_of(call))
        if intent.status == "requires_action":
            # Nobody is there to act, and nobody may do so later.
            await self._canceled(intent.id, f"{call.idempotency_key}:unattended")
        known = authorisation_in(intent)
        if known is None:
            raise CallFailed(f"payment_intent_{intent.status}", maybe_done=False)
        return known

    async def _capture(self, call: Capture) -> Results:
        options: Any = {"idempotency_key": call.idempotency_key}
        capturing = self._stripe.payment_intents.capture_async(_id_of(call), {}, options)
        try:
            intent = await read(Intent, capturing)
        except stripe.CardError as error:
            return CaptureRefused(why_declined(error))
        except stripe.InvalidRequestError as error:
            if error.code == "charge_expired_for_capture":
                return CaptureRefused(EXPIRED)
            if not is_elsewhere(error):
                raise
            intent = await self._intent(_id_of(call))
            if intent.status in ("requires_confirmation", "requires_payment_method", "requires_action"):
                return CaptureRefused("not_authorised")
        known = capture_in(intent)
        if known is None:
            raise CallFailed(f"payment_intent_{intent.status}", maybe_done=True)
        return known

    async def _void(self, call: Void) -> Results:
        """Afterwards there is nothing that could be charged, whatever there was before."""
        intent_id = call.provider_payment
        if intent_id is None:
            assert call.registration is not None, "a payment without an id says how it was to be registered"
            registered = await self._register(call.registration)
            if isinstance(registered, AuthorisationDeclined):
                return Undone("void")
            intent_id = registered.provider_payment
        intent = await self._canceled(intent_id, call.idempotency_key)
        known = await self._voided(call, intent)
        if known is None:
            raise CallFailed(f"payment_intent_{intent.status}", maybe_done=False)
        return known

    async def _canceled(self, intent_id: str, key: str) -> Intent:
        """As it is once it was to be cancelled.

        An error that is kept under the key is answered for a day. Then the payment itself says what it came
        to, and to cancel what is not cancelled is no harm under another key: twice comes to the same.
        """
        try:
            return await self._cancel(intent_id, key)
        except CallFailed as failure:
            if not failure.replayed:
                raise
        intent = await self._intent(intent_id)
        if intent.status in CANCELABLE:
            return await self._cancel(intent_id, f"{key}:{uuid4().hex}")
        return intent

    async def _cancel(self, intent_id: str, key: str) -> Intent:
        options: Any = {"idempotency_key": key}
        try:
            return await read(Intent, self._stripe.payment_intents.cancel_async(intent_id, {}, options))
        except stripe.InvalidRequestError as error:
            if not is_elsewhere(error):
                raise
            return await self._intent(intent_id)

    async def _voided(self, call: Void, intent: Intent) -> Results | None:
        if intent.status == "canceled":
            return Undone("void")
        if intent.status != "succeeded":
            return None
        back = await self._is_back(call, intent)
        return UndoRefused(call, "captured") if back is None else back

    async def _give_back(self, call: Refund | IssueCreditNote) -> Results:
        """What is back already is found first: a key that is older than a day would do it once more."""
        intent = await self._intent(_id_of(call))
        if intent.status != "succeeded":
            return UndoRefused(call, "not_captured")
        known = await self._given_back(call, intent)
        if known is not None:
            return known
        if isinstance(call, Refund):
            return await self._refund(call, intent)
        return await self._credit(call, intent)

    async def _given_back(self, call: Refund | IssueCreditNote, intent: Intent) -> Results | None:
        if intent.status != "succeeded":
            return None
        return await self._is_back(call, intent)

    async def _is_back(self, call: Void | Refund | IssueCreditNote, intent: Intent) -> Results | None:
        """By which means the money is back, or on its way; or that it was refused under this very key."""
        refused: Results | None = None
        async for refund in self._refunds(intent.id):
            if refund.status == "succeeded":
                return Undone("refund")
            if refund.status in ("pending", "requires_action"):
                return Pending(REFUND_PENDING)
            if isinstance(call, Refund) and refund.metadata.get("key") == call.idempotency_key:
                refused = UndoRefused(call, refund.failure_reason or "refund_failed")
        if not isinstance(call, Void) and await self._is_credited(call, intent):
            return Undone("credit_note")
        return refused

    async def _refund(self, call: Refund, intent: Intent) -> Results:
        asked: Any = {"payment_intent": intent.id, "metadata": _marks(call)}
        options: Any = {"idempotency_key": call.idempotency_key}
        try:
            refund = await read(RefundObject, self._stripe.refunds.create_async(asked, options))
        except stripe.InvalidRequestError as error:
            if error.code in NOT_NOW:
                raise CallFailed(error.code, maybe_done=False) from None
            if error.code == ALREADY_REFUNDED:
                return Undone("refund")
            return UndoRefused(call, refusal(error, "refund_refused"))
        if refund.status in ("pending", "requires_action"):
            return Pending(REFUND_PENDING)
        if refund.status == "succeeded":
            return Undone("refund")
        return UndoRefused(call, refund.failure_reason or "refund_failed")

    async def _credit(self, call: IssueCreditNote, intent: Intent) -> Results:
        if intent.customer is None:
            return UndoRefused(call, "no_customer")
        asked: Any = {
            # What a customer is owed is negative.
            "amount": -intent.amount_received,
            "currency": intent.currency,
            "metadata": _marks(call),
        }
        options: Any = {"idempotency_key": call.idempotency_key}
        transactions = self._stripe.customers.balance_transactions
        try:
            await read(Credit, transactions.create_async(intent.customer, asked, options))
        except stripe.InvalidRequestError as error:
            return UndoRefused(call, refusal(error, "credit_note_refused"))
        return Undone("credit_note")

    async def _follow(self, call: Follow) -> Stands:
        intent = await self._intent(_id_of(call), with_charge=True)
        stands = await self._stands(call, intent)
        if stands.status == "pending" and not call.once:
            raise CallFailed("still_pending", maybe_done=False)
        return stands

    async def _stands(self, call: Follow, intent: Intent) -> Stands:
        charge = intent.latest_charge
        disputed = "disputed" if isinstance(charge, Charge) and charge.disputed else None
        if intent.status != "succeeded":
            match authorisation_in(intent):
                case Authorised():
                    return Stands("authorised", round=call.round)
                case AuthorisationDeclined(reason):
                    return Stands("declined", reason, round=call.round)
                case _:
                    return Stands("pending", round=call.round)
        failed: str | None = None
        async for refund in self._refunds(intent.id):
            if refund.status == "succeeded":
                return Stands("refunded", "", disputed, call.round)
            if refund.status in ("pending", "requires_action"):
                return Stands("pending", "", disputed, call.round)
            failed = failed or refund.failure_reason or "refund_failed"
        if failed is None:
            return Stands("captured", "", disputed, call.round)
        if await self._is_credited(call, intent):
            return Stands("credited", "", disputed, call.round)
        return Stands("refund_failed", failed, disputed, call.round)

    async def _is_credited(self, call: Calls, intent: Intent) -> bool:
        if intent.customer is None:
            return False
        async for credit in self._credits(intent):
            if credit.metadata.get("order_id") == str(call.order_id):
                return True
        return False

    async def _intent(self, intent_id: str, *, with_charge: bool = False) -> Intent:
        asked: Any = {"expand": ["latest_charge"]} if with_charge else {}
        return await read(Intent, self._stripe.payment_intents.retrieve_async(intent_id, asked))

    async def _refunds(self, intent_id: str) -> AsyncIterator[RefundObject]:
        after: str | None = None
        for _ in range(MAX_PAGES):
            asked: Any = {"payment_intent": intent_id, "limit": PAGE}
            page = await read(Page, self._stripe.refunds.list_async(asked | from_after(after)))
            refunds = [parsed(RefundObject, one) for one in page.data]
            for refund in refunds:
                yield refund
            if not page.has_more or not refunds:
                return
            after = refunds[-1].id
        raise CallFailed("too_many_refunds", maybe_done=True)

    async def _credits(self, intent: Intent) -> AsyncIterator[Credit]:
        """The credit that the payment's customer was given since, the latest first."""
        assert intent.customer is not None
        transactions = self._stripe.customers.balance_transactions
        after: str | None = None
        for _ in range(MAX_PAGES):
            asked: Any = {"limit": PAGE}
            page = await read(Page, transactions.list_async(intent.customer, asked | from_after(after)))
            credits_found = [parsed(Credit, one) for one in page.data]
            for credit in credits_found:
                if credit.created < intent.created:
                    return
                yield credit
            if not page.has_more or not credits_found:
                return
            after = credits_found[-1].id
        raise CallFailed("too_many_credits", maybe_done=True)


def _id_of(call: Calls) -> str:
    assert call.provider_payment is not None, "what is registered has an id"
    return call.provider_payment


def _marks(call: Refund | IssueCreditNote) -> dict[str, str]:
    return {"order_id": str(call.order_id), "key": call.idempotency_key}
