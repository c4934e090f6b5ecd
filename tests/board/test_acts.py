"""What a page updates by itself, what stays as it was meanwhile, the keys, and what its buttons do."""

import json
import re
from uuid import UUID, uuid4

from playwright.async_api import Browser, Page, expect
from pydantic import SecretStr

from events.facts.saga import RetryRequested, Settled
from events.http.authentication import Acting
from tests.board.stage import Stage, looking, running_stage
from tests.runtime.eventually import eventually
from tests.servers import Servers
from tests.tracker.dead_letters import BENS, TOKEN, give_up, unusable
from tests.tracker.facts import envelopes


async def sign(form: Page, act: str, note: str = "because of a test") -> None:
    """Open an act and fill in who does it and why."""
    box = form.locator(act)
    await box.locator("summary").first.click()
    await box.locator("input[name=token]").fill(TOKEN)
    await box.locator("input[name=note]").fill(note)


async def test_a_page_updates_itself_and_what_is_open_stays_open(browser: Browser, stage: Stage) -> None:
    order = await stage.say("live", "created reserved")
    async with looking(browser, stage) as (page, _):
        await page.goto(f"/ui/sagas/{order}")
        await page.locator("tr[id^=fact-] summary").first.click()
        act = page.locator("details.act").first
        await act.locator("summary").first.click()
        await act.locator("input[name=note]").fill("half a senten")
        await page.locator("h1").click()
        await stage.watch.say(*envelopes("created reserved captured", order)[2:])
        await expect(page.locator("main")).to_contain_text("PENDING_SHIPMENT", timeout=60_000)
        assert await page.locator("tr[id^=fact-] details").first.evaluate("each => each.open")
        assert await act.evaluate("each => each.open")
        assert await act.locator("input[name=note]").input_value() == "half a senten"


async def test_a_new_saga_shows_up_in_the_list(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, _):
        await page.goto("/ui/sagas")
        order = await stage.say("newest", "created")
        await expect(page.locator(f"#saga-{order}")).to_be_visible(timeout=60_000)


async def test_keys_find_choose_open_and_explain(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, _):
        await page.goto("/ui/sagas")
        await page.keyboard.press("?")
        await expect(page.locator("#keys")).to_be_visible()
        await page.keyboard.press("?")
        await expect(page.locator("#keys")).to_be_hidden()
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await page.keyboard.press("k")
        chosen = page.locator("tr.chosen")
        assert await chosen.count() == 1
        address = await chosen.get_attribute("data-href")
        await page.keyboard.press("Enter")
        await page.wait_for_url(re.compile(f"{address}$"))
        await page.keyboard.press("/")
        await page.keyboard.type(str(stage.orders["completed"]))
        await page.keyboard.press("Enter")
        await page.wait_for_url(re.compile(f"/ui/sagas/{stage.orders['completed']}$"))


async def test_filters_are_in_the_address_and_lead_to_files(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, _):
        await page.goto("/ui/sagas")
        await page.locator("select[name=state]").select_option("NEEDS_MANUAL")
        await page.get_by_role("button", name="Find").click()
        await page.wait_for_url(re.compile("state=NEEDS_MANUAL"))
        assert await page.locator("tr[id^=saga-]").count() == 1
        async with page.expect_download() as download:
            await page.get_by_role("link", name="as CSV").click()
        text = (await (await download.value).path()).read_text()
        assert text.splitlines()[0].startswith("order_id,state,since")
        assert [line.split(",")[0] for line in text.splitlines()[1:]] == [str(stage.orders["manual"])]


async def test_an_act_wants_who_why_and_a_yes(browser: Browser, stage: Stage) -> None:
    order = await stage.say("to settle", "created reserved captured shipment_rejected refund_failed")
    async with looking(browser, stage) as (page, looked):
        looked.expected = (401, 422)
        await page.goto(f"/ui/sagas/{order}")
        await sign(page, "details[id^=act-settle]")
        act = page.locator("details[id^=act-settle]")
        assert "as if it had succeeded" in await act.inner_text()
        await act.locator("input[name=token]").fill("another")
        await act.locator("input[name=confirm]").check()
        await act.get_by_role("button", name="Settle").click()
        await expect(page.locator("main")).to_contain_text("bearer token")
        settled = await stage.watch.receive(Settled)
        await page.goto(f"/ui/sagas/{order}")
        await sign(page, "details[id^=act-settle]", "the bank paid it back")
        await act.locator("input[name=confirm]").check()
        await act.get_by_role("button", name="Settle").click()
        await page.wait_for_url(re.compile("done=settle"))
        await expect(page.locator("main")).to_contain_text("the bank paid it back")
        assert await settled.get(timeout=20) is not None


