"""The page about Stripe Connect, top to bottom: policies, event names, and units on customers."""

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack

PLATFORM_KEY = "sk_test_platform"
OWNER_KEY = "sk_test_owner"
"""Of the API's owner, whose account is to bill. UsageFlow never sees it."""
JWT_SECRET = "a secret of the API, and of nobody else"
API_KEY = "sk_live_7Jd2kk2m9Xw4vZ0qT5sLr8Ny"
"""What a client of the API shows it."""
APP = """
from fastapi import FastAPI, Request

from usageflow import UsageFlowMiddleware  # 1

app = FastAPI()
app.add_middleware(UsageFlowMiddleware)  # 2; 3 is the key, in the environment


@app.post("/v1/chat/completions")
async def complete(request: Request):
    return {"usage": {"total_tokens": 42}}


@app.get("/users/{id}/profile")
def profile(id: str):
    return {"id": id}


@app.get("/v1/me")
def me(request: Request):
    request.state.session = {"account": "acct_meta"}
    return {}


@app.post("/v1/jobs")
async def job(job: dict):
    return job


@app.api_route("/v1/{rest:path}", methods=["GET", "POST"])
async def anything(rest: str):
    return {}
"""
POLICIES = f"""
[[policy]]
name = "chat"
match = "POST /v1/chat/completions"
identify = [ {{ from = "header", name = "x-account-id" }} ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"
event_name = "token_used"

[[policy]]
name = "profiles"
match = "GET /users/:id/profile"
identify = [ {{ from = "path", name = "id" }} ]
field = "user_id"
metric = "PROFILE"
event_name = "api_request"

[[policy]]
name = "reports"
match = "GET /v1/reports"
identify = [ {{ from = "api_key", header = "x-api-key", owners = {{ "{
    hashlib.sha256(API_KEY.encode()).hexdigest()
}" = "acct_key" }} }} ]
field = "account_id"
metric = "REPORT"
event_name = "api_request"

[[policy]]
name = "messages"
match = "POST /v1/messages"
identify = [ {{ from = "jwt", claim = "company", secret = "env:JWT_SECRET" }} ]
field = "company_id"
metric = "MESSAGE"
event_name = "message_generated"

[[policy]]
name = "search"
match = "GET /v1/search"
identify = [ {{ from = "query", name = "tenant" }} ]
field = "tenant"
metric = "SEARCH"
event_name = "api_request"

[[policy]]
name = "jobs"
match = "POST /v1/jobs"
identify = [ {{ from = "body", path = "job.workspace" }} ]
field = "workspace"
metric = "JOB"
event_name = "api_request"

[[policy]]
name = "me"
match = "GET /v1/me"
identify = [ {{ from = "metadata", name = "session.account" }} ]
field = "account_id"
metric = "ME"
event_name = "api_request"
"""
EVENT_NAMES = ("api_request", "token_used", "message_generated")
CUSTOMERS = (
    {"account_id": "acct_42"},
    {"user_id": "u_7"},
    {"account_id": "acct_key"},
    {"company_id": "globex"},
    {"tenant": "initech"},
    {"workspace": "hooli"},
    {"account_id": "acct_meta"},
    {"user_id": "u_first"},
    {"account_id": "acct_silent"},
)
"""What the owner keeps on the customers in Stripe; the last one makes no request."""
FIRST = ("user_id", "u_first", "api_request")
"""Whose requests show that the app has the policies."""
UNITS = {
    ("account_id", "acct_42", "token_used"): 84,
    ("user_id", "u_7", "api_request"): 1,
    ("account_id", "acct_key", "api_request"): 1,
    ("company_id", "globex", "message_generated"): 1,
    ("tenant", "initech", "api_request"): 1,
    ("workspace", "hooli", "api_request"): 1,
    ("account_id", "acct_meta", "api_request"): 1,
}


@dataclass
class Owner:
    """The API's owner in a browser, who has signed in, and their account at Stripe."""

    stack: "Stack"
    browser: httpx.Client

    def stripe(self, method: str, path: str, fields: dict[str, str] | None = None) -> Any:
        """A call of the owner's own, to Stripe's API."""
        url, key = f"{self.stack.url('stripe')}{path}", (OWNER_KEY, "")
        answer = httpx.request(method, url, data=fields, auth=key, timeout=60, trust_env=False)
        return answer.raise_for_status().json()

    def connect(self, account: str) -> str:
        """Follow "Connect" to Stripe, consent there, and come back; what the page says."""
        begun = self.browser.post("/api/v1/stripe/connect").raise_for_status().json()
        page = self.browser.get(begun["url"]).raise_for_status()
        asked = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
        decided = asked | {"account": account, "decision": "connect"}
        back = self.browser.post(f"{self.stack.url('stripe')}/oauth/authorize", data=decided)
        (heading,) = re.findall("<h1>(.*)</h1>", back.raise_for_status().text)
        return str(heading)

    def publish(self, policies: str) -> None:
        """Make these the policies in use."""
        self.browser.put("/api/v1/policies", json={"toml": policies}).raise_for_status()

    def applied(self) -> dict[tuple[str, str, str], int]:
        """What Stripe has, by metadata field, its value, and event name; of every account."""
        state = httpx.get(f"{self.stack.url('stripe')}/_emulator/state", trust_env=False).json()
        return {
            (*item, row["event_name"]): int(Decimal(row["value"]))
            for account in state["accounts"]
            for row in account["applied"]
            for item in row["metadata"].items()
        }


