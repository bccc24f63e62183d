"""Whose a request is: each source, and why it yields nothing."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from usageflow.events import encode
from usageflow.policies import Policy, PolicySet, evaluate
from usageflow.policies.api_keys import digest
from usageflow.policies.facts import Facts
from usageflow.policies.identity import (
    Verifiers,
    compile_identity,
    key_servers,
    surroundings_problems,
)
from usageflow.policies.reason import Reason
from usageflow.policies.routes import parse_template
from usageflow.policies.sources import Source
from usageflow.policies.surroundings import Surroundings

SOURCE: TypeAdapter[Source] = TypeAdapter(Source)
HEADER = {"from": "header", "name": "X-Account"}
QUERY = {"from": "query", "name": "account"}
PATH = {"from": "path", "name": "id"}
BODY = {"from": "body", "path": "user.id"}
COOKIE = {"from": "cookie", "name": "tenant"}
API_KEY = {"from": "api_key", "header": "x-api-key", "secret": "env:KEYS"}
JWT = {"from": "jwt", "claim": "sub", "secret": "env:TOKENS"}
SECRET = "0123456789abcdef0123456789abcdef"
ENVIRON = Surroundings(environ={"KEYS": "pepper", "TOKENS": SECRET})


BYTES = st.one_of(
    st.binary(),
    st.binary().map(lambda sent: b"tenant=" + sent),
    st.binary().map(lambda sent: b"account=" + sent),
)


class Colour(str, Enum):  # noqa: UP042 - str() of a StrEnum would hide the trap
    """A text that has a name as well."""

    RED = "red"


def read(
    source: Mapping[str, Any],
    seen: Facts,
    *,
    template: str = "/a/:id",
    path: str = "/a/1",
    surroundings: Surroundings = ENVIRON,
) -> str | Reason:
    """What one source yields, or its reason."""
    compiled = compile_identity(
        [SOURCE.validate_python(source)], parse_template(template), surroundings
    )
    found = compiled(seen, path.split("/"))
    return Reason(found.text.removeprefix("no identity: ")) if isinstance(found, Reason) else found


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([(b"x-account", b"acct_42")], "acct_42"),
        ([(b"a", b"b"), (b"x-account", b" two words ")], " two words "),
        ([(b"x-account", "z\u00fcrich".encode())], "z\u00fcrich"),
        ([(b"x-account", b"z\xfcrich")], "z\u00fcrich"),
        ([(b"x-account", b"same"), (b"x-account", b"same")], "same"),
        ([(b"x-account", b"x" * 500)], "x" * 500),
        ([(b"x-account", "a\u00a0b".encode())], "a\u00a0b"),
    ],
)
def test_a_header_is_taken_as_it_was_sent(
    facts: Callable[..., Facts], headers: list[tuple[bytes, bytes]], value: str
) -> None:
    """The value is neither trimmed nor folded; UTF-8 is tried before Latin-1."""
    assert read(HEADER, facts(request_headers=headers)) == value


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([(b"x-accounts", b"a")], "is absent"),
        ([(b"x-account", b"a"), (b"x-account", b"b")], "occurs with different values"),
        ([(b"x-account", b"a"), (b"x-account", b"")], "occurs with different values"),
        ([(b"x-account", b"")], "is empty"),
        ([(b"x-account", b"x" * 501)], "has 501 characters; at most 500"),
        ([(b"x-account", b"a\x00b")], "contains control characters"),
        ([(b"x-account", b"a\x9fb")], "contains control characters"),
    ],
)
def test_a_header_that_identifies_nobody_says_why(
    facts: Callable[..., Facts], headers: list[tuple[bytes, bytes]], reason: str
) -> None:
    """Absent, contradictory, empty, oversized or unprintable: never a guess."""
    assert read(HEADER, facts(request_headers=headers)) == Reason(f"header x-account {reason}")


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (b"account=acct_42", "acct_42"),
        (b"a=1&account=a%2Fb+c&account=a/b%20c", "a/b c"),
        (b"acc%6Funt=x", "x"),
        ("account=z\u00fcrich".encode(), "z\u00fcrich"),
        (b"account=z%C3%BCrich", "z\u00fcrich"),
    ],
)
def test_a_query_parameter_is_decoded_as_forms_are(
    facts: Callable[..., Facts], query: bytes, value: str
) -> None:
    """Percent escapes and plus signs are undone, also in the name."""
    assert read(QUERY, facts(query_string=query)) == value


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (b"", "is absent"),
        (b"accounts=1", "is absent"),
        (b"account=a&account=b", "occurs with different values"),
        (b"account=", "is empty"),
        (b"account=%00", "contains control characters"),
        (b"account=%FF", "is not valid Unicode text"),
        (b"account=\xff", "is not valid Unicode text"),
    ],
)
def test_a_query_parameter_that_identifies_nobody_says_why(
    facts: Callable[..., Facts], query: bytes, reason: str
) -> None:
    """Bytes that are no text are not replaced: two customers would become one."""
    assert read(QUERY, facts(query_string=query)) == Reason(f"query account {reason}")


def test_a_path_parameter_is_its_segment(facts: Callable[..., Facts]) -> None:
    """The matched segment identifies; the rest of the path may too, if it is not empty."""
    assert read(PATH, facts(), path="/a/acct_42") == "acct_42"
    rest = "/a/{id:path}"
    assert read(PATH, facts(), path="/a/b/c", template=rest) == "b/c"
    assert read(PATH, facts(), path="/a/", template=rest) == Reason("path id is empty")
    assert read(PATH, facts(), path="/a/1\n") == Reason("path id contains control characters")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"user": {"id": "acct_42"}}', "acct_42"),
        (b'{"user": {"id": 42}}', "42"),
        (b'{"user": {"id": -1}}', "-1"),
        (b'{"user": {"id": 123456789012345678901234567890}}', "123456789012345678901234567890"),
        (b'{"user": {"id": 1.50}}', "1.50"),
        (b'{"user": {"id": 1e3}}', "1000"),
    ],
)
def test_a_value_of_the_body_identifies(
    facts: Callable[..., Facts], body: bytes, value: str
) -> None:
    """Text and numbers, the latter in plain notation with every digit."""
    assert read(BODY, facts(request=body)) == value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "request body is empty"),
        (b"x", "request body is not JSON: JSON is malformed: invalid character (byte 0)"),
        (b"{}", "request body user.id is missing"),
        (b'{"user": 1}', "request body user.id is missing"),
        (b'{"user": {"id": null}}', "request body user.id is missing"),
        (b'{"user": {"id": ""}}', "request body user.id is empty"),
        (b'{"user": {"id": true}}', "request body user.id is neither text nor a number"),
        (b'{"user": {"id": [1]}}', "request body user.id is neither text nor a number"),
        (b'{"user": {"id": {}}}', "request body user.id is neither text nor a number"),
        (b'{"user": {"id": 1e999}}', "request body user.id has more than 500 digits"),
        (b'{"user": {"id": 1e-999999}}', "request body user.id has more than 500 digits"),
        (
            b'{"user": {"id": ' + b"1" * 5_000 + b"}}",
            "request body holds a number with too many digits",
        ),
        (b'{"user": {"id": "a\\u0000"}}', "request body user.id contains control characters"),
    ],
)
def test_a_body_that_identifies_nobody_says_why(
    facts: Callable[..., Facts], body: bytes, reason: str
) -> None:
    """Booleans, null and containers are nobody; a number must be one that can be written."""
    assert read(BODY, facts(request=body)) == Reason(reason)


def test_an_expression_that_fails_is_a_reason(facts: Callable[..., Facts]) -> None:
    """The name of the source precedes what went wrong."""
    found = read({"from": "body", "path": "sum(user)"}, facts(request=b'{"user": "x"}'))
    assert found == Reason("request body sum(user): sum() got string, not array-number")


def test_the_first_source_that_yields_wins(facts: Callable[..., Facts]) -> None:
    """Sources are tried in order; all failing gives one reason that names each."""
    sources = [SOURCE.validate_python(source) for source in (HEADER, QUERY)]
    compiled = compile_identity(sources, parse_template("/"))
    both = facts(request_headers=[(b"x-account", b"h")], query_string=b"account=q")
    assert compiled(both, []) == "h"
    assert compiled(facts(query_string=b"account=q"), []) == "q"
    assert compiled(facts(), []) == Reason(
        "no identity: header x-account is absent; query account is absent"
    )


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([b"tenant=t1"], "t1"),
        ([b'a=b; tenant="t1"; c=d'], "t1"),
        ([b"a=b", b"tenant=t1"], "t1"),
        ([b"tenant=t1; tenant=t1"], "t1"),
        ([b" tenant = t1 ;"], "t1"),
        ([b"tenant=a=b"], "a=b"),
        ([b"tenants=x; tenant=t%20"], "t%20"),
    ],
)
def test_a_cookie_is_taken_as_it_was_sent(
    facts: Callable[..., Facts], lines: list[bytes], value: str
) -> None:
    """Out of one header or several, without its quotes, its escapes kept."""
    assert read(COOKIE, facts(request_headers=[(b"cookie", line) for line in lines])) == value


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "is absent"),
        ([b"Tenant=t1; xtenant=t1; tenant"], "is absent"),
        ([b"tenant=t1; tenant=t2"], "occurs with different values"),
        ([b"tenant=t1", b"tenant="], "occurs with different values"),
        ([b"tenant="], "is empty"),
        ([b'tenant=""'], "is empty"),
        ([b"tenant=a\x01"], "contains control characters"),
    ],
)
def test_a_cookie_that_identifies_nobody_says_why(
    facts: Callable[..., Facts], lines: list[bytes], reason: str
) -> None:
    """Two cookies of one name come from two paths or domains: neither is preferred."""
    seen = facts(request_headers=[(b"cookie", line) for line in lines])
    assert read(COOKIE, seen) == Reason(f"cookie tenant {reason}")


def test_a_keyed_digest_stands_for_an_api_key(facts: Callable[..., Facts]) -> None:
    """The same key is the same identity, and nothing of the key is in it."""
    seen = facts(request_headers=[(b"x-api-key", b"sk_live_1")])
    found = read(API_KEY, seen)
    assert found == f"key_{digest('sk_live_1', 'pepper')[:32]}"
    other = facts(request_headers=[(b"x-api-key", b"sk_live_2")])
    assert found != read(API_KEY, other)


def test_an_api_key_is_normalised_before_it_is_hashed(facts: Callable[..., Facts]) -> None:
    """In the table and in the identity the digest is that of the normalised key."""
    normalize = {"normalize": ["trim", "lower"]}
    seen = facts(request_headers=[(b"x-api-key", b" SK_1 ")])
    owners = {digest("sk_1", None): "acct_1", digest("SK_1", None): "acct_2"}
    owned = {"from": "api_key", "header": "x-api-key", "owners": owners}
    assert read({**owned, **normalize}, seen) == "acct_1"
    same = facts(request_headers=[(b"x-api-key", b"sk_1")])
    assert read({**API_KEY, **normalize}, seen) == read(API_KEY, same)


def test_the_owner_of_an_api_key_is_in_the_table(facts: Callable[..., Facts]) -> None:
    """Wherever the key is sent, with or without a scheme before it; the digest decides."""
    owners = {"owners": {digest("sk_live_1", None): "acct_42"}}
    for place, seen in (
        ({"header": "x-api-key"}, facts(request_headers=[(b"x-api-key", b"sk_live_1")])),
        ({"query": "key"}, facts(query_string=b"key=sk_live_1")),
        ({"cookie": "key"}, facts(request_headers=[(b"cookie", b"key=sk_live_1")])),
        (
            {"header": "authorization", "scheme": "Bearer"},
            facts(request_headers=[(b"authorization", b"bearer  sk_live_1")]),
        ),
    ):
        assert read({"from": "api_key", **place, **owners}, seen) == "acct_42"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, " is absent"),
        (b"Basic sk_live_1", " does not begin with Bearer"),
        (b"Bearer ", ": the key is empty"),
        (b"Bearer sk_live_2", ": the key is in no row of the policy's owners"),
        (b"Bearer " + b"x" * 4_097, ": the key has more than 4096 characters"),
    ],
)
def test_an_api_key_of_nobody_says_why_without_the_key(
    facts: Callable[..., Facts], value: bytes | None, reason: str
) -> None:
    """The reason is recorded, so it repeats nothing that was sent."""
    source = {
        "from": "api_key",
        "header": "authorization",
        "scheme": "Bearer",
        "owners": {digest("sk_live_1", None): "acct_42"},
    }
    seen = facts(request_headers=[] if value is None else [(b"authorization", value)])
    assert read(source, seen) == Reason(f"header authorization{reason}")


def token(**claims: Any) -> bytes:
    """A token signed with SECRET."""
    return jwt.encode(claims, SECRET, "HS256").encode()


@pytest.mark.parametrize("value", [b"Bearer %s", b"bearer   %s ", b"%s"])
def test_a_token_in_a_header_identifies(facts: Callable[..., Facts], value: bytes) -> None:
    """With or without the word Bearer, in any case."""
    seen = facts(request_headers=[(b"authorization", value % token(sub="acct_42"))])
    assert read(JWT, seen) == "acct_42"


def test_a_token_in_a_cookie_or_another_header_identifies(facts: Callable[..., Facts]) -> None:
    """The policy says where tokens are sent; nested claims and numbers are found."""
    sent = token(org={"id": 42})
    seen = facts(request_headers=[(b"x-id", sent), (b"cookie", b"session=" + sent)])
    assert read({**JWT, "claim": "org.id", "cookie": "session"}, seen) == "42"
    assert read({**JWT, "claim": "org.id", "header": "X-ID"}, seen) == "42"
    assert read({**JWT, "claim": "org.id"}, seen) == Reason("header authorization is absent")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([b"Bearer Bearer %s"], ": the token's header is malformed"),
        ([b"Basic %s"], ": the token's header is malformed"),
        ([b"Bearer"], ": the token is not a signed token"),
        ([b"Bearer %s", b"Bearer x"], " occurs with different values"),
        ([b"Bearer %sx"], ": the token's signature is wrong"),
    ],
)
def test_a_header_without_one_good_token_identifies_nobody(
    facts: Callable[..., Facts], values: list[bytes], reason: str
) -> None:
    """Whichever of two tokens the app believes, metering does not choose."""
    sent = token(sub="acct_42")
    headers = [(b"authorization", value.replace(b"%s", sent)) for value in values]
    found = read(JWT, facts(request_headers=headers))
    assert found == Reason(f"header authorization{reason}")


def test_a_token_is_judged_by_when_the_request_began(facts: Callable[..., Facts]) -> None:
    """One that expires during a long response was valid when it was used."""
    headers = [(b"authorization", token(sub="acct_42", exp=1_000))]
    assert read(JWT, facts(request_headers=headers, started_at_s=999.9)) == "acct_42"
    expired = Reason("header authorization: the token has expired")
    assert read(JWT, facts(request_headers=headers, started_at_s=1_000.0)) == expired


def test_a_claim_is_judged_like_every_identity(facts: Callable[..., Facts]) -> None:
    """A verified token may still hold what cannot be stored."""
    headers = [(b"authorization", token(sub="a\0b"))]
    found = read(JWT, facts(request_headers=headers))
    assert found == Reason("header authorization contains control characters")


@pytest.mark.parametrize(
    ("known", "value"),
    [
        ("t1", "t1"),
        (7, "7"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (None, Reason("metadata tenant is missing")),
        ("", Reason("metadata tenant is empty")),
        (True, Reason("metadata tenant is neither text nor a number")),
        (1.5, Reason("metadata tenant is neither text nor a number")),
        ({}, Reason("metadata tenant is neither text nor a number")),
        (Reason("it cannot be read"), Reason("metadata tenant: it cannot be read")),
    ],
)
def test_what_the_app_knows_identifies(
    facts: Callable[..., Facts], known: object, value: str | Reason
) -> None:
    """Texts, exact numbers and UUIDs; nothing is made up from anything else."""
    source = {"from": "metadata", "name": "tenant"}
    assert read(source, facts(known={"tenant": known})) == value


def test_a_fixed_identity_is_everybody_s(facts: Callable[..., Facts]) -> None:
    """A proxy in front of one tenant's API knows who pays."""
    assert read({"from": "metadata", "value": "acct_1"}, facts()) == "acct_1"


