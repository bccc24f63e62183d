"""Tokens: which of them is an identity, and every way we know to forge one."""

import base64
import decimal
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow.policies.reason import Reason
from usageflow.policies.sources import JwtSource
from usageflow.policies.surroundings import Surroundings
from usageflow.policies.tokens import TOKEN_CHARS_MAX, TokenVerifier

NOW_S = 1_800_000_000.0
SECRET = "correct horse battery staple, and then some more of it, 64 chars."
URL = "https://issuer.example/jwks.json"
RSA = rsa.generate_private_key(65_537, 2_048)
OTHER_RSA = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SIGNERS: dict[str, Any] = {
    "HS256": SECRET,
    "HS384": SECRET,
    "HS512": SECRET,
    "RS256": RSA,
    "RS384": RSA,
    "RS512": RSA,
    "PS256": RSA,
    "PS384": RSA,
    "PS512": RSA,
    "ES256": EC,
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "ES256K": ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ED,
}
WRONG = Reason("the token's signature is wrong")


def pem_of(key: Any) -> str:
    """The public half."""
    encoded: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


class Keys:
    """Keys as a key server would have them; counts how often it is asked."""

    def __init__(self, **keys: Any) -> None:
        self.keys = {
            kid: jwt.PyJWK(jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), True) | said)
            for kid, (name, key, said) in keys.items()
        }
        self.version = 1
        self.asked = 0

    def find(self, url: str, kid: str | None) -> jwt.PyJWK | Reason:
        """See KeySets."""
        assert url == URL
        self.asked += 1
        return self.keys.get(kid or "") or Reason("no such key")

    def generation(self, url: str) -> int:
        """See KeySets."""
        assert url == URL
        return self.version


def verifier(served: Keys | None = None, *, tokens_max: int = 10, **said: Any) -> TokenVerifier:
    """A source with a secret, unless it says otherwise."""
    if not {"secret", "pem", "keys", "unverified"} & said.keys():
        said["secret"] = "env:SECRET"
    source = JwtSource.model_validate({"from": "jwt", "claim": "sub", **said})
    surroundings = Surroundings({"SECRET": SECRET}, served or Keys(), tokens_max=tokens_max)
    subject = TokenVerifier(source, surroundings)
    assert subject.problem is None
    return subject


