"""A draft is a valid policy, and its guesses are those a person would make first."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.catalog.drafts import OTHERS_MAX, draft
from usageflow.catalog.endpoints import Unmatched
from usageflow.middleware.endpoints import OTHERS
from usageflow.middleware.sketch import Sketch, paths_of
from usageflow.middleware.templates import text_of, tokens_of
from usageflow.policies import Policy, parse_file

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEXT, COUNT = ("string",), ("integer",)


def unmatched(method: str = "POST", template: str = "/v1/chat", **seen: Any) -> Unmatched:
    """An endpoint of which this was seen."""
    return Unmatched(method, template, 1204, True, Sketch(**seen), NOON, NOON)


def drafted(one: Unmatched) -> Policy:
    """The one policy of its draft."""
    parsed = parse_file(draft(one), "draft.toml")
    assert parsed.problems == ()
    ((policy, _),) = parsed.policies
    return policy


def test_a_draft_reads_well() -> None:
    """What was seen, the best guess, and what else it could be."""
    one = unmatched(
        template="/v1/chat/completions",
        claims={"iss": TEXT, "sub": TEXT, "org.id": TEXT},
        headers=("authorization", "x-account-id"),
        response={"id": TEXT, "usage.prompt_tokens": COUNT, "usage.total_tokens": COUNT},
        statuses=(200, 400),
    )
    assert draft(one) == (
        """\
