"""A JWK set as it comes from a key server: the keys that may verify a token, and the others.

RFC 7517. One bad key never takes the others with it. Fetches nothing and verifies no token.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from jwt import PyJWK

from usageflow.policies.sources import ASYMMETRIC

_VERIFYING: Final = ["verify"]


class JwkSet(NamedTuple):
    """Usable keys by their id, and the only key if there is just one.

    `content` is equal for sets with the same keys; `problems` has one line for each key that
    cannot be used.
    """

    by_id: Mapping[str, PyJWK]
    only: PyJWK | None
    content: frozenset[bytes]
    problems: tuple[str, ...]


def parse_jwk_set(content: bytes) -> JwkSet:
    """Read a set.

    Raises ValueError if it has no usable key: a set that was emptied by mistake must not replace
    one that works.
    """
    by_id: dict[str, PyJWK] = {}
    keys: list[PyJWK] = []
    contents, problems = [], []
    for number, member in enumerate(_members(content), start=1):
        key = _key(member, by_id)
        if isinstance(key, str):
            problems.append(f"number {number}: {key}")
            continue
        keys.append(key)
        contents.append(msgspec.json.encode(member, order="sorted"))
        if key.key_id is not None:
            by_id[key.key_id] = key
    if not keys:
        raise ValueError(f"the set has no usable key ({'; '.join(problems) or 'it is empty'})")
    only = keys[0] if len(keys) == 1 else None
    return JwkSet(by_id, only, frozenset(contents), tuple(problems))


def _members(content: bytes) -> list[Any]:
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the answer is not JSON: {error}") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError('the answer is no JWK set: it has no list "keys"')  # noqa: TRY004 - promised
    return members


def _key(member: Any, known: Mapping[str, PyJWK]) -> PyJWK | str:
    """A member of a set as a key, or why it is none."""
    problem = _refusal(member, known)
    if problem is not None:
        return problem
    try:
        key = PyJWK(member)
    except Exception as error:  # noqa: BLE001 - PyJWT and its backend raise many, and one key is bad
        return f"it cannot be read: {type(error).__name__}"
    return key.Algorithm.check_key_length(key.key) or key


def _refusal(member: Any, known: Mapping[str, PyJWK]) -> str | None:
    """Why this member verifies no signature, as far as it says so itself."""
    if not isinstance(member, dict):
        return "it is no object"
    if member.get("kty") == "oct" or "d" in member:
        return "it is a secret, and a published secret is none"
    if member.get("use", "sig") != "sig":
        return "it is not for signatures"
    operations = member.get("key_ops", _VERIFYING)
    if not isinstance(operations, list) or "verify" not in operations:
        return "it is not for verifying"
    if member.get("alg", ASYMMETRIC[0]) not in ASYMMETRIC:
        return "its algorithm is not known"
    key_id = member.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        return "its id is not a text"
    return "its id is another key's too" if key_id in known else None
