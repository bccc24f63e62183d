"""What a source may say, and what of it is refused because it would be unsafe or mean nothing."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from usageflow.policies import Policy
from usageflow.policies.document import canonical
from usageflow.policies.problems import explain

DIGEST = "ab" * 32
JWT = {"from": "jwt", "claim": "sub", "secret": "env:S"}
KEYS = {"from": "jwt", "claim": "sub", "keys": "https://issuer.example/jwks.json"}
API_KEY = {"from": "api_key", "header": "X-Api-Key", "secret": "env:S"}
OWNERS = {"from": "api_key", "header": "X-Api-Key"}
METADATA = {"from": "metadata", "name": "tenant"}
TABLE = {"from": "metadata", "header": "X-Tenant", "table": {"t2": "b", "t1": "a"}}
COOKIE = {"from": "cookie", "name": "tenant"}
PEM = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
ONE_KEY = "needs one of secret, pem and keys to verify tokens with, or unverified = true"
ONE_FORM = "needs one of name, value, and header with a table"

VALID: list[dict[str, Any]] = [
    {"from": "header", "name": "x-account", "normalize": ["trim", "lower"]},
    {"from": "query", "name": "account"},
    {"from": "path", "name": "id"},
    {"from": "body", "path": "user.id"},
    COOKIE,
    {**COOKIE, "name": "author_side"},
    API_KEY,
    {**OWNERS, "owners": {DIGEST: "acct_1", "cd" * 32: "acct_2"}},
    {"from": "api_key", "query": "api_key", "secret": "env:S"},
    {"from": "api_key", "cookie": "token", "secret": "env:S"},
    {**API_KEY, "header": "authorization", "scheme": "Bearer"},
    JWT,
    {**JWT, "header": "X-Token", "algorithms": ["HS512"], "leeway_s": 300},
    {**JWT, "cookie": "session", "audience": "a", "issuer": ["b", "c"]},
    {"from": "jwt", "claim": "org.id", "pem": PEM, "algorithms": ["ES256"]},
    {"from": "jwt", "claim": "sub", "pem": "env:PEM"},
    {**KEYS, "algorithms": ["RS256", "EdDSA"]},
    {**KEYS, "keys": "http://127.0.0.1:8080/jwks?a=b"},
    {**KEYS, "keys": "http://localhost/jwks"},
    {**KEYS, "keys": "http://[::1]:1/jwks"},
    {"from": "jwt", "claim": "sub", "unverified": True},
    METADATA,
    {"from": "metadata", "value": "acct_1"},
    TABLE,
    {**TABLE, "table": {" T1 ": "a"}},
    {**TABLE, "normalize": ["trim"], "table": {"T 1": "A"}},
    {**TABLE, "normalize": ["trim", "lower"], "table": {"t1": "A", "t 2": " B "}},
]

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"from": "header", "name": "x", "normalize": ["upper"]}, ".normalize[1]: must be 'trim' or"),
    ({"from": "api_key", "secret": "env:S"}, ": needs one of header, query and cookie"),
    ({**API_KEY, "query": "key"}, ": needs one of header, query and cookie"),
    ({"from": "api_key", "query": "k", "secret": "env:S", "scheme": "B"}, ": scheme goes with"),
    (OWNERS, ": needs owners, a table of whom each key belongs to, or a secret"),
    ({**OWNERS, "owners": {}}, ": needs owners, a table of whom each key belongs to, or a secret"),
    ({"from": "jwt", "secret": "env:S"}, ".claim: is required"),
    ({**JWT, "claim": "a["}, ".claim: column 3: the expression is incomplete"),
    ({"from": "jwt", "claim": "sub"}, f": {ONE_KEY}"),
    ({"from": "jwt", "claim": "sub", "unverified": False}, f": {ONE_KEY}"),
    ({**JWT, "pem": PEM}, f": {ONE_KEY}"),
    ({**JWT, "unverified": True}, f": {ONE_KEY}"),
    ({**JWT, "unverified": "yes"}, ".unverified: must be true or false"),
    ({**JWT, "header": "a", "cookie": "b"}, ": header and cookie exclude each other"),
    ({**JWT, "algorithms": ["RS256"]}, ": algorithms: secret can have HS256, HS384, HS512"),
    ({**JWT, "algorithms": ["none"]}, ": algorithms: secret can have HS256, HS384, HS512"),
    ({**KEYS, "algorithms": ["RS256", "HS256"]}, ": algorithms: pem and keys can have RS256, "),
    (
        {"from": "jwt", "claim": "sub", "unverified": True, "algorithms": ["RS256"]},
        ": algorithms mean nothing with unverified = true",
    ),
    ({**JWT, "leeway_s": 301}, ".leeway_s: input should be less than or equal to 300"),
    ({**JWT, "leeway_s": -1}, ".leeway_s: input should be greater than or equal to 0"),
    ({**JWT, "leeway_s": 1.5}, ".leeway_s: must be a whole number"),
    ({"from": "metadata"}, f": {ONE_FORM}"),
    ({**METADATA, "value": "a"}, f": {ONE_FORM}"),
    ({"from": "metadata", "value": "a", "table": {"a": "b"}}, f": {ONE_FORM}"),
    ({"from": "metadata", "header": "x-t"}, f": {ONE_FORM}"),
    (
        {**TABLE, "normalize": ["lower"], "table": {"t1": "a", "T2": "b"}},
        ": table: 'T2' can never match, as normalize changes what is sent before it is looked up",
    ),
    ({**TABLE, "normalize": ["trim"], "table": {" t1": "a"}}, ": table: ' t1' can never match"),
]


@pytest.mark.parametrize("source", VALID)
def test_a_valid_source_survives_storing(
    policy: Callable[..., Policy], source: dict[str, Any]
) -> None:
    """As JSON and back it is the same policy, equal and with the same hash; tables stay tables."""
    made = policy(match="GET /:id", identify=[source])
    stored = msgspec.json.decode(canonical(made))
    assert {type(stored["identify"][0].get(key)) for key in ("owners", "table")} <= {
        dict,
        type(None),
    }
    again = Policy.model_validate(stored)
    assert again == made
    assert hash(again.identify) == hash(made.identify)


@pytest.mark.parametrize(("source", "problem"), INVALID)
def test_an_unsafe_or_meaningless_source_is_refused(
    policy: Callable[..., Policy], source: dict[str, Any], problem: str
) -> None:
    """In words for the person who wrote it; what single values may be is in test_source_values."""
    with pytest.raises(ValidationError) as refused:
        policy(match="GET /:id", identify=[source])
    told = explain(refused.value, Policy)
    assert len(told) == 1
    field, message = told[0]
    assert field == "identify"
    assert message.startswith(f"identify[1]{problem}")


def test_the_order_of_a_table_says_nothing(policy: Callable[..., Policy]) -> None:
    """The same table is the same policy, so its version does not change."""
    one, two = (
        policy(identify=[{**OWNERS, "owners": dict(rows)}])
        for rows in ([(DIGEST, "a"), ("cd" * 32, "b")], [("cd" * 32, "b"), (DIGEST, "a")])
    )
    assert one == two