@pytest.fixture
def owner(stack: "Stack") -> Iterator[Owner]:
    """Beside a server that is a Stripe Connect platform."""
    stack.add_stripe()
    port = free_port()
    environ = {
        "USAGEFLOW_DATABASE": stack.database,
        "USAGEFLOW_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "USAGEFLOW_STRIPE_API_BASE": stack.url("stripe"),
        "USAGEFLOW_STRIPE_API_KEY": PLATFORM_KEY,
        "USAGEFLOW_STRIPE_CLIENT_ID": "ca_platform",
    }
    stack.add("server", "usageflow", "serve", "--port", str(port), port=port, env=environ)
    options: Any = {"follow_redirects": True, "timeout": 60, "trust_env": False}
    with httpx.Client(base_url=stack.url("server"), **options) as browser:
        account = {
            "email": "owner@example.com",
            "password": "a long enough Passw0rd",
            "organization_name": "Globex",
        }
        browser.post("/api/v1/auth/signup", json=account).raise_for_status()
        yield Owner(stack, browser)


def free_port() -> int:
    """A port that was free a moment ago."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def install(stack: "Stack") -> str:
    """The API with the three lines, under uvicorn; where it listens."""
    (stack.directory / "api.py").write_text(APP)
    port = free_port()
    environ = stack.edge_env("api", stack.api_key())
    environ |= {"JWT_SECRET": JWT_SECRET, "USAGEFLOW_POLICY_POLL_S": "0.2"}
    command = ("uvicorn", "--log-level", "warning", "--port", str(port), "api:app")
    stack.add("api", *command, port=port, env=environ)
    return stack.url("api")


def requests(app: str) -> None:
    """Each way in which an API knows who is calling, once; the first one twice."""
    token = jwt.encode({"company": "globex"}, JWT_SECRET)
    with httpx.Client(base_url=app, timeout=60, trust_env=False) as client:
        answers = [
            client.post("/v1/chat/completions", json={}, headers={"x-account-id": "acct_42"}),
            client.post("/v1/chat/completions", json={}, headers={"x-account-id": "acct_42"}),
            client.get("/users/u_7/profile"),
            client.get("/v1/reports", headers={"x-api-key": API_KEY}),
            client.post("/v1/messages", headers={"authorization": f"Bearer {token}"}),
            client.get("/v1/search", params={"tenant": "initech"}),
            client.post("/v1/jobs", json={"job": {"workspace": "hooli"}}),
            client.get("/v1/me"),
            client.get("/v1/nobody-meters-this", headers={"x-account-id": "acct_silent"}),
        ]
    assert {answer.status_code for answer in answers} == {200}


def test_stripe_connect(stack: "Stack", owner: Owner) -> None:
    """Six steps, and each request is a unit on the customer of whoever made it, once."""
    # Install UsageFlow in your API
    app = install(stack)

    # Create a Stripe Meter for the usage event you want to track
    for name in EVENT_NAMES:
        meter = {"display_name": name, "event_name": name, "default_aggregation[formula]": "sum"}
        owner.stripe("POST", "/v1/billing/meters", meter)
    for metadata in CUSTOMERS:
        fields = {f"metadata[{field}]": value for field, value in metadata.items()}
        owner.stripe("POST", "/v1/customers", fields)

    # Connect UsageFlow to Stripe via Stripe Connect
    account = owner.stripe("GET", "/v1/account")["id"]
    assert owner.connect(account) == "Your account is connected"
    [connected] = owner.browser.get("/api/v1/stripe/accounts").json()["data"]
    assert (connected["account"], connected["state"]) == (account, "active")

    # Create a Policy: endpoint and method, how to identify the user, the metadata field
    owner.publish(re.sub("event_name = .*", "", POLICIES))

    def is_metered() -> bool:
        httpx.get(f"{app}/users/u_first/profile", trust_env=False)
        return "PROFILE" in owner.browser.get("/api/v1/usage").text

    stack.wait_for(is_metered, 60, "the app has the policies")
    assert owner.applied() == {}

    # Set the Stripe event name
    owner.publish(POLICIES)

    def is_reported() -> bool:
        httpx.get(f"{app}/users/u_first/profile", trust_env=False)
        return FIRST in owner.applied()

    stack.wait_for(is_reported, 60, "the app has the event names")

    # Start billing customers automatically
    requests(app)

    def units() -> dict[tuple[str, str, str], int]:
        return {place: count for place, count in owner.applied().items() if place != FIRST}

    stack.wait_for(lambda: units() == UNITS, 60, "the units of every request")
    assert owner.browser.get("/api/v1/inbox").json()["data"] == []
    kept = (stack.directory / "usageflow.db").read_bytes()
    assert API_KEY.encode() not in kept
    assert OWNER_KEY.encode() not in kept
