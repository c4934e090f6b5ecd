"""Payment's gateway against a real sandbox: every test token, every outcome."""

import asyncio
from uuid import UUID, uuid4

import pytest

from events.outbound.dispatcher import CallFailed, Gateway
from payment_svc.gateway import PaymentGateway, ProviderSettings, gateway_from
from payment_svc.payment import (
    AuthorisationDeclined,
    Authorise,
    Authorised,
    Calls,
    Capture,
    Captured,
    CaptureRefused,
    IssueCreditNote,
    Refund,
    Undone,
    UndoRefused,
    Void,
)
from tests.gateways.world import carry_out, in_short, settings_for
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox


def authorise(order_id: UUID, token: str = "tok_ok") -> Authorise:
    return Authorise(order_id=order_id, amount_minor=1250, currency="EUR", payment_token=token)


def test_it_is_a_gateway_to_the_runtime(payment: PaymentGateway) -> None:
    gateway: Gateway[Calls] = payment
    assert gateway is payment


async def test_charge_and_refund(payment: PaymentGateway, client: Client, order_id: UUID) -> None:
    assert await payment.perform(authorise(order_id)) == Authorised()
    assert await payment.perform(Capture(order_id=order_id)) == Captured()
    assert await payment.perform(Refund(order_id=order_id)) == Undone("refund")
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured", "refunded"]


async def test_a_repeated_call_counts_once(payment: PaymentGateway, client: Client, order_id: UUID) -> None:
    await payment.perform(authorise(order_id))
    outcomes = await asyncio.gather(*[payment.perform(Capture(order_id=order_id)) for _ in range(10)])
    assert outcomes == [Captured()] * 10
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured"]


@pytest.mark.parametrize(
    ("token", "reason"), [("tok_declined", "card_declined"), ("tok_misspelt", "unknown_token")]
)
async def test_a_declined_card(payment: PaymentGateway, order_id: UUID, token: str, reason: str) -> None:
    call = authorise(order_id, token)
    assert await payment.perform(call) == AuthorisationDeclined(reason)
    assert await payment.look_up(call) == AuthorisationDeclined(reason)