def test_a_table_leads_from_a_header_to_an_identity(facts: Callable[..., Facts]) -> None:
    """What is not in it is nobody; normalising comes before looking up."""
    source = {
        "from": "metadata",
        "header": "X-Tenant",
        "table": {"t1": "Acct_1"},
        "normalize": ["trim", "lower"],
    }
    assert read(source, facts(request_headers=[(b"x-tenant", b" T1 ")])) == "Acct_1"
    unknown = Reason("header x-tenant is in no row of the policy's table")
    assert read(source, facts(request_headers=[(b"x-tenant", b"t2")])) == unknown
    assert read(source, facts()) == Reason("header x-tenant is absent")


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        ([], " \u00c4B "),
        (["trim"], "\u00c4B"),
        (["lower"], " \u00e4b "),
        (["trim", "lower"], "\u00e4b"),
    ],
)
def test_a_value_is_normalised_only_as_declared(
    facts: Callable[..., Facts], steps: list[str], value: str
) -> None:
    """Whichever source it comes from."""
    text = " \u00c4B "
    body = f'{{"user": {{"id": "{text}"}}}}'.encode()
    for source, seen in (
        (HEADER, facts(request_headers=[(b"x-account", text.encode())])),
        (QUERY, facts(query_string=f"account={text}".encode())),
        (BODY, facts(request=body)),
        ({"from": "metadata", "name": "tenant"}, facts(known={"tenant": text})),
        (JWT, facts(request_headers=[(b"authorization", token(sub=text))])),
    ):
        assert read({**source, "normalize": steps}, seen) == value
    assert read({**PATH, "normalize": steps}, facts(), path=f"/a/{text}") == value


