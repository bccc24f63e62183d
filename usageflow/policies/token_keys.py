"""What a JWT source verifies with: a secret, a public key, or the keys behind a URL.

Every key is bound to the algorithms it can have before a token is seen, so that no header of a
token chooses how it is verified (RFC 8725, section 3.1). Reads no token.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from jwt import PyJWK, PyJWS, PyJWTError
from jwt.algorithms import has_crypto

from usageflow.policies.environment import REFERENCE, resolved
from usageflow.policies.reason import Reason
from usageflow.policies.sources import ASYMMETRIC, HMAC, JwtSource
from usageflow.policies.surroundings import KeySets, Surroundings

VERIFIER: Final = PyJWS(
    algorithms=[*HMAC, *ASYMMETRIC], options={"enforce_minimum_key_length": True}
)
"""PyJWT's signature layer, without `none`, and without keys that are too short."""
NO_CRYPTOGRAPHY: Final = 'keys need a package that is missing: pip install "usageflow[jwt]"'

FindKey = Callable[[str | None, str], Any]
"""The key for a token's key id and algorithm, or a Reason."""


class TokenKeys(NamedTuple):
    """The algorithms a token may name, the key for it, and a number that changes with the keys."""

    algorithms: tuple[str, ...]
    find: FindKey
    generation: Callable[[], int]


def token_keys(source: JwtSource, surroundings: Surroundings) -> TokenKeys | Reason | None:
    """The keys of a source; None if it is unverified, a Reason if they cannot be used."""
    if source.unverified:
        return None
    if source.secret is not None:
        return _shared_secret(source.secret, source.algorithms or HMAC[:1], surroundings.environ)
    if not has_crypto:
        return Reason(NO_CRYPTOGRAPHY)
    if source.pem is not None:
        return _public_key(source.pem, source.algorithms, surroundings.environ)
    assert source.keys is not None  # noqa: S101 - the model has one of the four
    return _key_server(source.keys, source.algorithms or ASYMMETRIC, surroundings.keys)


def _shared_secret(
    reference: str, algorithms: tuple[str, ...], environ: Mapping[str, str]
) -> TokenKeys | Reason:
    secret = resolved(reference, environ)
    if isinstance(secret, Reason):
        return secret
    key = secret.encode(errors="surrogateescape")  # environment variables hold any bytes
    for name in algorithms:
        algorithm = VERIFIER.get_algorithm_by_name(name)
        try:
            algorithm.prepare_key(key)
        except PyJWTError:
            return Reason(f"{_variable(reference)} holds a public key, which is no secret")
        if algorithm.check_key_length(key):
            return Reason(
                f"{_variable(reference)} is shorter than the hash of {name} (RFC 7518, section 3.2)"
            )
    return _one_key(dict.fromkeys(algorithms, key))


def _public_key(
    pem: str, algorithms: tuple[str, ...], environ: Mapping[str, str]
) -> TokenKeys | Reason:
    text = resolved(pem, environ) if REFERENCE.fullmatch(pem) else pem
    if isinstance(text, Reason):
        return text
    where = _variable(pem) if REFERENCE.fullmatch(pem) else "pem"
    fitting = _fitting(text.replace("\\n", "\n"))  # one-line files write line ends like this
    if not fitting:
        return Reason(f"{where} holds no public key that can be used (RSA: 2048 bits at least)")
    if not set(algorithms).issubset(fitting):
        return Reason(f"{where} holds a key for {', '.join(fitting)} only")
    return _one_key({name: fitting[name] for name in algorithms or fitting})


def _fitting(pem: str) -> dict[str, Any]:
    """The algorithms of this public key, each with the key as it takes it."""
    found = {}
    for name in ASYMMETRIC if "PRIVATE KEY" not in pem else ():
        algorithm = VERIFIER.get_algorithm_by_name(name)
        try:
            key = algorithm.prepare_key(pem)
        except (PyJWTError, ValueError, TypeError):
            continue  # a key of another family, or none at all
        if not algorithm.check_key_length(key):
            found[name] = key
    return found


def _one_key(keys: Mapping[str, Any]) -> TokenKeys:
    """The same key, whatever key id a token names."""
    return TokenKeys(tuple(keys), lambda _, algorithm: keys[algorithm], lambda: 0)


def _key_server(url: str, algorithms: tuple[str, ...], keys: KeySets) -> TokenKeys:
    def find(key_id: str | None, algorithm: str) -> Any:
        found = keys.find(url, key_id)
        if isinstance(found, Reason):
            return found
        if not _may_have(found, algorithm):
            return Reason("the key that the token names is for another algorithm")
        return found.key

    return TokenKeys(algorithms, find, lambda: keys.generation(url))


def _may_have(key: PyJWK, algorithm: str) -> bool:
    """A key that declares its algorithm has no other (RFC 7517, section 4.4).

    Without a declaration the type of the key decides, when the signature is verified.
    """
    declared = key._jwk_data.get("alg")  # noqa: SLF001 - `algorithm_name` hides what was declared
    return declared is None or declared == algorithm


def _variable(reference: str) -> str:
    return f"the environment variable {reference.removeprefix('env:')}"
