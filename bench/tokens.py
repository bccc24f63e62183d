"""Time to find the identity of a request in a token, remembered and not, beside PyJWT's decode.

The reader is the one that a policy's source compiles to. Cold means that the token was not seen
before: it is verified. PyJWT is given the same token, the key as an object, and the same claims to
check.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.report import Line, show
from usageflow._types import Headers
from usageflow.policies.identity import compile_identity
from usageflow.policies.routes import parse_template
from usageflow.policies.sources import HeaderSource, JwtSource
from usageflow.policies.surroundings import Surroundings

CALLS = 2_000
ROUNDS = 15
NOW_S = 1_800_000_000.0
SECRET = "correct horse battery staple, and then some"
CLAIMS: dict[str, Any] = {
    "iss": "https://issuer.example.com/",
    "sub": "acct_42",
    "aud": ["https://api.example.com"],
    "iat": 1_700_000_000,
    "exp": 4_000_000_000,
    "scope": "read write offline_access",
    "org": {"id": "org_7", "name": "Example"},
}
SIGNERS: dict[str, Any] = {
    "HS256": SECRET,
    "RS256": rsa.generate_private_key(65_537, 2_048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


class _Request:
    """What of a request's facts a reader of headers looks at."""

    started_at_s = NOW_S

    def __init__(self, name: bytes, value: bytes) -> None:
        self.request_headers: Headers = [
            (b"host", b"api.example.com"),
            (b"user-agent", b"bench"),
            (b"accept", b"*/*"),
            (name, value),
        ]


def _time_us(call: Callable[[], object], calls: int = CALLS) -> float:
    began_s = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began_s) / calls * 1e6


def _reader(source: Any, tokens_max: int = 10_000) -> Callable[[Any], object]:
    surroundings = Surroundings({"SECRET": SECRET}, tokens_max=tokens_max)
    read = compile_identity([source], parse_template("/v1/items/:id"), surroundings)
    return lambda request: read(request, ())


def _source(alg: str) -> JwtSource:
    key = {"secret": "env:SECRET"} if alg == "HS256" else {"pem": _pem(SIGNERS[alg])}
    said = {"claim": "sub", "audience": CLAIMS["aud"], "issuer": CLAIMS["iss"]}
    return JwtSource.model_validate({"from": "jwt", "algorithms": [alg], **said, **key})


def _pem(key: Any) -> str:
    public = key.public_key()
    encoded: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


def _warm() -> tuple[float, float]:
    """A header identity, and a remembered token on top of it."""
    header = HeaderSource.model_validate({"from": "header", "name": "x-account-id"})
    plain, plain_request = _reader(header), _Request(b"x-account-id", b"acct_42")
    token = jwt.encode(CLAIMS, SECRET, "HS256")
    warm, request = (
        _reader(_source("HS256")),
        _Request(b"authorization", f"Bearer {token}".encode()),
    )
    assert warm(request) == plain(plain_request) == "acct_42"
    pairs = [
        (_time_us(lambda: plain(plain_request)), _time_us(lambda: warm(request)))
        for _ in range(ROUNDS)
    ]
    base = statistics.median(first for first, _ in pairs)
    return base, statistics.median(second for _, second in pairs) - base


def _cold(alg: str) -> tuple[float, float]:
    """PyJWT's decode, and verifying a token for an identity."""
    key = SIGNERS[alg]
    public = key if alg == "HS256" else key.public_key()
    tokens = [jwt.encode({**CLAIMS, "jti": str(number)}, key, alg) for number in range(64)]
    requests = [_Request(b"authorization", f"Bearer {token}".encode()) for token in tokens]
    # One remembered token: of 64 in turn none is ever found again.
    read = _reader(_source(alg), tokens_max=1)
    audience, issuer = CLAIMS["aud"], CLAIMS["iss"]

    def decode_all() -> None:
        for token in tokens:
            jwt.decode(token, public, algorithms=[alg], audience=audience, issuer=issuer)

    def read_all() -> None:
        for request in requests:
            read(request)

    assert all(read(request) == "acct_42" for request in requests)
    pairs = [(_time_us(decode_all, 3), _time_us(read_all, 3)) for _ in range(ROUNDS)]
    theirs, ours = (statistics.median(times) / len(tokens) for times in zip(*pairs, strict=True))
    return theirs, ours


def main() -> None:
    """Measure and print."""
    base, added = _warm()
    lines = [
        Line("identity from a header", f"{base:.2f} µs"),
        Line("... from a remembered HS256 token, on top", f"{added:.2f} µs", "5 µs", added <= 5),
    ]
    for alg in SIGNERS:
        theirs, ours = _cold(alg)
        ratio = ours / theirs
        lines += [
            Line(f"{alg}: PyJWT decode", f"{theirs:.1f} µs"),
            Line(f"{alg}: verified for an identity", f"{ours:.1f} µs"),
            Line("... of PyJWT's decode", f"{ratio:.2f} x", "1.3 x", ratio <= 1.3),
        ]
    show(f"Tokens: CPU per identity, median of {ROUNDS}", lines)