def signed(alg: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A good token for acct_42, unless it claims otherwise."""
    return jwt.encode({"sub": "acct_42", **claims}, SIGNERS[alg], alg, headers)


def raw(header: object, payload: object, key: str = SECRET) -> str:
    """Anything as a token, signed with HS256 whatever its header says; bytes stand as they are."""
    parts = [
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header, payload)
    ]
    body = b".".join(part.rstrip(b"=") for part in parts)
    signature = hmac.digest(key.encode(), body, "sha256")
    return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@pytest.fixture(autouse=True)
def _moments_may_be_floats() -> Iterator[None]:
    """The clock is a float and the claims of a token are exact; moments are no quantities."""
    with decimal.localcontext() as context:
        context.traps[decimal.FloatOperation] = False
        yield


@pytest.mark.parametrize("alg", SIGNERS)
def test_a_signed_token_is_verified(alg: str) -> None:
    """With every algorithm, by its secret or its public key; another key's is refused."""
    key: dict[str, Any] = {} if alg.startswith("HS") else {"pem": pem_of(SIGNERS[alg])}
    subject = verifier(algorithms=[alg], **key)
    assert subject.identify(signed(alg), NOW_S) == "acct_42"
    head, payload, signature = signed(alg).split(".")
    forged = base64.urlsafe_b64encode(b'{"sub":"victim"}').decode().rstrip("=")
    assert subject.identify(f"{head}.{forged}.{signature}", NOW_S) == WRONG
    flipped = ("B" if signature[5] == "A" else "A") + signature[6:]
    assert subject.identify(f"{head}.{payload}.{signature[:5]}{flipped}", NOW_S) == WRONG


@pytest.mark.parametrize("alg", [alg for alg in SIGNERS if not alg.startswith("HS")])
def test_without_algorithms_a_public_key_has_those_that_fit(alg: str) -> None:
    """RSA keys sign in six ways, the others in one."""
    subject = verifier(pem=pem_of(SIGNERS[alg]))
    assert subject.identify(signed(alg), NOW_S) == "acct_42"


def test_another_key_s_signature_is_wrong() -> None:
    """A forged token is nobody."""
    token = jwt.encode({"sub": "victim"}, "x" * 32, "HS256")
    assert verifier().identify(token, NOW_S) == WRONG
    token = jwt.encode({"sub": "victim"}, OTHER_RSA, "RS256")
    assert verifier(pem=pem_of(RSA)).identify(token, NOW_S) == WRONG


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE"])
@pytest.mark.parametrize("said", [{}, {"pem": pem_of(RSA)}, {"keys": URL}, {"unverified": True}])
def test_an_unsigned_token_is_nobody(alg: str, said: dict[str, Any]) -> None:
    """However it spells that, and whatever the source verifies with."""
    token = raw({"alg": alg}, {"sub": "victim"})
    for sent in (token, token.rsplit(".", 1)[0] + "."):
        assert verifier(**said).identify(sent, NOW_S) == Reason("the token is not signed")


def test_a_public_key_is_no_secret() -> None:
    """Algorithm confusion: HS256 with the public key, which everybody has, as its secret."""
    pem = pem_of(RSA)
    token = raw({"alg": "HS256", "kid": "a"}, {"sub": "victim"}, key=pem)
    for subject in (verifier(pem=pem), verifier(Keys(a=("RS256", RSA, {})), keys=URL)):
        found = subject.identify(token, NOW_S)
        assert isinstance(found, Reason)
        assert found.text.startswith("the token's algorithm is none of RS256")


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA", "HS384", "HS257", "", "x" * 1_000])
def test_a_token_does_not_choose_its_algorithm(alg: str) -> None:
    """A source with a secret takes what it allows, and repeats nothing of the token."""
    token = raw({"alg": alg}, {"sub": "victim"})
    assert verifier().identify(token, NOW_S) == Reason("the token's algorithm is none of HS256")


def test_only_the_allowed_algorithms_of_a_key_verify() -> None:
    """An RSA key could do more than the policy says."""
    subject = verifier(pem=pem_of(RSA), algorithms=["PS256"])
    assert subject.identify(signed("PS256"), NOW_S) == "acct_42"
    refused = Reason("the token's algorithm is none of PS256")
    assert subject.identify(signed("RS256"), NOW_S) == refused


@pytest.mark.parametrize(
    "headers",
    [
        {"jwk": json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(OTHER_RSA.public_key()))},
        {"jku": "http://127.0.0.1:9/evil.json"},
        {"x5u": "http://127.0.0.1:9/evil.pem"},
        {"x5c": ["MIIB"]},
    ],
)
def test_a_token_does_not_bring_its_key(headers: dict[str, Any]) -> None:
    """Keys, certificates and addresses in a header are ignored."""
    evil = jwt.encode({"sub": "victim"}, OTHER_RSA, "RS256", headers | {"kid": "a"})
    good = jwt.encode({"sub": "acct_42"}, RSA, "RS256", headers | {"kid": "a"})
    subject = verifier(Keys(a=("RS256", RSA, {})), keys=URL)
    assert subject.identify(evil, NOW_S) == WRONG
    assert subject.identify(good, NOW_S) == "acct_42"


@pytest.mark.parametrize("kid", ["../../dev/null", "b", "", "a\u0000", "x" * 5_000, "' OR 1=1"])
def test_a_key_id_only_selects_among_our_keys(kid: str) -> None:
    """It is looked up and nothing else."""
    subject = verifier(Keys(a=("RS256", RSA, {})), keys=URL)
    token = signed("RS256", {"kid": kid})
    assert subject.identify(token, NOW_S) == Reason("no such key")
    token = raw({"alg": "RS256", "kid": ["a"]}, {"sub": "victim"})
    assert subject.identify(token, NOW_S) == Reason("the token's header is malformed")


def test_a_key_of_a_set_has_the_algorithm_that_it_declares() -> None:
    """Without a declaration its type decides; the policy's list stands above both."""
    keys = Keys(a=("RS256", RSA, {}), b=("RS256", RSA, {"alg": "RS256"}), e=("ES256", EC, {}))
    subject = verifier(keys, keys=URL)
    another = Reason("the key that the token names is for another algorithm")
    for alg, kid, found in (
        ("RS256", "a", "acct_42"),
        ("PS512", "a", "acct_42"),
        ("RS256", "b", "acct_42"),
        ("PS512", "b", another),
        ("ES256", "e", "acct_42"),
        ("RS256", "e", another),
        ("ES384", "e", another),
        ("ES256", "a", another),
        ("EdDSA", "e", another),
    ):
        assert subject.identify(signed(alg, {"kid": kid}), NOW_S) == found


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256", "crit": ["exp"], "exp": 1},
        {"alg": "HS256", "crit": None},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "b64": False},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
    ],
)
@pytest.mark.parametrize("said", [{}, {"unverified": True}])
def test_what_a_token_demands_and_we_do_not_know_is_refused(
    header: dict[str, Any], said: dict[str, Any]
) -> None:
    """RFC 7515, section 4.1.11; RFC 7797."""
    found = verifier(**said).identify(raw(header, {"sub": "victim"}), NOW_S)
    assert found == Reason("the token's header demands an extension")


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "x", 5, None])
def test_the_type_of_a_token_is_not_asked(typ: object) -> None:
    """Issuers disagree about it, and the policy names the issuer."""
    assert verifier().identify(raw({"alg": "HS256", "typ": typ}, {"sub": "a"}), NOW_S) == "a"