def test_what_normalising_leaves_must_be_an_identity(facts: Callable[..., Facts]) -> None:
    """White space is nobody once it is trimmed away."""
    seen = facts(request_headers=[(b"x-account", b"  ")])
    found = read({**HEADER, "normalize": ["trim"]}, seen)
    assert found == Reason("header x-account is empty")


def test_a_forged_token_bills_nobody(facts: Callable[..., Facts]) -> None:
    """Weakness 16: the vendor's middleware bills whom a token names, whoever signed it."""
    forged = jwt.encode({"sub": "victim", "exp": 1}, "x" * 32, "HS256").encode()
    found = read(JWT, facts(request_headers=[(b"authorization", b"Bearer " + forged)]))
    assert found == Reason("header authorization: the token's signature is wrong")


def test_no_credential_is_recorded(
    facts: Callable[..., Facts], policy: Callable[..., Policy]
) -> None:
    """Weakness 17: the vendor's middleware sends them along; here none is kept."""
    good, bad = token(sub="acct_42").decode(), jwt.encode({"sub": "a"}, "x" * 32, "HS256")
    key = {**API_KEY, "header": "x-key"}
    for source, name, sent in (
        (JWT, b"authorization", good),
        (JWT, b"authorization", bad),
        (key, b"x-key", "sk_1"),
    ):
        seen = facts(request_headers=[(name, sent.encode())])
        match = PolicySet.build([(policy(identify=[source]), "1")], ENVIRON).match(
            "POST", "/v1/chat"
        )
        assert match is not None
        (event,) = evaluate(match, seen, now=datetime.now(UTC), new_id=lambda: "1")
        line = encode(event)
        assert not any(part.encode() in line for part in sent.split("."))


