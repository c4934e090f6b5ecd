"""What payment_svc counts on, of every adapter to a payment provider: its promises, and each fault."""

import asyncio
from pathlib import Path

import pytest

from events.decision import Outcome
from events.outbound.dispatcher import CallFailed
from payment_svc.payment import (
    SANDBOX,
    AuthorisationDeclined,
    Authorised,
    Calls,
    Capture,
    Captured,
    CaptureRefused,
    IssueCreditNote,
    Refund,
    Registered,
    Undone,
    UndoRefused,
    Void,
)
from tests.gateways.conformance.conftest import New, payment_gateway
from tests.gateways.conformance.faulty import Fault, Faulty
from tests.gateways.conformance.payments import Paying
from tests.gateways.http_server import Server, listening
from tests.gateways.world import make_certificate
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox

CHARGED = ["authorised", "captured"]
BACK: tuple[type[Refund | IssueCreditNote | Void], ...] = (Refund, IssueCreditNote, Void)


async def moved(client: Client, paying: Paying) -> list[str]:
    return await client.ledger_of(str(paying.order_id))


async def test_it_charges_and_gives_back(new: New, client: Client) -> None:
    paying = new()
    assert await paying.authorise() == Authorised()
    assert await moved(client, paying) == ["authorised"]
    assert await paying.gateway.perform(paying.call(Capture)) == Captured()
    assert await paying.gateway.perform(paying.call(Refund)) == Undone("refund")
    assert await moved(client, paying) == [*CHARGED, "refunded"]


@pytest.mark.parametrize(
    ("amount_minor", "currency"),
    [(1250, "EUR"), (1250, "JPY"), (7, "ISK"), (7, "UGX"), (300, "MGA"), (1230, "KWD")],
)
async def test_what_is_charged_is_what_was_ordered(
    new: New, client: Client, amount_minor: int, currency: str
) -> None:
    """Whatever a provider counts in."""
    paying = await new(amount_minor=amount_minor, currency=currency).captured()
    assert await paying.gateway.perform(paying.call(Refund)) == Undone("refund")
    entries = await client.entries_of(str(paying.order_id))
    assert {(entry["amount_minor"], entry["currency"]) for entry in entries} == {(amount_minor, currency)}


@pytest.mark.parametrize("kind", [Capture, Refund, IssueCreditNote])
async def test_however_often_it_is_asked_it_counts_once(
    new: New, client: Client, kind: type[Capture | Refund | IssueCreditNote]
) -> None:
    paying = new()
    await (paying.authorise() if kind is Capture else paying.captured())
    outcomes = await asyncio.gather(*(paying.carry_out(paying.call(kind)) for _ in range(8)))
    assert len({outcome for outcome, _ in outcomes}) == 1
    assert len(await moved(client, paying)) == (2 if kind is Capture else 3)


@pytest.mark.parametrize("token", ["tok_declined", "tok_misspelt"])
async def test_a_declined_card_is_a_reason_and_no_charge(new: New, client: Client, token: str) -> None:
    paying = new(token)
    outcome = await paying.authorise()
    assert isinstance(outcome, AuthorisationDeclined)
    assert outcome.reason in ("card_declined", "unknown_token", "unknown_payment_method")
    assert await moved(client, paying) == []


async def test_a_void_lets_go_of_what_was_authorised(new: New, client: Client) -> None:
    paying = new()
    await paying.authorise()
    assert await paying.gateway.perform(paying.call(Void)) == Undone("void")
    assert await paying.gateway.perform(paying.call(Void, 2)) == Undone("void")
    assert await paying.gateway.perform(paying.call(Capture)) == CaptureRefused("voided")
    assert await moved(client, paying) == ["authorised", "voided"]


async def test_a_void_of_nothing_is_a_fence(new: New, client: Client) -> None:
    """Whoever lost the first answer can make sure that nothing will be charged, whatever comes late."""
    paying = new()
    assert await paying.gateway.perform(paying.fence) == Undone("void")
    assert isinstance(await paying.authorise(), AuthorisationDeclined)
    assert await moved(client, paying) == []


async def test_a_void_of_what_was_registered_and_not_learned_is_a_fence(new: New, client: Client) -> None:
    paying = new()
    await paying.register()
    assert await paying.gateway.perform(paying.fence) == Undone("void")
    assert isinstance(await paying.gateway.perform(paying.authorisation), AuthorisationDeclined)
    assert await moved(client, paying) == []


async def test_what_was_captured_cannot_be_voided(new: New) -> None:
    paying = await new().captured()
    void = paying.call(Void)
    assert await paying.gateway.perform(void) == UndoRefused(void, "captured")


async def test_nothing_authorised_is_nothing_to_capture_or_to_give_back(new: New) -> None:
    paying = new()
    await paying.register()
    refund = paying.call(Refund)
    assert await paying.gateway.perform(paying.call(Capture)) == CaptureRefused("not_authorised")
    assert await paying.gateway.perform(refund) == UndoRefused(refund, "not_captured")


async def test_a_credit_note_where_refunds_are_refused(new: New, client: Client) -> None:
    paying = await new("tok_refund_refused").captured()
    refund = paying.call(Refund)
    assert isinstance(await paying.gateway.perform(refund), UndoRefused)
    assert isinstance(await paying.gateway.look_up(refund), UndoRefused)
    assert await paying.gateway.perform(paying.call(IssueCreditNote)) == Undone("credit_note")
    assert await moved(client, paying) == [*CHARGED, "credited"]


async def test_what_is_refused_everywhere_is_refused(new: New, client: Client) -> None:
    paying = await new("tok_undo_refused").captured()
    for kind in BACK[:2]:
        assert isinstance(await paying.gateway.perform(paying.call(kind)), UndoRefused)
    assert await moved(client, paying) == CHARGED