NOT_SIGNED = "the token is not a signed token"
BAD_HEADER = "the token's header is malformed"


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("", NOT_SIGNED),
        ("x", NOT_SIGNED),
        ("a.b", NOT_SIGNED),
        ("a.b.c.d.e", NOT_SIGNED),
        ("..", BAD_HEADER),
        ("a.b.c", BAD_HEADER),
        ("\u00e4.b.c", BAD_HEADER),
        (raw([], {}), BAD_HEADER),
        (raw({}, {}), BAD_HEADER),
        (raw({"alg": 5}, {}), BAD_HEADER),
        (raw({"alg": "HS256", "b64": "no"}, {}), BAD_HEADER),
        (raw(b"\xff", {}), BAD_HEADER),
        (raw(b'{"alg": "HS256", "x": ' + b"[" * 3_000 + b"]" * 3_000 + b"}", {}), BAD_HEADER),
        (raw({"alg": "HS256", "kid": None}, {"sub": "a"}), "the token is malformed"),
        (signed()[:-1], "the token is malformed"),
        (signed()[:-3], "the token's signature is wrong"),
        (signed().replace(".", ".!", 1), "the token is malformed"),
        (signed()[: signed().rindex(".")], NOT_SIGNED),
        (raw({"alg": "HS256"}, b""), "the token's payload is not JSON"),
        (raw({"alg": "HS256"}, b"\xff"), "the token's payload is not JSON"),
        (raw({"alg": "HS256"}, b'{"sub": NaN}'), "the token's payload is not JSON"),
        (raw({"alg": "HS256"}, []), "the token's payload is no object"),
        (raw({"alg": "HS256"}, "acct_42"), "the token's payload is no object"),
        (raw({"alg": "HS256"}, b"[" * 2_500 + b"]" * 2_500), "the token's payload is nested too"),
        (raw({"alg": "HS256"}, b"[" * 10_000), "the token has more than 8192 characters"),
        ("x" * 100_000, "the token has more than 8192 characters"),
    ],
)
def test_a_malformed_token_is_nobody(token: str, text: str) -> None:
    """Truncated, not base64, not JSON, nested, huge: a reason that quotes nothing of it."""
    found = verifier().identify(token, NOW_S)
    assert isinstance(found, Reason)
    assert found.text.startswith(text)


EXPIRED = Reason("the token has expired")
EARLY = Reason("the token is not valid yet")
NO_EXP = Reason("the token's exp is not a time")
NO_NBF = Reason("the token's nbf is not a time")


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ('"exp": 1800000001', "a"),
        ('"exp": 1800000000', EXPIRED),
        ('"exp": 1800000000.5', "a"),
        ('"exp": 1799999999.9', EXPIRED),
        ('"exp": 0', EXPIRED),
        ('"exp": -1', EXPIRED),
        ('"exp": -1e400', EXPIRED),
        ('"exp": 1e400', "a"),
        ('"exp": 1e-400', EXPIRED),
        ('"exp": 99999999999999999999999999', "a"),
        ('"exp": "1800000001"', NO_EXP),
        ('"exp": "NaN"', NO_EXP),
        ('"exp": null', NO_EXP),
        ('"exp": true', NO_EXP),
        ('"exp": [1800000001]', NO_EXP),
        ('"exp": {}', NO_EXP),
        ('"nbf": 1800000000', "a"),
        ('"nbf": 1800000001', EARLY),
        ('"nbf": 1800000000.1', EARLY),
        ('"nbf": -5', "a"),
        ('"nbf": 1e400', EARLY),
        ('"nbf": "0"', NO_NBF),
        ('"nbf": null', NO_NBF),
        ('"iat": 1900000000', "a"),
        ('"iat": "soon"', "a"),
    ],
)
@pytest.mark.parametrize("said", [{}, {"unverified": True}])
def test_a_token_is_an_identity_while_it_is_valid(
    claims: str, found: str | Reason, said: dict[str, Any]
) -> None:
    """From nbf until before exp, exactly; what is not a number is no limit that we could check."""
    token = raw({"alg": "HS256"}, b'{"sub": "a", %s}' % claims.encode())
    subject = verifier(**said)
    assert [subject.identify(token, NOW_S) for _ in range(2)] == [found, found]