def test_a_caller_without_an_identity_is_told_apart(
    facts: Callable[..., Facts], policy: Callable[..., Policy]
) -> None:
    """Weakness 18: without the header, the vendor's middleware lets a caller pass uncounted."""
    match = PolicySet.build([(policy(), "1")]).match("POST", "/v1/chat")
    assert match is not None
    (event,) = evaluate(match, facts(), now=datetime.now(UTC), new_id=lambda: "1")
    assert (event.state, event.identity.value, str(event.quantity)) == ("inbox", None, "1")
    assert event.reason == "no identity: header x-account is absent"


def test_path_parameters_and_plain_cookies_identify(facts: Callable[..., Facts]) -> None:
    """Weakness 19: the vendor's middleware looks for them where they are not."""
    uid = {"from": "path", "name": "uid"}
    assert read(uid, facts(), template="/users/{uid}", path="/users/bob") == "bob"
    assert read(COOKIE, facts(request_headers=[(b"cookie", b"tenant=bob")])) == "bob"


@pytest.mark.parametrize(("sent", "found"), [("bob", "bob"), ("bob ", "bob"), ("Bob", "bob")])
def test_one_caller_has_one_identity(facts: Callable[..., Facts], sent: str, found: str) -> None:
    """Weakness 20: to the vendor's middleware these are three, and a name may have any length."""
    source = {**HEADER, "normalize": ["trim", "lower"]}
    assert read(source, facts(request_headers=[(b"x-account", sent.encode())])) == found
    endless = facts(request_headers=[(b"x-account", sent.encode() * 10_000)])
    assert isinstance(read(source, endless), Reason)


