"""A verified JSON Web Token as an identity: signature, time, audience and issuer.

PyJWT verifies the signature; the claims are judged here, exactly and at the time the request began.
A token is never kept: what is remembered of a verified one is a digest, its claim and its validity.
Nothing in a token chooses a key or where a key comes from, but the id of one we have.
"""

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
from jwt import InvalidKeyError, InvalidSignatureError, PyJWTError

from usageflow._types import JSON
from usageflow.policies.expressions import Expression
from usageflow.policies.identity_values import text_of
from usageflow.policies.json_text import decode_json
from usageflow.policies.reason import Reason
from usageflow.policies.sources import JwtSource
from usageflow.policies.surroundings import Surroundings
from usageflow.policies.token_keys import VERIFIER, token_keys

TOKEN_CHARS_MAX: Final = 8_192
"""Longest token; servers refuse longer headers, and verifying takes time in proportion."""
_DIGEST_BYTES: Final = 16
"""Enough of a digest that nobody finds a second token with the one of a verified token."""
_SEPARATORS: Final = 2
"""Dots in a signed token (RFC 7515, section 7.1); an encrypted one has four."""

Moment = int | Decimal


class _Header(msgspec.Struct):
    """What is read of a token's header; all else, such as `jwk`, `jku` and `x5u`, is ignored."""

    alg: str
    kid: str | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    b64: bool = True


class _Verified(NamedTuple):
    """What a token says, as far as the policy asks. No limit of its time is None."""

    value: str
    not_before: Moment | None
    expires: Moment | None
    generation: int

    def untimely(self, now_s: float, leeway_s: int) -> Reason | None:
        # The limits may be any number, the time is a small one: only it is reckoned with.
        if self.expires is not None and now_s - leeway_s >= self.expires:
            return Reason("the token has expired")
        if self.not_before is not None and now_s + leeway_s < self.not_before:
            return Reason("the token is not valid yet")
        return None


_read_header = msgspec.json.Decoder(_Header).decode


class TokenVerifier:
    """The identities in the tokens of one source.

    `problem` says why no token can be verified at all. Remembers up to `tokens_max` tokens that
    were verified, each while it is valid and the keys are those it was verified with.
    """

    def __init__(self, source: JwtSource, surroundings: Surroundings) -> None:
        keys = token_keys(source, surroundings)
        self.problem = keys if isinstance(keys, Reason) else None
        self._keys = None if isinstance(keys, Reason) else keys
        self._source = source
        self._claim = Expression(source.claim)
        self._tokens_max = surroundings.tokens_max
        self._remembered: OrderedDict[bytes, _Verified] = OrderedDict()

    def identify(self, token: str, now_s: float) -> str | Reason:
        """The claim of a token that is valid at `now_s` (Unix time), not yet judged as an identity.

        Never raises, and never waits for keys.
        """
        if self.problem is not None:
            return self.problem
        if len(token) > TOKEN_CHARS_MAX:
            return Reason(f"the token has more than {TOKEN_CHARS_MAX} characters")
        data = token.encode(errors="replace")
        digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
        generation = 0 if self._keys is None else self._keys.generation()
        known = self._remembered.get(digest)
        if known is not None and known.generation == generation:
            untimely = known.untimely(now_s, self._source.leeway_s)
            return known.value if untimely is None else untimely
        verified = self._verify(data, generation)
        if isinstance(verified, Reason):
            return verified
        untimely = verified.untimely(now_s, self._source.leeway_s)
        if untimely is not None:
            return untimely
        self._remember(digest, verified)
        return verified.value

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        if self._source.unverified:
            return  # anybody can make any number of them, with claims of any length
        if len(self._remembered) >= self._tokens_max:
            self._remembered.popitem(last=False)
        self._remembered[digest] = verified

    def _verify(self, token: bytes, generation: int) -> _Verified | Reason:
        header = _header(token)
        if isinstance(header, Reason):
            return header
        payload = self._payload(token, header)
        if isinstance(payload, Reason):
            return payload
        claims = decode_json(payload, "the token's payload")
        if isinstance(claims, Reason):
            return claims
        if not isinstance(claims, dict):
            return Reason("the token's payload is no object")
        return self._judged(claims, generation)

    def _payload(self, token: bytes, header: _Header) -> bytes | Reason:
        """The bytes that were signed, once the signature is known to be right."""
        if self._source.unverified:
            return _decoded(token, "", header.alg, verify=False)
        assert self._keys is not None  # noqa: S101 - else there is a problem, and no token is read
        if header.alg not in self._keys.algorithms:
            return Reason(f"the token's algorithm is none of {', '.join(self._keys.algorithms)}")
        key = self._keys.find(header.kid, header.alg)
        return key if isinstance(key, Reason) else _decoded(token, key, header.alg, verify=True)

    def _judged(self, claims: Mapping[str, JSON], generation: int) -> _Verified | Reason:
        for name in ("exp", "nbf"):
            if name in claims and not _is_moment(claims[name]):
                return Reason(f"the token's {name} is not a time")
        if self._source.audience and not _meets(claims.get("aud"), self._source.audience):
            return Reason("the token is for another audience")
        if self._source.issuer and claims.get("iss") not in self._source.issuer:
            return Reason("the token is of another issuer")
        value = _member(claims, self._claim)
        if not isinstance(value, Reason):
            value = text_of(value, f"the token's claim {self._source.claim}")
        if isinstance(value, Reason):
            return value
        return _Verified(value, claims.get("nbf"), claims.get("exp"), generation)


def _header(token: bytes) -> _Header | Reason:
    """What a token says about itself; believed only as far as the policy allows it."""
    if token.count(b".") != _SEPARATORS:
        return Reason("the token is not a signed token")
    segment = token[: token.index(b".")]
    try:
        header = _read_header(base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)))
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Reason("the token's header is malformed")
    if header.crit is not msgspec.UNSET or not header.b64:
        return Reason("the token's header demands an extension")
    if header.alg.lower() == "none":
        return Reason("the token is not signed")
    return header


def _decoded(token: bytes, key: Any, algorithm: str, *, verify: bool) -> bytes | Reason:
    """The payload, its signature verified with this key and no other algorithm."""
    try:
        decoded = VERIFIER.decode_complete(
            token,
            key,
            algorithms=[algorithm],
            options={"verify_signature": verify},
        )
    except InvalidSignatureError:
        return Reason("the token's signature is wrong")
    except (InvalidKeyError, TypeError):
        return Reason("the key that the token names is for another algorithm")
    except PyJWTError:
        return Reason("the token is malformed")
    except Exception as error:  # noqa: BLE001 - a client's bytes must not raise, whatever they hit
        return Reason(f"the token cannot be verified: {type(error).__name__}")
    payload: bytes = decoded["payload"]
    return payload


def _member(claims: JSON, claim: Expression) -> JSON | Reason:
    """What the expression finds; plain names, the usual case, without evaluating one."""
    if claim.keys is None:
        return claim.search(claims)
    for name in claim.keys:
        claims = claims.get(name) if isinstance(claims, dict) else None
    return claims


def _is_moment(claim: JSON) -> bool:
    """RFC 7519, section 2: NumericDate, a number of seconds."""
    return isinstance(claim, (int, Decimal)) and not isinstance(claim, bool)


def _meets(claim: JSON, wanted: tuple[str, ...]) -> bool:
    """RFC 7519, section 4.1.3: one audience or a list of them; one in common is enough."""
    return any(one in wanted for one in (claim if isinstance(claim, list) else [claim]))
