"""Connect OAuth of the emulator, driven by the official SDK and by what a browser sends."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator

BACK = "http://127.0.0.1:9/back?session=7"
Connect = Callable[..., stripe_sdk.StripeClient]


@pytest.fixture
def platform(connect: Connect) -> stripe_sdk.StripeClient:
    """A platform's client in test mode."""
    return connect(client_id="ca_platform")


def sent(sdk: stripe_sdk.StripeClient, decision: str | None, **changes: Any) -> httpx.Response:
    """The answer to a browser at the authorize address."""
    asked: Any = {"scope": "read_write", "state": "s&1", "redirect_uri": BACK, **changes}
    params: Any = {key: value for key, value in asked.items() if value is not None}
    url = sdk.oauth.authorize_url(params)
    if decision is not None:
        url += f"&_emulator_decision={decision}"
    return httpx.get(url)


def came_back(answer: httpx.Response) -> dict[str, str]:
    """What the redirect brings home."""
    assert answer.status_code == 302
    address = urlsplit(answer.headers["location"])
    assert f"{address.scheme}://{address.netloc}{address.path}" == BACK.partition("?")[0]
    return {name: values[0] for name, values in parse_qs(address.query).items()}


def code(sdk: stripe_sdk.StripeClient, account: str = "acct_x", **changes: Any) -> str:
    """An authorization code for an account."""
    return came_back(sent(sdk, f"connect:{account}", **changes))["code"]


def token(sdk: stripe_sdk.StripeClient, text: str, **more: Any) -> stripe_sdk.OAuth.OAuthToken:
    """The exchange of a code."""
    params: Any = {"grant_type": "authorization_code", "code": text, **more}
    return sdk.oauth.token(params)


def refused(sdk: stripe_sdk.StripeClient, account: str = "acct_x") -> bool:
    """Whether Stripe-Account is turned away."""
    try:
        sdk.v1.customers.list({}, {"stripe_account": account})
    except stripe_sdk.PermissionError as error:
        return "account_invalid" in str(error.json_body)
    return False


def test_an_owner_connects(platform: stripe_sdk.StripeClient) -> None:
    """Consent comes back with scope and state; the code opens the account, which was closed."""
    assert refused(platform)
    answer = sent(platform, "connect:acct_x")
    back = came_back(answer)
    assert (back["session"], back["state"], back["scope"]) == ("7", "s&1", "read_write")
    made = token(platform, back["code"])
    assert (made.stripe_user_id, made.livemode, made.token_type) == ("acct_x", False, "bearer")
    assert not refused(platform)
    assert [one.id for one in platform.v1.accounts.list().data] == ["acct_x"]


def test_an_owner_denies(platform: stripe_sdk.StripeClient) -> None:
    """The denial comes back with the state."""
    back = came_back(sent(platform, "deny"))
    assert (back["error"], back["state"]) == ("access_denied", "s&1")


def test_the_page_asks_a_person(
    platform: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """Both buttons post what was asked; text from outside is escaped."""
    page = sent(platform, None, state='<i>&"')
    assert page.status_code == 200
    assert "&lt;i&gt;&amp;&quot;" in page.text
    form = {
        "response_type": "code",
        "client_id": "ca_platform",
        "redirect_uri": BACK,
        "account": "acct_y",
    }
    url = f"{emulator.url}/oauth/authorize"
    allowed = came_back(httpx.post(url, data={**form, "decision": "connect"}))
    assert allowed["scope"] == "read_only"
    assert token(platform, allowed["code"]).stripe_user_id == "acct_y"
    denied = came_back(httpx.post(url, data={**form, "decision": "deny"}))
    assert denied["error"] == "access_denied"
    assert httpx.post(url, data={"decision": "deny"}).status_code == 400
    odd = httpx.post(url, data={**form, "decision": "connect", "account": "no account"})
    assert odd.status_code == 400


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"client_id": "platform"}, "invalid_request"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"redirect_uri": "javascript:alert(1)"}, "invalid_request"),
        ({"redirect_uri": None}, "invalid_request"),
    ],
)
def test_a_wrong_address_is_shown_not_redirected(
    platform: stripe_sdk.StripeClient, changes: dict[str, Any], error: str
) -> None:
    """Only a decision goes back to the client."""
    answer = sent(platform, "connect:acct_x", **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_a_second_use_of_a_code_revokes(
    platform: stripe_sdk.StripeClient, connect: Connect
) -> None:
    """Whoever uses it, the connection that the first use made is gone."""
    text = code(platform)
    token(platform, text)
    with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="already been used"):
        token(connect("sk_test_other"), text)
    assert refused(platform)
    with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="already been used"):
        token(platform, text)


def test_a_code_lives_five_minutes(
    platform: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """By the emulated clock."""
    early, late = code(platform), code(platform)
    emulator.advance(290)
    token(platform, early)
    emulator.advance(20)
    with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="expired"):
        token(platform, late)


def test_a_code_is_for_one_mode_and_one_address(
    platform: stripe_sdk.StripeClient, connect: Connect
) -> None:
    """A client of the other mode, another address and the platform itself are refused."""
    live = code(platform, client_id="ca_live_platform")
    with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="same mode"):
        token(platform, live)
    assert token(connect("sk_live_platform"), live).livemode
    text = code(platform)
    with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="redirect"):
        token(platform, text, redirect_uri="http://127.0.0.1:9/other")
    assert token(platform, text, redirect_uri=BACK).stripe_user_id == "acct_x"
    own = platform.v1.accounts.retrieve_current().id
    with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="itself"):
        token(platform, code(platform, own))
    with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="does not exist"):
        token(platform, "ac_unknown")