# 1204 requests since 2026-11-21, answered 200, 400
[[policy]]
name     = "post-v1-chat-completions"
match    = "POST /v1/chat/completions"
identify = [
  { from = "header", name = "x-account-id" },
  # { from = "jwt", claim = "org.id", keys = "https://issuer.example/.well-known/jwks.json" },
  # { from = "jwt", claim = "sub", keys = "https://issuer.example/.well-known/jwks.json" },
]
field    = "account_id"
metric   = "TOTAL_TOKENS"
quantity = "response.body.usage.total_tokens"
# quantity = "response.body.usage.prompt_tokens"
mode     = "shadow"  # recorded and never billed, until this line is removed
"""
    )
    assert drafted(one).mode == "shadow"


def test_nothing_seen_is_a_call_of_nobody() -> None:
    """A header that the clients would have to send, and one for each request."""
    policy = drafted(unmatched("GET", "/"))
    assert (policy.name, policy.match) == ("get", ("GET /",))
    assert (policy.metric, policy.quantity, policy.field) == ("API_CALL", Decimal(1), "account_id")
    assert "no name that was seen tells who is calling" in draft(unmatched())


@pytest.mark.parametrize(
    ("seen", "source", "field"),
    [
        ({"claims": {"sub": TEXT}, "headers": ("authorization",)}, "jwt", "user_id"),
        ({"claims": {"org.id": COUNT}}, "jwt", "org_id"),
        ({"headers": ("X-Tenant",)}, "header", "tenant"),
        ({"headers": ("x-api-key",)}, "api_key", "api_key"),
        ({"headers": ("authorization",)}, "api_key", "api_key"),
        ({"query": ("customerId",)}, "query", "customerid"),
        ({"query": ("api_key",)}, "api_key", "api_key"),
        ({"cookies": ("workspace",)}, "cookie", "workspace"),
        ({"request": {"customer.id": TEXT}}, "body", "customer_id"),
        ({"template": "/accounts/{account_id}/calls"}, "path", "account_id"),
        ({"headers": ("x-color", "x-trace"), "query": ("page",)}, "header", "account_id"),
        ({"cookies": ("account_session", "team")}, "cookie", "team"),
        ({"headers": ("x-account-token",), "query": ("project",)}, "query", "project"),
        ({"headers": ("x-user-key",)}, "api_key", "api_key"),
        ({"query": ("clientKeys",)}, "api_key", "api_key"),
        ({"cookies": ("customer_apikey",)}, "api_key", "api_key"),
    ],
)
def test_the_caller_is_guessed_by_name(seen: dict[str, Any], source: str, field: str) -> None:
    """Wherever it is; a credential is never read as it is."""
    policy = drafted(unmatched(**seen))
    assert (policy.identify[0].from_, policy.field) == (source, field)


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "user.apiKey", "user.keys", "client-key", "user_password", "customer.passwd"),
        *("user_secret", "account.accessToken", "client.secret.id", "organization_tokens"),
    ],
)
def test_what_may_be_a_credential_is_never_an_identity(name: str) -> None:
    """Wherever it is: it would be stored, and sent to Stripe. A key may be hashed."""
    parameter = name.replace(".", "_").replace("-", "_")
    one = unmatched(
        template=f"/v1/{{{parameter}}}/calls",
        claims={name: TEXT},
        request={name: TEXT},
        headers=(name,),
        query=(name,),
        cookies=(name,),
    )
    hashed = set(re.findall('from = "([a-z_]+)"', draft(one)))
    assert hashed <= {"api_key", "header"}
    assert f'"{name}"' not in draft(one) or hashed == {"api_key"}
    body = drafted(unmatched(request={name: TEXT, "user.id": TEXT}))
    assert body.identify == drafted(unmatched(request={"user.id": TEXT})).identify


@pytest.mark.parametrize("name", ["user.keyboard", "customer.monkey", "user.login", "author_team"])
def test_harmless_names_are_candidates(name: str) -> None:
    """They only look a little like one."""
    assert f'path = "{name}"' in draft(unmatched(request={name: TEXT}))


@pytest.mark.parametrize(
    ("seen", "quantity", "metric"),
    [
        ({"response": {"usage.totalTokens": COUNT}}, "response.body.usage.totalTokens", None),
        ({"response": {"count": COUNT, "credits": COUNT}}, "response.body.credits", "CREDITS"),
        ({"response": {"items[].units": COUNT}}, "sum(response.body.items[].units)", "UNITS"),
        ({"response": {"[].count": COUNT}}, "sum(response.body[].count)", "COUNT"),
        ({"request": {"pages": ("number",)}}, "request.body.pages", "PAGES"),
        ({"response": {"units": TEXT, "users.*.count": COUNT}}, Decimal(1), "API_CALL"),
        ({"response": {'"total-bytes"': COUNT}}, 'response.body."total-bytes"', "TOTAL_BYTES"),
        ({"response": {"id": COUNT, "discount": COUNT}}, Decimal(1), "API_CALL"),
    ],
)
def test_the_quantity_is_guessed_by_name(
    seen: dict[str, Any], quantity: object, metric: str | None
) -> None:
    """A number of the response, then one of the request; of a list the sum."""
    policy = drafted(unmatched(**seen))
    assert (policy.quantity, policy.metric) == (quantity, metric or "TOTALTOKENS")


def test_other_candidates_are_few() -> None:
    """They can be read at a glance."""
    many = unmatched(headers=tuple(f"x-account-{letter}" for letter in "abcdefghijk"))
    assert draft(many).count("\n  # {") == OTHERS_MAX


def test_all_others_can_be_drafted_too() -> None:
    """A policy that matches everything."""
    assert drafted(unmatched(*OTHERS)).match == (" ".join(OTHERS),)


names = st.text() | st.sampled_from(["account", "api_key", "sub", "total_tokens", "authorization"])


@given(
    path=st.text(),
    names=st.tuples(names, names, names),
    document=st.dictionaries(names, st.integers()),
)
def test_every_draft_is_valid(
    path: str, names: tuple[str, str, str], document: dict[str, int]
) -> None:
    """Whatever was seen."""
    tokens = tokens_of("/" + path, {})
    paths = paths_of(document)
    header, query, cookie = ((name,) for name in names)
    one = unmatched(
        template="/" if tokens is None else text_of(tokens),
        claims=paths,
        request=paths,
        response=paths,
        headers=header,
        query=query,
        cookies=cookie,
    )
    drafted(one)