async def test_money_goes_back_once_in_however_many_rounds(new: New, client: Client) -> None:
    paying = await new().captured()
    for number in (1, 2, 3):
        for undo in BACK:
            assert await paying.gateway.perform(paying.call(undo, number)) == Undone("refund")
    assert await moved(client, paying) == [*CHARGED, "refunded"]


# Each operation: what it is asked of, what it comes to, and what the ledger has then.
OPERATIONS = ["register", "authorise", "capture", "void", "refund", "credit note"]


async def begun(paying: Paying, operation: str) -> tuple[Calls, Outcome | None, list[str]]:
    match operation:
        case "register":
            return paying.registration, None, []
        case "authorise":
            await paying.register()
            return paying.authorisation, Authorised(), ["authorised"]
        case "capture":
            await paying.authorise()
            return paying.call(Capture), Captured(), CHARGED
        case "void":
            await paying.authorise()
            return paying.call(Void), Undone("void"), ["authorised", "voided"]
        case "refund":
            await paying.captured()
            return paying.call(Refund), Undone("refund"), [*CHARGED, "refunded"]
        case _:
            await paying.captured()
            return paying.call(IssueCreditNote), Undone("credit_note"), [*CHARGED, "credited"]


def is_not_there(paying: Paying, operation: str, fault: Fault) -> bool:
    """Payments have no ids there, and what is under way under a key is waited for."""
    return paying.provider == SANDBOX and (operation == "register" or fault is Fault.IN_USE)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", Fault)
async def test_whatever_goes_wrong_it_is_done_once_and_known(
    new: New, between: Faulty, client: Client, fault: Fault, operation: str
) -> None:
    paying = new()
    if is_not_there(paying, operation, fault):
        return
    call, expected, ledger = await begun(paying, operation)
    between.meets(fault)
    outcome, failures = await paying.carry_out(call)
    if operation == "register" and fault is Fault.SAVED_AFTER:
        # Its id is in the answer that is lost for good. Nothing was charged, nor can be, without an id.
        assert outcome is None
    elif operation == "register":
        assert isinstance(outcome, Registered)
    else:
        assert outcome == expected
    assert failures[0].maybe_done == (fault is not Fault.LIMITED)
    assert failures[0].wait_seconds == (3 if fault is Fault.LIMITED else 0)
    assert await moved(client, paying) == ledger


async def test_what_was_read_for_a_registration_is_not_read_again(new: New, between: Faulty) -> None:
    """Under a limit of requests each one more would meet it."""
    paying = new()
    if is_not_there(paying, "register", Fault.LIMITED):
        return
    between.meets(Fault.LIMITED, times=2)
    outcome, failures = await paying.carry_out(paying.registration)
    assert isinstance(outcome, Registered)
    assert len(failures) == 2
    assert len([asked for asked in between.asked if asked.startswith("GET")]) == 1


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "register"])
async def test_an_error_that_is_saved_before_the_work_is_never_taken_for_the_work(
    new: New, between: Faulty, client: Client, operation: str
) -> None:
    """However often it is asked: nobody says that it was done, and nobody that it was refused."""
    paying = new()
    call, _, _ = await begun(paying, operation)
    before = await moved(client, paying)
    between.saves_before = True
    outcome, failures = await paying.carry_out(call)
    between.saves_before = False
    assert outcome is None
    assert {failure.maybe_done for failure in failures} == {True}
    assert await moved(client, paying) == before
    if operation in ("authorise", "capture"):
        assert await paying.gateway.perform(paying.call(Void)) == Undone("void")


async def test_a_void_is_not_stuck_behind_an_error_that_is_saved_under_its_key(
    new: New, between: Faulty, client: Client
) -> None:
    """For as long as such an error is kept, a day, what was authorised would else be set aside."""
    paying = new()
    await paying.authorise()
    void = paying.call(Void)
    between.saves_before = True
    assert (await paying.carry_out(void))[0] is None
    between.saves_before = False
    # The sandbox saves no errors, so there it is the proxy alone that never lets this key through again.
    if paying.provider == SANDBOX:
        return
    assert (await paying.carry_out(void))[0] == Undone("void")
    assert await moved(client, paying) == ["authorised", "voided"]


async def test_a_look_up_that_is_not_answered_leaves_it_unknown(
    new: New, client: Client, sandbox: SandboxProcess
) -> None:
    paying = new()
    await paying.authorise()
    await client.faults(target="provider", fail_rate=1)
    with pytest.raises(CallFailed):
        await paying.gateway.look_up(paying.call(Capture))


async def test_a_party_that_is_away_did_nothing(
    sandbox: SandboxProcess, adapter: str, tmp_path: Path
) -> None:
    gateway = payment_gateway(sandbox, new_sandbox(tmp_path).url)
    try:
        paying = Paying(gateway, adapter, provider_payment="pi_1")
        with pytest.raises(CallFailed) as failure:
            await gateway.perform(paying.call(Capture))
        assert not failure.value.maybe_done
    finally:
        await gateway.close()


async def test_a_certificate_that_nobody_vouches_for_is_no_party(
    sandbox: SandboxProcess, adapter: str, tmp_path: Path
) -> None:
    _, tls = await make_certificate(tmp_path)
    server = Server()
    spare = new_sandbox(tmp_path)
    server.port = spare.http_port
    async with listening(server, tls):
        gateway = payment_gateway(sandbox, f"https://localhost:{server.port}")
        try:
            paying = Paying(gateway, adapter, provider_payment="pi_1")
            with pytest.raises(CallFailed) as failure:
                await gateway.perform(paying.call(Capture))
            assert not failure.value.maybe_done
        finally:
            await gateway.close()
    assert server.asked == []
