"""Signing in to the board: with a named token, by a link that is good once, and by a real OpenID provider."""

import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from oidc_provider_mock import User, run_server_in_thread
from pydantic import SecretStr, ValidationError

from events.http.sessions import Links, session_key
from events.http.tokens import Role
from saga_tracker.sign_in import role_in
from tests.tracker.dead_letters import BENS, TOKEN, TOKENS
from tests.tracker.watch import Watch

ADMIN_TOKEN = "the-machines"
BASE = "http://127.0.0.1:8000"
PAGE = {"accept": "text/html"}


def browser(app: FastAPI) -> AsyncClient:
    """It keeps cookies, and goes where it is sent only when told to."""
    return AsyncClient(transport=ASGITransport(app), base_url=BASE, headers=PAGE)


@pytest.fixture
async def app(watch: Watch) -> FastAPI:
    return watch.app(
        await watch.start(
            tokens=TOKENS, admin_token=SecretStr(ADMIN_TOKEN), auth="required", sign_in_link=True
        )
    )


@pytest.fixture
async def page(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with browser(app) as page:
        yield page


def csrf_in(answer: httpx2.Response) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', answer.text)
    assert found, answer.text
    return found[1]


async def sign_in_with(page: AsyncClient, token: str, **form: str) -> httpx2.Response:
    csrf = csrf_in(await page.get("/sign-in"))
    return await page.post("/sign-in", data={"csrf_token": csrf, "token": token, **form})


async def test_a_browser_is_led_to_the_sign_in_and_a_program_gets_an_error(
    page: AsyncClient,
) -> None:
    led = await page.get("/ui/dead-letters")
    assert (led.status_code, led.headers["location"]) == (303, "/sign-in?next=/ui/dead-letters")
    of_program = await page.get("/sagas", headers={"accept": "application/json"})
    assert (of_program.status_code, of_program.headers["www-authenticate"]) == (401, "Bearer")


async def test_a_named_token_signs_in_for_a_session(page: AsyncClient) -> None:
    refused = await sign_in_with(page, "guessed")
    assert refused.status_code == 403
    assert "Nobody has this token." in refused.text
    entered = await sign_in_with(page, TOKEN, next="/ui/dead-letters")
    assert (entered.status_code, entered.headers["location"]) == (303, "/ui/dead-letters")
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie.replace("httponly", ""), "on loopback there is no TLS"
    assert TOKEN not in cookie
    assert (await page.get("/ui/dead-letters")).status_code == 200
    assert (await page.get("/sagas")).status_code == 200


async def test_elsewhere_than_on_loopback_the_cookie_is_for_tls_alone(watch: Watch) -> None:
    tracker = await watch.start(tokens=TOKENS, auth="required", http_host="0.0.0.0")
    async with browser(watch.app(tracker)) as page:
        assert "secure" in (await page.get("/sign-in")).headers["set-cookie"].lower().split("; ")


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "evil"])
async def test_nobody_is_led_elsewhere(page: AsyncClient, elsewhere: str) -> None:
    assert (await sign_in_with(page, TOKEN, next=elsewhere)).headers["location"] == "/"


async def test_a_session_acts_only_from_its_own_page(page: AsyncClient) -> None:
    assert (await sign_in_with(page, TOKEN)).status_code == 303
    csrf = csrf_in(await page.get("/sign-in"))
    path, body = "/reconciliation/run", None
    for headers in (
        {},
        {"x-csrf-token": "guessed"},
        {"x-csrf-token": csrf, "sec-fetch-site": "cross-site"},
        {"x-csrf-token": csrf, "sec-fetch-site": "same-site"},
    ):
        refused = await page.post(path, json=body, headers=headers)
        assert refused.status_code == 403, headers
        assert "X-CSRF-Token" in refused.json()["detail"]
    for headers in ({"x-csrf-token": csrf}, {"x-csrf-token": csrf, "sec-fetch-site": "same-origin"}):
        assert (await page.post(path, json=body, headers=headers)).status_code == 200
    by_token = await page.post(path, headers={"authorization": f"Bearer {TOKEN}"})
    assert by_token.status_code == 200, "a token is not sent by itself, so it needs no more"