@pytest.mark.parametrize(
    ("source", "name"), [(JWT, "TOKENS"), ({**API_KEY, "header": "authorization"}, "KEYS")]
)
@pytest.mark.parametrize("environ", [{}, {"TOKENS": "", "KEYS": ""}])
def test_a_missing_secret_sends_requests_to_the_inbox(
    facts: Callable[..., Facts],
    policy: Callable[..., Policy],
    source: dict[str, Any],
    name: str,
    environ: dict[str, str],
) -> None:
    """The policy stays in force; the reason and the problem name the variable."""
    surroundings = Surroundings(environ=environ)
    seen = facts(request_headers=[(b"authorization", b"x")])
    text = f"the environment variable {name} is not set"
    found = read(source, seen, surroundings=surroundings)
    assert found == Reason(f"header authorization: {text}")
    subject = policy(identify=[HEADER, source])
    assert surroundings_problems(subject, surroundings) == [f"identify[2]: {text}"]
    assert surroundings_problems(subject, ENVIRON) == []


def test_equal_sources_share_what_they_verified() -> None:
    """A set of 5,000 policies with one issuer verifies each token once."""
    verifiers: Verifiers = {}
    for claim in ("sub", "sub", "org"):
        source = SOURCE.validate_python({**JWT, "claim": claim})
        compile_identity([source], parse_template("/"), ENVIRON, verifiers)
    assert len(verifiers) == 2


