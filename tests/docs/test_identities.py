"""The page about identities: its tables are what the code does."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import usageflow
from usageflow._types import Headers
from usageflow.middleware.key_sets import JwksKeySets
from usageflow.middleware.metadata import read_metadata
from usageflow.policies import Policy, parse_file
from usageflow.policies.identity import compile_identity
from usageflow.policies.identity_values import normalizer
from usageflow.policies.reason import Reason
from usageflow.policies.routes import parse_template
from usageflow.policies.sources import ASYMMETRIC, HMAC, ApiKeySource, JwtSource, Source
from usageflow.policies.surroundings import Surroundings

PAGE = Path(usageflow.__file__).parents[1] / "docs" / "identities.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECRET = "correct horse battery staple, and then some"
SURROUNDINGS = Surroundings({"JWT_SECRET": SECRET})


def rows(header: str) -> list[list[str]]:
    """The rows of the table with this header, each cell as it is written."""
    found = re.search(
        rf"^\| {re.escape(header)} \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", TEXT, re.MULTILINE
    )
    assert found is not None, header
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in found[1].splitlines()]


def spans(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def source_of(written: str) -> Any:
    """A source from TOML."""
    policy = f'name = "x"\nmatch = "GET /:account"\nidentify = [{written}]\n'
    parsed = parse_file(f'[[policy]]\n{policy}field = "f"\nmetric = "M"\n', "t")
    assert parsed.problems == ()
    return parsed.policies[0][0].identify[0]


@dataclass
class Request:
    """What of a request's facts these sources read."""

    request_headers: Headers = field(default_factory=list)
    state: object = None
    path: str = "/v1/accounts/acct_path/reports"
    query_string: bytes = b""
    started_at_s: float = 1_800_000_000.0

    def metadata(self, name: str) -> object:
        """As the middleware reads it."""
        return read_metadata(name, {"state": self.state}, {})


def request_with(cell: str) -> Request:
    """A request as a cell describes it: `header: value`, `state: {...}` or nothing."""
    if not spans(cell):
        return Request()
    name, _, value = spans(cell)[0].partition(": ")
    if name == "state":
        return Request(state=json.loads(value))
    if value.startswith("Bearer {"):
        value = f"Bearer {jwt.encode(json.loads(value.removeprefix('Bearer ')), SECRET, 'HS256')}"
    return Request([(name.encode(), value.encode())])


def identify(policy: Policy, request: Any) -> str | Reason:
    """Whose the request is under the policy."""
    template = policy.routes[0].template
    read = compile_identity(policy.identify, template, SURROUNDINGS)
    return read(request, request.path.split("/"))


@pytest.mark.parametrize(("sent", "identity"), rows("the request has | identity"))
def test_the_first_source_that_can_tell_wins(sent: str, identity: str) -> None:
    """A bad token, an unknown key and two cookies leave it to the next source."""
    block = re.search(r'```toml\n(.*?name     = "account-reports".*?)```', TEXT, re.DOTALL)
    assert block is not None
    ((policy, _),) = parse_file(block[1], "t").policies
    assert [identify(policy, request_with(sent))] == spans(identity)


def test_every_source_is_in_the_table() -> None:
    """In order, each with an example that is valid."""
    kinds = [
        get_args(kind.model_fields["from_"].annotation)[0] for kind in get_args(get_args(Source)[0])
    ]
    table = rows("from | yields | example")
    assert sorted(spans(row[0])[0] for row in table) == sorted(kinds)
    for kind, _, example in table:
        assert source_of(spans(example)[0]).from_ == spans(kind)[0]


@pytest.mark.parametrize(("step", "becomes"), rows('step | `" Ab "` becomes'))
def test_a_step_does_what_the_table_says(step: str, becomes: str) -> None:
    """And nothing else."""
    assert [json.dumps(normalizer(spans(step))(" Ab "))] == spans(becomes)