def test_leeway_forgives_clocks() -> None:
    """In both directions, and not a second more."""
    subject = verifier(leeway_s=60)
    token = signed(nbf=1_000, exp=2_000)
    assert subject.identify(token, 939) == EARLY
    assert subject.identify(token, 940) == "acct_42"
    assert subject.identify(token, 2_059.9) == "acct_42"
    assert subject.identify(token, 2_060) == EXPIRED


AUDIENCE = Reason("the token is for another audience")
ISSUER = Reason("the token is of another issuer")


@pytest.mark.parametrize(
    ("said", "claims", "found"),
    [
        ({"audience": "api"}, {"aud": "api"}, "a"),
        ({"audience": ["x", "api"]}, {"aud": ["y", "api"]}, "a"),
        ({"audience": "api"}, {}, AUDIENCE),
        ({"audience": "api"}, {"aud": "api2"}, AUDIENCE),
        ({"audience": "api"}, {"aud": []}, AUDIENCE),
        ({"audience": "api"}, {"aud": [["api"]]}, AUDIENCE),
        ({"audience": "api"}, {"aud": {"api": 1}}, AUDIENCE),
        ({"audience": "api"}, {"aud": 5}, AUDIENCE),
        ({"audience": "api"}, {"aud": None}, AUDIENCE),
        ({"issuer": "me"}, {"iss": "me"}, "a"),
        ({"issuer": ["you", "me"]}, {"iss": "me"}, "a"),
        ({"issuer": "me"}, {}, ISSUER),
        ({"issuer": "me"}, {"iss": "ME"}, ISSUER),
        ({"issuer": "me"}, {"iss": ["me"]}, ISSUER),
        ({"issuer": "me"}, {"iss": {}}, ISSUER),
        ({}, {"aud": "api", "iss": "me"}, "a"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"unverified": True}])
def test_audience_and_issuer_are_compared_exactly(
    said: dict[str, Any], claims: dict[str, Any], found: str | Reason, more: dict[str, Any]
) -> None:
    """Those that the policy names; verified or not."""
    token = raw({"alg": "HS256"}, {"sub": "a", **claims})
    assert verifier(**said, **more).identify(token, NOW_S) == found


@pytest.mark.parametrize(
    ("claim", "found"),
    [
        ("sub", "acct_42"),
        ("org.id", "7"),
        ("groups[0]", "g"),
        ('"https://x.example/tenant"', "t"),
        ("nope", Reason("the token's claim nope is missing")),
        ("org", Reason("the token's claim org is neither text nor a number")),
        ("admin", Reason("the token's claim admin is neither text nor a number")),
    ],
)
def test_a_claim_is_found_by_its_path(claim: str, found: str | Reason) -> None:
    """JMESPath, as everywhere; a boolean is nobody."""
    claims: dict[str, Any] = {
        "org": {"id": 7},
        "groups": ["g"],
        "https://x.example/tenant": "t",
        "admin": True,
    }
    assert verifier(claim=claim).identify(signed(**claims), NOW_S) == found


def test_an_expression_that_fails_is_a_reason() -> None:
    """And not an exception."""
    assert isinstance(verifier(claim="sum(sub)").identify(signed(), NOW_S), Reason)


def test_unverified_is_what_it_says() -> None:
    """Any signature will do; that is why a policy has to say it."""
    token = jwt.encode({"sub": "anybody"}, "x" * 32, "HS256")
    assert verifier(unverified=True).identify(token, NOW_S) == "anybody"


def test_unverified_tokens_are_not_remembered() -> None:
    """Who can make them could fill the memory with them."""
    subject = verifier(unverified=True)
    assert subject.identify(signed(), NOW_S) == "acct_42"
    assert not subject._remembered


def counting(monkeypatch: pytest.MonkeyPatch, subject: TokenVerifier) -> Callable[[], int]:
    """How often the source has verified a signature."""
    calls: list[bytes] = []
    verify = subject._verify

    def verify_counted(token: bytes, generation: int) -> Any:
        calls.append(token)
        return verify(token, generation)

    monkeypatch.setattr(subject, "_verify", verify_counted)
    return lambda: len(calls)