async def test_what_moves_money_is_not_for_an_operator(browser: Browser, stage: Stage) -> None:
    order = await stage.say("not to settle", "created reserved captured shipment_rejected refund_failed")
    async with looking(browser, stage) as (page, looked):
        looked.expected = (403,)
        await page.goto(f"/ui/sagas/{order}")
        await sign(page, "details[id^=act-settle]")
        act = page.locator("details[id^=act-settle]")
        await act.locator("input[name=token]").fill(BENS)
        await act.locator("input[name=confirm]").check()
        await act.get_by_role("button", name="Settle").click()
        await expect(page.locator("main")).to_contain_text("this takes the role approver; ben is operator")
    assert not await stage.watch.rows("SELECT FROM audit WHERE order_id = %(id)s", id=order)


async def test_an_approval_goes_to_payment_in_the_name_of_who_gives_it(
    browser: Browser, stage: Stage
) -> None:
    order = stage.orders["held"]
    async with looking(browser, stage) as (page, looked):
        looked.expected = (409,)
        for refuses in (False, True):
            stage.payment.refuses = refuses
            await page.goto(f"/ui/sagas/{order}")
            await sign(page, "details[id^=act-approve]", "known customer")
            act = page.locator("details[id^=act-approve]")
            assert (
                "40.00 EUR, which is above the limit of 10.00 EUR, is charged now" in await act.inner_text()
            )
            await act.locator("input[name=confirm]").check()
            await act.get_by_role("button", name="Approve").click()
            outcome = (
                "payment says: the payment is not held: captured" if refuses else "The payment goes ahead."
            )
            await expect(page.locator("main")).to_contain_text(outcome)
    path, token, body = stage.payment.asked[0]
    assert (path, token) == (f"/payments/{order}/approve", f"Bearer {TOKEN}")
    assert json.loads(body) == {"note": "known customer"}


async def test_who_signed_in_approves_and_cancels_without_a_token(browser: Browser, servers: Servers) -> None:
    machines = SecretStr("the-machines")
    async with running_stage(servers, admin_token=machines) as stage, looking(browser, stage) as (page, _):
        order = await stage.say("held", "created reserved held")
        await page.goto("/sign-in")
        await page.locator("main input[name=token]").fill(TOKEN)
        await page.locator("main").get_by_role("button", name="Sign in").click()
        await page.goto(f"/ui/sagas/{order}")
        act = page.locator("details[id^=act-approve]")
        await act.locator("summary").first.click()
        assert await page.locator("main input[name=token]").count() == 0
        await act.locator("input[name=note]").fill("known customer")
        await act.locator("input[name=confirm]").check()
        await act.get_by_role("button", name="Approve").click()
        await page.wait_for_url(re.compile("done=approve"))
        (path, token, body), (assertion,) = stage.payment.asked[0], stage.payment.acting_for
        assert (path, token) == (f"/payments/{order}/approve", f"Bearer {machines.get_secret_value()}")
        assert json.loads(body) == {"note": "known customer"}
        who = Acting(stage.tracker.settings).read(assertion, "POST", path)
        assert (who.name, who.role, who.signed_in_by) == ("anna", "admin", "named token, at the tracker")


async def test_the_first_page_tells_what_services_say_of_themselves(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, _):
        await page.goto("/")
        main = page.locator("main")
        await expect(main).to_contain_text("counts as down: it is only probed")
        await expect(main).to_contain_text("12.5 s")
        await expect(main).to_contain_text(re.compile(r"circuit to provider\s*open"))
        await expect(main.get_by_role("region", name="Incidents")).to_contain_text(
            "nobody consumes its queue"
        )


async def test_an_incident_leads_to_the_sagas_that_wait_for_its_cause(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, _):
        cause = "provider did not answer in time"
        incident = page.locator("tr", has=page.get_by_role("link", name=cause))

        async def shown() -> bool:
            await page.goto("/")
            return await incident.count() > 0

        await eventually(shown, why="payment was asked")
        sagas = int(await incident.first.locator("td.number").inner_text())
        await incident.first.get_by_role("link", name=cause).click()
        await page.wait_for_url(re.compile(r"waiting_for=payment&cause=provider\+did\+not"))
        assert await page.locator("tr[id^=saga-]").count() == sagas
        assert await page.locator("input[name=cause]").input_value() == cause
        await page.locator("input[name=cause]").fill("nothing of the kind")
        await page.get_by_role("button", name="Find").click()
        await expect(page.locator("main")).to_contain_text("None.")