async def test_a_slow_provider_is_looked_up_after_the_timeout(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    outcome, failures = await carry_out(payment, authorise(order_id, "tok_slow"))
    assert (outcome, in_short(failures)) == (Authorised(), [("provider_timeout", True)])
    outcome, failures = await carry_out(payment, Capture(order_id=order_id))
    assert (outcome, in_short(failures)) == (Captured(), [("provider_timeout", True)])
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured"]


async def test_a_failing_provider_never_did_it_and_can_be_fenced(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    call = authorise(order_id, "tok_fails")
    outcome, failures = await carry_out(payment, call)
    assert (outcome, in_short(failures)) == (None, [("provider_answered_500", True)] * 4)
    assert await payment.look_up(call) is None
    assert await payment.perform(Void(order_id=order_id)) == Undone("void")
    late = Authorise(order_id=order_id, amount_minor=99, currency="EUR", payment_token="tok_ok")
    assert await payment.perform(late) == AuthorisationDeclined("reference_closed")
    assert await client.ledger_of(str(order_id)) == []


async def test_a_flaky_provider_does_it_at_the_third_attempt(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    for call, expected in (
        (authorise(order_id, "tok_flaky"), Authorised()),
        (Capture(order_id=order_id), Captured()),
    ):
        outcome, failures = await carry_out(payment, call)
        assert (outcome, in_short(failures)) == (expected, [("provider_answered_503", True)] * 2)
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured"]


async def test_a_lost_answer_is_found_and_charged_once(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    steps: list[tuple[Calls, object]] = [
        (authorise(order_id, "tok_lost"), Authorised()),
        (Capture(order_id=order_id), Captured()),
        (Refund(order_id=order_id), Undone("refund")),
    ]
    for call, expected in steps:
        outcome, failures = await carry_out(payment, call)
        assert (outcome, in_short(failures)) == (expected, [("provider_answer_lost", True)])
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured", "refunded"]


async def test_a_lost_void_is_found(payment: PaymentGateway, client: Client, order_id: UUID) -> None:
    await carry_out(payment, authorise(order_id, "tok_lost"))
    outcome, failures = await carry_out(payment, Void(order_id=order_id))
    assert (outcome, in_short(failures)) == (Undone("void"), [("provider_answer_lost", True)])
    assert await client.ledger_of(str(order_id)) == ["authorised", "voided"]


async def test_the_ladder_when_refunds_are_refused(payment: PaymentGateway, order_id: UUID) -> None:
    await payment.perform(authorise(order_id, "tok_refund_refused"))
    await payment.perform(Capture(order_id=order_id))
    void, refund = Void(order_id=order_id), Refund(order_id=order_id)
    assert await payment.perform(void) == UndoRefused(void, "captured")
    assert await payment.perform(refund) == UndoRefused(refund, "refund_refused")
    assert await payment.look_up(refund) == UndoRefused(refund, "refund_refused")
    assert await payment.perform(IssueCreditNote(order_id=order_id)) == Undone("credit_note")


async def test_the_ladder_when_everything_is_refused(payment: PaymentGateway, order_id: UUID) -> None:
    await payment.perform(authorise(order_id, "tok_undo_refused"))
    await payment.perform(Capture(order_id=order_id))
    note = IssueCreditNote(order_id=order_id)
    assert isinstance(await payment.perform(Refund(order_id=order_id)), UndoRefused)
    assert await payment.perform(note) == UndoRefused(note, "credit_note_refused")


async def test_money_that_is_back_already_is_back(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    """Somebody gave it back at the provider's own desk, under a key of theirs."""
    other = uuid4()
    for order, operation in ((order_id, "/provider/refunds"), (other, "/provider/credit-notes")):
        await payment.perform(authorise(order))
        await payment.perform(Capture(order_id=order))
        assert (await client.ask(operation, str(order)))[0] == 201
    assert await payment.perform(Void(order_id=order_id)) == Undone("refund")
    assert await payment.perform(Refund(order_id=order_id)) == Undone("refund")
    assert await payment.perform(Refund(order_id=other)) == Undone("credit_note")


async def test_a_refusal_stands_under_its_key_and_the_next_round_has_another(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    first, second = Refund(order_id=order_id), Refund(order_id=order_id, round=2)
    await payment.perform(authorise(order_id))
    assert await payment.perform(first) == UndoRefused(first, "not_captured")
    await payment.perform(Capture(order_id=order_id))
    assert await payment.perform(first) == UndoRefused(first, "not_captured")
    assert await payment.look_up(second) is None
    assert await payment.perform(second) == Undone("refund")
    assert await payment.look_up(first) == UndoRefused(first, "not_captured")
    assert await payment.look_up(second) == Undone("refund")
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured", "refunded"]


async def test_money_goes_back_once_in_however_many_rounds(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    """Also down the whole ladder, should it have been called refused by mistake."""
    await payment.perform(authorise(order_id))
    await payment.perform(Capture(order_id=order_id))
    for number in (1, 2, 3):
        for undo in (Refund, Void, IssueCreditNote):
            assert await payment.perform(undo(order_id=order_id, round=number)) == Undone("refund")
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured", "refunded"]


async def test_what_was_voided_cannot_be_captured(payment: PaymentGateway, order_id: UUID) -> None:
    await payment.perform(authorise(order_id))
    assert await payment.perform(Void(order_id=order_id)) == Undone("void")
    assert await payment.perform(Capture(order_id=order_id)) == CaptureRefused("voided")


async def test_nothing_authorised_is_nothing_to_capture(payment: PaymentGateway, order_id: UUID) -> None:
    assert await payment.perform(Capture(order_id=order_id)) == CaptureRefused("not_authorised")


async def test_a_call_never_made_is_not_found(payment: PaymentGateway, order_id: UUID) -> None:
    assert await payment.look_up(Refund(order_id=order_id)) is None


async def test_a_provider_that_loses_every_answer_charges_once(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    await payment.perform(authorise(order_id))
    await client.faults(target="provider", lose_answer_rate=1)
    outcome, failures = await carry_out(payment, Capture(order_id=order_id))
    assert (outcome, len(failures)) == (Captured(), 1)
    assert await client.ledger_of(str(order_id)) == ["authorised", "captured"]


async def test_a_look_up_that_fails_leaves_it_unknown(
    payment: PaymentGateway, client: Client, order_id: UUID
) -> None:
    await payment.perform(authorise(order_id))
    await client.faults(target="provider", fail_rate=1)
    with pytest.raises(CallFailed):
        await payment.look_up(authorise(order_id))


async def test_a_provider_away_is_reached_again(
    tmp_path_factory: pytest.TempPathFactory, order_id: UUID
) -> None:
    sandbox = new_sandbox(tmp_path_factory.mktemp("away"))
    gateway = gateway_from(settings_for(ProviderSettings, sandbox))
    await gateway.open()
    try:
        with pytest.raises(CallFailed) as failed:
            await gateway.perform(authorise(order_id))
        assert in_short([failed.value]) == [("provider_unreachable", False)]
        for _ in range(2):
            sandbox.start()
            outcome, failures = await carry_out(gateway, authorise(order_id))
            assert outcome == Authorised(), in_short(failures)
            sandbox.stop()
    finally:
        await gateway.close()


async def test_many_calls_through_few_connections(
    sandbox: SandboxProcess, client: Client, order_id: UUID
) -> None:
    settings = settings_for(ProviderSettings, sandbox, call_concurrency=3, call_timeout_seconds=5)
    gateway = gateway_from(settings)
    await gateway.open()
    try:
        outcomes = await asyncio.gather(*[gateway.perform(authorise(uuid4())) for _ in range(100)])
        assert outcomes == [Authorised()] * 100
    finally:
        await gateway.close()