def test_a_verified_token_is_remembered_but_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signature is verified once; what stays is a digest."""
    subject = verifier()
    verified = counting(monkeypatch, subject)
    token = signed()
    assert [subject.identify(token, NOW_S) for _ in range(3)] == ["acct_42"] * 3
    assert verified() == 1
    assert token not in repr(subject._remembered)
    assert token.rsplit(".", 1)[1] not in repr(subject._remembered)


def test_a_remembered_token_still_expires() -> None:
    """And one that is not valid yet becomes so: each request is judged by its own time."""
    subject = verifier()
    token = signed(nbf=1_000, exp=2_000)
    assert subject.identify(token, 999.9) == EARLY
    assert subject.identify(token, 1_999.9) == "acct_42"
    assert subject.identify(token, 2_000) == EXPIRED
    assert subject.identify(token, 999.9) == EARLY
    assert subject.identify(token, 1_000) == "acct_42"


def test_a_forged_token_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is an expired one: neither can push others out."""
    subject = verifier(tokens_max=1)
    verified = counting(monkeypatch, subject)
    for token in (signed(), jwt.encode({}, "x" * 32, "HS256"), signed(exp=1), signed()):
        subject.identify(token, NOW_S)
    assert verified() == 3
    assert len(subject._remembered) == 1


def test_the_oldest_tokens_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; what was forgotten is verified again."""
    subject = verifier(tokens_max=2)
    tokens = [signed(jti=str(number)) for number in range(3)]
    for token in tokens:
        assert subject.identify(token, NOW_S) == "acct_42"
    verified = counting(monkeypatch, subject)
    assert [subject.identify(token, NOW_S) for token in tokens[1:]] == ["acct_42"] * 2
    assert verified() == 0
    subject.identify(tokens[0], NOW_S)
    assert (verified(), len(subject._remembered)) == (1, 2)


def test_what_a_withdrawn_key_verified_is_forgotten() -> None:
    """When the keys change, each token is verified again with those that are left."""
    keys = Keys(a=("RS256", RSA, {}), b=("ES256", EC, {}))
    subject = verifier(keys, keys=URL)
    first, second = signed("RS256", {"kid": "a"}), signed("ES256", {"kid": "b"})
    for _ in range(2):
        assert subject.identify(first, NOW_S) == subject.identify(second, NOW_S) == "acct_42"
    assert keys.asked == 2
    del keys.keys["a"]
    keys.version += 1
    assert subject.identify(first, NOW_S) == Reason("no such key")
    assert subject.identify(second, NOW_S) == "acct_42"


def test_a_token_of_one_source_is_no_identity_of_another() -> None:
    """Each verifier remembers for itself."""
    token = signed(iss="me")
    mine, yours = verifier(issuer="me"), verifier(issuer="you")
    assert mine.identify(token, NOW_S) == "acct_42"
    assert yours.identify(token, NOW_S) == Reason("the token is of another issuer")


def test_a_token_of_the_longest_length_is_verified() -> None:
    """Of a token that has more characters, nothing is."""
    sizes = range(TOKEN_CHARS_MAX * 3 // 4 - 150, TOKEN_CHARS_MAX)
    tokens = (signed(padding="x" * size) for size in sizes)
    token = next(token for token in tokens if len(token) >= TOKEN_CHARS_MAX)
    assert len(token) == TOKEN_CHARS_MAX
    assert verifier().identify(token, NOW_S) == "acct_42"
    too_long = Reason(f"the token has more than {TOKEN_CHARS_MAX} characters")
    assert verifier().identify(token + "A", NOW_S) == too_long


def test_a_fault_of_the_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metering must not break the app, whatever breaks below it."""

    def faulty(*_: object, **__: object) -> object:
        raise RuntimeError("secret")

    monkeypatch.setattr("usageflow.policies.tokens.VERIFIER.decode_complete", faulty)
    found = verifier().identify(signed(), NOW_S)
    assert found == Reason("the token cannot be verified: RuntimeError")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(("HS256", "RS256", "none"))},
    optional={"kid": JSON, "crit": JSON, "b64": JSON},
)
CLAIMS = st.fixed_dictionaries(
    {}, optional={"sub": JSON, "exp": JSON, "nbf": JSON, "aud": JSON, "iss": JSON}
)


@settings(deadline=None)  # the machine may be busy
@given(st.text() | st.builds(raw, HEADERS | JSON, CLAIMS | JSON))
def test_nothing_that_is_sent_raises(token: str) -> None:
    """Whatever it is, it is a text or a reason."""
    sources: list[dict[str, Any]] = [{}, {"audience": "a", "issuer": "b"}, {"unverified": True}]
    for said in sources:
        assert isinstance(verifier(**said).identify(token, NOW_S), str | Reason)