async def test_a_session_has_the_role_of_its_token(page: AsyncClient) -> None:
    await sign_in_with(page, BENS)
    csrf = csrf_in(await page.get("/sign-in"))
    forbidden = await page.post(
        "/sagas/00000000-0000-4000-8000-000000000001/settle",
        json={"note": "x"},
        headers={"x-csrf-token": csrf},
    )
    assert forbidden.json()["detail"] == "this takes the role approver; ben is operator"


async def test_a_session_ends_when_its_user_or_its_time_says_so(
    page: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_in_with(page, TOKEN)
    csrf = csrf_in(await page.get("/sign-in"))
    assert (await page.post("/sign-out", data={"csrf_token": "guessed"})).status_code == 403
    assert (await page.get("/")).status_code == 200
    assert (await page.post("/sign-out", data={"csrf_token": csrf})).status_code == 303
    assert (await page.get("/")).status_code == 303
    await sign_in_with(page, TOKEN)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 8 * 3_600 + 1)
    assert (await page.get("/")).status_code == 303


async def test_a_cookie_that_nobody_signed_is_nobodys(page: AsyncClient) -> None:
    await sign_in_with(page, TOKEN)
    [cookie] = page.cookies.jar
    assert cookie.value
    forged = f"{'A' if cookie.value[0] != 'A' else 'B'}{cookie.value[1:]}"
    page.cookies.clear()
    page.cookies.set(cookie.name, forged)
    assert (await page.get("/")).status_code == 303


async def test_a_link_signs_in_once(app: FastAPI, page: AsyncClient) -> None:
    link = f"/sign-in/link?token={Links(session_key(ADMIN_TOKEN)).make('root')}"
    entered = await page.get(link)
    assert (entered.status_code, entered.headers["referrer-policy"]) == (303, "no-referrer")
    assert (await page.get("/")).status_code == 200
    async with browser(app) as other:
        again = await other.get(link)
        assert again.status_code == 403
        assert "was used, or is too old" in again.text
        assert (await other.get("/")).status_code == 303
        for made in (Links(session_key("another")).make("eve"), "made-up"):
            assert (await other.get(f"/sign-in/link?token={made}")).status_code == 403


async def test_a_link_is_good_for_a_while_and_only_where_it_is_allowed(watch: Watch) -> None:
    links = Links(session_key(ADMIN_TOKEN))
    token = SecretStr(ADMIN_TOKEN)
    assert Links(links.key, seconds=-1).read(links.make("root")) is None
    async with browser(watch.app(await watch.start(admin_token=token, auth="required"))) as page:
        assert (await page.get(f"/sign-in/link?token={links.make('root')}")).status_code == 403
    with pytest.raises(ValidationError, match="listens on loopback alone"):
        watch.settings(sign_in_link=True, http_host="0.0.0.0")


# --- OpenID Connect

GRACE = User(sub="17", claims={"email": "grace@example.org", "groups": ["shop-ops", "everybody"]})
EVE = User(sub="18", claims={"email": "eve@example.org", "email_verified": False, "groups": ["shop-ops"]})
IVAN = User(sub="19", claims={"email": "ivan@example.org", "groups": ["everybody"]})


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with run_server_in_thread(require_nonce=True, user_claims=(GRACE, EVE, IVAN)) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
async def openid(watch: Watch, issuer: str) -> AsyncIterator[AsyncClient]:
    given: dict[str, Any] = {
        "oidc_issuer": issuer,
        "oidc_client_id": "murmuration",
        "oidc_client_secret": SecretStr("shared"),
        "oidc_role_claim": "groups",
        "oidc_roles": {"shop-ops": Role.OPERATOR, "shop-boss": Role.APPROVER},
        "public_url": BASE,
    }
    async with browser(watch.app(await watch.start(auth="required", **given))) as page:
        yield page