async def test_who_signed_in_acts_without_a_token(browser: Browser, stage: Stage) -> None:
    order = await stage.say("signed in", "created reserved captured shipment_rejected refund_failed")
    async with looking(browser, stage) as (page, looked):
        looked.expected = (403,)
        await page.goto(f"/ui/sagas/{order}")
        await page.get_by_role("link", name="Sign in").click()
        await page.locator("main input[name=token]").fill(BENS)
        await page.locator("main").get_by_role("button", name="Sign in").click()
        await expect(page.locator("header")).to_contain_text("ben (operator)")
        await page.goto(f"/ui/sagas/{order}")
        for verb, button in (("settle", "Settle"), ("redrive", "Redrive")):
            act = page.locator(f"details[id^=act-{verb}]")
            await act.locator("summary").first.click()
            assert await act.locator("input[name=token]").count() == 0
            await act.locator("input[name=note]").fill("signed in")
            await act.locator("input[name=confirm]").check()
            await act.get_by_role("button", name=button).click()
            if verb == "settle":
                await expect(page.locator("main")).to_contain_text("this takes the role approver")
                await page.go_back()
        await page.wait_for_url(re.compile("done=redrive"))
        # A form that no page of ours made is refused.
        answer = await page.request.post(
            f"/ui/sagas/{order}/redrive", form={"note": "forged", "confirm": "yes"}, max_redirects=0
        )
        assert answer.status == 403
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.locator("header")).to_contain_text("Sign in")


async def test_an_act_works_without_scripts(browser: Browser, stage: Stage) -> None:
    order = await stage.say("to redrive", "created reserved captured shipment_rejected refund_failed")
    asked = await stage.watch.receive(RetryRequested)
    async with looking(browser, stage, scripts=False) as (page, _):
        await page.goto(f"/ui/sagas/{order}")
        await sign(page, "details[id^=act-redrive]")
        act = page.locator("details[id^=act-redrive]")
        await act.locator("input[name=confirm]").check()
        await act.get_by_role("button", name="Redrive").click()
        await page.wait_for_url(re.compile("done=redrive"))
    assert await asked.get(timeout=20) is not None


async def test_a_case_is_claimed_once(browser: Browser, stage: Stage) -> None:
    order = stage.orders["manual"]
    async with looking(browser, stage) as (page, looked):
        looked.expected = (409,)
        await page.goto("/ui/manual")
        for name, token in (("anna", TOKEN), ("ben", BENS)):
            await sign(page, f"#take-{order}", f"{name} looks into it")
            box = page.locator(f"#take-{order}")
            await box.locator("input[name=token]").fill(token)
            await box.locator("input[name=confirm]").check()
            await box.get_by_role("button", name="Claim").click()
            await page.wait_for_load_state()
        assert "anna has taken this case already" in await page.locator("main").inner_text()
        await page.goto("/ui/manual")
        row = await page.locator(f"#case-{order}").inner_text()
        assert "anna" in row
        assert "anna looks into it" in row


async def test_a_selection_is_frozen_previewed_and_replayed_at_a_pace(browser: Browser, stage: Stage) -> None:
    chosen = [unusable() for _ in range(3)]
    await give_up(stage.watch, *chosen, service="fulfillment", why="frozen")
    await letters_of(stage, "frozen", 3)
    redrives = await stage.watch.receive_redrives("fulfillment")
    async with looking(browser, stage) as (page, _):
        await page.goto("/ui/dead-letters?service=fulfillment&reason=frozen")
        await sign(page, "#freeze", "these three")
        await page.get_by_role("button", name="Freeze all open").click()
        await page.wait_for_url(re.compile("/ui/selections/"))
        await give_up(stage.watch, unusable(), service="fulfillment", why="frozen")
        await letters_of(stage, "frozen", 4)
        await page.reload()
        main = page.locator("main")
        await expect(main).to_contain_text("3 letters")
        await sign(page, "#act-replay", "mended")
        await page.locator("#act-replay input[name=per_second]").fill("1")
        await page.locator("#act-replay input[name=confirm]").check()
        await page.get_by_role("button", name="Replay").click()
        await expect(main).to_contain_text("running")
        await expect(main).to_contain_text("3 of 3, 3 replayed", timeout=60_000)
        await expect(main).to_contain_text("done", timeout=60_000)
    sent = [await redrives.get(timeout=20) for _ in chosen]
    got = {message.message_id for message in sent}
    assert got == {message.message_id for message in chosen}
    assert await redrives.get(fail=False) is None
    assert await states_of(stage, "frozen") == ["open", "replayed", "replayed", "replayed"]