def test_a_live_connection_opens_test_mode_too(connect: Connect) -> None:
    """And a test one stays in test mode."""
    live, test = connect("sk_live_p", client_id="ca_p"), connect("sk_test_p", client_id="ca_p")
    token(test, code(test, "acct_t"))
    assert (refused(test, "acct_t"), refused(live, "acct_t")) == (False, True)
    token(live, code(live, "acct_l"))
    assert (refused(test, "acct_l"), refused(live, "acct_l")) == (False, False)
    live.oauth.deauthorize({"stripe_user_id": "acct_l"})
    assert (refused(test, "acct_l"), refused(live, "acct_l")) == (True, True)


def test_a_connection_is_the_platforms_alone(
    platform: stripe_sdk.StripeClient, connect: Connect
) -> None:
    """Another platform's key does not open the account, and the token is no key."""
    made = token(platform, code(platform))
    assert refused(connect("sk_test_other"))
    assert made.access_token is not None
    with pytest.raises(stripe_sdk.AuthenticationError):
        connect(made.access_token).v1.customers.list()


def test_a_platform_deauthorizes(platform: stripe_sdk.StripeClient, connect: Connect) -> None:
    """With its client id and its key, once; other clients and accounts are refused."""
    token(platform, code(platform))
    for sdk in (connect(client_id="ca_other"), connect("sk_test_other", client_id="ca_platform")):
        with pytest.raises(stripe_sdk.oauth_error.InvalidClientError, match="not connected"):
            sdk.oauth.deauthorize({"stripe_user_id": "acct_x"})
    assert platform.oauth.deauthorize({"stripe_user_id": "acct_x"}).stripe_user_id == "acct_x"
    assert refused(platform)
    with pytest.raises(stripe_sdk.oauth_error.InvalidClientError, match="not connected"):
        platform.oauth.deauthorize({"stripe_user_id": "acct_x"})
    with pytest.raises(stripe_sdk.oauth_error.InvalidRequestError, match="stripe_user_id"):
        platform.oauth.deauthorize({"stripe_user_id": None})  # type: ignore[typeddict-item]


def test_an_owner_leaves(platform: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """A seeded account as well as one that consented; a second time is a mistake of the test."""
    token(platform, code(platform))
    headers = {"authorization": f"Bearer {emulator.api_key}", "stripe-account": "acct_seeded"}
    httpx.post(f"{emulator.url}/_emulator/seed", json={}, headers=headers).raise_for_status()
    for account in ("acct_x", "acct_seeded"):
        assert not refused(platform, account)
        emulator.deauthorize(account)
        assert refused(platform, account)
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            emulator.deauthorize(account)


def test_the_key_may_be_in_the_form(emulator: RemoteEmulator) -> None:
    """`client_secret` names the platform, and without a key nobody is asked."""
    url = f"{emulator.url}/oauth/token"
    form = {"client_secret": "sk_test_p", "grant_type": "authorization_code"}
    answer = httpx.post(url, data={**form, "code": "ac_none"}).json()
    assert answer["error"] == "invalid_grant"
    assert httpx.post(url, data=form).json()["error"] == "invalid_request"
    other = httpx.post(url, data={**form, "grant_type": "refresh_token"}).json()
    assert other["error"] == "unsupported_grant_type"
    for path in ("oauth/token", "oauth/deauthorize"):
        assert httpx.post(f"{emulator.url}/{path}").status_code == 401
    leave = httpx.post(f"{emulator.url}/_emulator/deauthorize", json={"account": "acct_x"})
    assert leave.status_code == 401


def test_a_wrong_decision_is_explained(platform: stripe_sdk.StripeClient) -> None:
    """What a test decides is `connect:acct_...` or `deny`."""
    answer = sent(platform, "perhaps")
    assert answer.status_code == 400
    assert "deny" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "connected"),
    [
        ({"kind": "reset", "after_commit": True}, True),
        ({"kind": "status", "status": 500, "after_commit": True}, True),
        ({"kind": "reset"}, False),
        ({"kind": "status", "status": 503}, False),
    ],
)
def test_the_answer_to_a_code_may_be_lost(
    platform: stripe_sdk.StripeClient,
    emulator: RemoteEmulator,
    fault: dict[str, Any],
    connected: bool,  # noqa: FBT001 - a case
) -> None:
    """Before or after the connection was made; a client that asks again after it, undoes it."""
    text = code(platform)
    emulator.fault(route="/oauth/token", **fault)
    with pytest.raises(stripe_sdk.StripeError):
        token(platform, text)
    assert refused(platform) is not connected
    if connected:
        with pytest.raises(stripe_sdk.oauth_error.InvalidGrantError, match="already been used"):
            token(platform, text)
    else:
        token(platform, text)
    assert refused(platform) is connected


def test_a_token_may_be_slow(platform: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """A slow answer is a proper one."""
    emulator.fault("slow", route="/oauth/token", seconds=0.05)
    assert token(platform, code(platform)).stripe_user_id == "acct_x"