def test_the_key_servers_of_policies_are_known(policy: Callable[..., Policy]) -> None:
    """So that their keys can be fetched before a token comes; policies that are off need none."""
    keys = {"from": "jwt", "claim": "sub", "keys": "https://a.example/jwks"}
    policies = [
        policy(identify=[HEADER, keys]),
        policy(identify=[keys, JWT]),
        policy(identify=[{**keys, "keys": "https://b.example/jwks"}], mode="off"),
    ]
    assert key_servers(policies) == {"https://a.example/jwks"}


@given(
    st.lists(st.tuples(st.sampled_from((b"x-account", b"cookie", b"authorization")), BYTES)), BYTES
)
def test_no_bytes_make_a_source_raise(
    facts: Callable[..., Facts], headers: list[tuple[bytes, bytes]], query: bytes
) -> None:
    """Whatever a client sends is a text that can be stored, or a reason."""
    key = {**API_KEY, "header": "authorization"}
    for source in (
        HEADER,
        QUERY,
        COOKIE,
        key,
        {**API_KEY, "header": None, "query": "account"},
        JWT,
    ):
        found = read(source, facts(request_headers=headers, query_string=query))
        if isinstance(found, str):
            assert 1 <= len(found) <= 500
            assert found.encode()


@given(st.decimals(-(10**20), 10**20, allow_nan=False, allow_infinity=False, places=6))
def test_a_number_of_the_body_keeps_every_digit(
    facts: Callable[..., Facts], number: Decimal
) -> None:
    """The identity is the same number, exactly."""
    found = read(BODY, facts(request=f'{{"user": {{"id": {number}}}}}'.encode()))
    assert isinstance(found, str)
    assert Decimal(found) == number
    assert "E" not in found