async def test_a_selection_is_paused_and_stopped(browser: Browser, stage: Stage) -> None:
    await give_up(stage.watch, *(unusable() for _ in range(40)), service="order", why="slowly")
    await letters_of(stage, "slowly", 40)
    async with looking(browser, stage) as (page, _):
        await page.goto("/ui/dead-letters?service=order&reason=slowly")
        await sign(page, "#freeze")
        await page.get_by_role("button", name="Freeze all open").click()
        await page.wait_for_url(re.compile("/ui/selections/"))
        await sign(page, "#act-discard")
        await page.locator("#act-discard input[name=per_second]").fill("1")
        await page.locator("#act-discard input[name=confirm]").check()
        await page.get_by_role("button", name="Discard").click()
        for button, state in (("Pause", "paused"), ("Continue", "running"), ("Stop", "stopped")):
            await page.locator("main form input[name=token]").fill(TOKEN)
            await page.locator("main form input[name=note]").fill("slower")
            await page.get_by_role("button", name=button).click()
            await expect(page.locator("main .state")).to_have_text(state)
    states = await states_of(stage, "slowly")
    assert states.count("open") > 0


async def test_a_message_is_edited_and_replayed_under_a_new_id(browser: Browser, stage: Stage) -> None:
    message = unusable(body=b'{"lines": 7, "payment_token": "tok_secret"}')
    await give_up(stage.watch, message, why="to edit")
    (letter_id,) = await letters_of(stage, "to edit", 1)
    redrives = await stage.watch.receive_redrives("payment")
    async with looking(browser, stage) as (page, looked):
        await page.goto(f"/ui/dead-letters/{letter_id}")
        await sign(page, "#open")
        await page.get_by_role("button", name="Show", exact=True).click()
        text = page.locator("textarea[name=body]")
        assert "tok_secret" not in await page.content()
        await text.fill((await text.input_value()).replace("7", "8"))
        form = page.locator("form[action$='/edit']")
        for name, value in (("token", TOKEN), ("note", "eight it is")):
            await form.locator(f"input[name={name}]").fill(value)
        await page.get_by_role("button", name="Show what changes").click()
        await expect(page.locator("pre .added")).to_contain_text("8")
        for name, value in (("token", TOKEN), ("note", "eight it is")):
            await form.locator(f"input[name={name}]").fill(value)
        await form.locator("input[name=confirm]").check()
        await page.get_by_role("button", name="Send the edited message").click()
        await page.wait_for_url(re.compile("done=edit"))
        await expect(page.locator("main")).to_contain_text("eight it is (sent edited as")
        assert looked.complaints == []
    sent = await redrives.get(timeout=20)
    assert sent is not None
    assert sent.message_id not in (None, message.message_id)
    assert b'"lines": 8' in sent.body
    assert b"tok_secret" in sent.body
    assert await stage.watch.rows("SELECT FROM dead_letters WHERE body = %(body)s", body=message.body)


async def test_an_order_that_nobody_knows_is_no_case(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, looked):
        looked.expected = (404,)
        await page.goto(f"/ui/sagas/{uuid4()}")
        assert await page.locator("details.act").count() == 0


async def letters_of(stage: Stage, reason: str, count: int) -> list[UUID]:
    """The letters of a reason, once there are so many."""

    async def enough() -> list[UUID]:
        rows = await stage.watch.rows("SELECT letter_id FROM dead_letters WHERE reason = %(why)s", why=reason)
        return [row["letter_id"] for row in rows] if len(rows) == count else []

    return await eventually(enough, why=f"{count} letters are there")


async def states_of(stage: Stage, reason: str) -> list[str]:
    rows = await stage.watch.rows("SELECT state FROM dead_letters WHERE reason = %(why)s", why=reason)
    return sorted(row["state"] for row in rows)