@pytest.mark.parametrize(
    ("header", "kind"),
    [("key | | meaning", ApiKeySource), ("key | default | meaning", JwtSource)],
)
def test_the_keys_of_a_source_are_all_there(header: str, kind: Any) -> None:
    """In the table of its section."""
    told = [name for row in rows(header) for name in spans(row[0])]
    assert sorted(told) == sorted(kind.model_fields.keys() - {"from_", "normalize"})


def test_the_algorithms_are_all_there() -> None:
    """By the key that has them."""
    secret, public = rows("key | algorithms | without `algorithms`")
    assert (tuple(spans(secret[1])), tuple(spans(secret[2]))) == (HMAC, HMAC[:1])
    assert tuple(spans(public[1])) == ASYMMETRIC


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *(
            (f'{{ from = "{kind}", name = "{name}" }}', name)
            for kind in ("header", "query", "cookie")
            for name in ("authorization", "x-api-key", "access_token", "client-secret")
        ),
        *(
            (f'{{ from = "cookie", name = "{name}" }}', name)
            for name in ("sid", "session", "csrftoken")
        ),
    ],
)
def test_the_names_of_credentials_are_refused(written: str, name: str) -> None:
    """Those that the page names."""
    assert f"`{name}`" in TEXT
    with pytest.raises(AssertionError, match="carries a credential"):
        source_of(written)


RSA = rsa.generate_private_key(65_537, 2_048)


def token(key: Any = SECRET, alg: str = "HS256", **claims: object) -> Request:
    """A request with a token."""
    key = RSA if alg == "RS256" else key
    sent = jwt.encode({"sub": "a", "aud": "me", **claims}, key, alg)
    return Request([(b"authorization", f"Bearer {sent}".encode())])


JWT = 'from = "jwt", claim = "sub"'
VERIFIED = f'{{ {JWT}, secret = "env:JWT_SECRET" }}'
OWNERS = f'owners = {{ "{"ab" * 32}" = "a" }}'
OFFLINE = JwksKeySets(300, 30, 5)
OFFLINE.close()
TO_THE_INBOX: list[tuple[str, Request, Surroundings]] = [
    ('{ from = "header", name = "x-account-id" }', Request(), SURROUNDINGS),
    (
        '{ from = "cookie", name = "tenant" }',
        Request([(b"cookie", b"tenant=a; tenant=b")]),
        SURROUNDINGS,
    ),
    (
        f'{{ from = "api_key", header = "x-api-key", {OWNERS} }}',
        Request([(b"x-api-key", b"k")]),
        SURROUNDINGS,
    ),
    (VERIFIED, token(exp=1), SURROUNDINGS),
    (VERIFIED, token(key="x" * 32), SURROUNDINGS),
    (VERIFIED, token(key="x" * 64, alg="HS512"), SURROUNDINGS),
    (f'{{ {JWT}, secret = "env:JWT_SECRET", audience = "you" }}', token(), SURROUNDINGS),
    (VERIFIED, token(sub=None), SURROUNDINGS),
    (VERIFIED, token(), Surroundings()),
    (
        f'{{ {JWT}, keys = "https://login.example.com/jwks.json" }}',
        token(alg="RS256"),
        Surroundings(keys=OFFLINE),
    ),
    ('{ from = "metadata", name = "tenant" }', Request(), SURROUNDINGS),
]
"""For each row about the inbox, the source, the request and the edge that lead to it."""


@pytest.mark.parametrize(
    ("row", "case"), list(zip(rows("reason | what to do"), TO_THE_INBOX, strict=True))
)
def test_the_inbox_says_why(row: list[str], case: tuple[str, Any, Surroundings]) -> None:
    """In exactly these words, after `no identity`."""
    written, request, surroundings = case
    read = compile_identity([source_of(written)], parse_template("/:account"), surroundings)
    assert read(request, []) == Reason(f"no identity: {spans(row[0])[0]}")