async def come_back(page: AsyncClient, user: User, path: str = "/sign-in/oidc?next=/ui/dead-letters") -> str:
    """Where the provider sends somebody who signed in there."""
    sent = await page.get(path)
    assert sent.status_code == 302
    asked = parse_qs(urlsplit(sent.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    async with AsyncClient() as http:
        answered = await http.post(sent.headers["location"], data={"sub": user.sub})
    back = str(answered.headers["location"])
    assert back.startswith(f"{BASE}/sign-in/oidc/callback?")
    return back


async def test_openid_signs_in_with_the_role_that_the_claim_is_here(openid: AsyncClient) -> None:
    assert "Sign in with OpenID Connect" in (await openid.get("/sign-in")).text
    entered = await openid.get(await come_back(openid, GRACE))
    assert (entered.status_code, entered.headers["location"]) == (303, "/ui/dead-letters"), entered.text
    assert (await openid.get("/ui/dead-letters")).status_code == 200
    csrf = csrf_in(await openid.get("/sign-in"))
    order = "00000000-0000-4000-8000-000000000001"
    refused = await openid.post(f"/sagas/{order}/settle", json={"note": "x"}, headers={"x-csrf-token": csrf})
    assert refused.json()["detail"] == "this takes the role approver; grace@example.org is operator"
    allowed = await openid.post(f"/sagas/{order}/redrive", json={"note": "x"}, headers={"x-csrf-token": csrf})
    assert allowed.status_code == 404


@pytest.mark.parametrize(("user", "why"), [(EVE, "does not say who you are"), (IVAN, "None of your roles")])
async def test_who_is_not_known_or_has_no_role_here_is_not_signed_in(
    openid: AsyncClient, user: User, why: str
) -> None:
    refused = await openid.get(await come_back(openid, user))
    assert refused.status_code == 403
    assert why in refused.text
    assert (await openid.get("/")).status_code == 303


async def test_an_answer_that_was_not_asked_for_signs_nobody_in(openid: AsyncClient, watch: Watch) -> None:
    back = await come_back(openid, GRACE)
    query = parse_qs(urlsplit(back).query)
    forged = f"/sign-in/oidc/callback?code={query['code'][0]}&state=forged"
    assert (await openid.get(forged)).status_code == 403
    assert (await openid.get("/sign-in/oidc/callback?error=access_denied&state=forged")).status_code == 403
    openid.cookies.clear()
    assert (await openid.get(back)).status_code == 403, "another browser's"
    assert (await openid.get("/")).status_code == 303


async def test_a_provider_that_is_away_is_shown(watch: Watch) -> None:
    given: dict[str, Any] = {
        "oidc_issuer": "http://127.0.0.1:1",
        "oidc_client_id": "murmuration",
        "oidc_client_secret": SecretStr("shared"),
        "oidc_roles": {"shop-ops": "operator"},
    }
    async with browser(watch.app(await watch.start(auth="required", **given))) as page:
        answer = await page.get("/sign-in/oidc")
        assert answer.status_code == 403
        assert "The provider did not sign you in" in answer.text


def test_the_highest_role_counts_wherever_the_claim_is(watch: Watch) -> None:
    roles = {"a": Role.VIEWER, "b": Role.APPROVER, "c": Role.CLIENT}
    settings = watch.settings(oidc_roles=roles, oidc_role_claim="realm_access.roles")
    for given, role in (
        (["a", "b", "c"], Role.APPROVER),
        ("a", Role.VIEWER),
        (["x", 7, None], None),
        ({"a": 1}, None),
        (None, None),
    ):
        assert role_in({"realm_access": {"roles": given}}, settings) is role
    assert role_in({"realm_access": "a"}, settings) is None
    with pytest.raises(ValidationError, match="machine is nobody's role"):
        watch.settings(oidc_roles={"a": "machine"})
    with pytest.raises(ValidationError, match="OIDC_ISSUER takes"):
        watch.settings(oidc_issuer="http://issuer")
