"""Key sets: what is a key, what is passed over, and what is no set."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow.policies.jwk_set import parse_jwk_set


def jwk(name: str, key: Any, **said: Any) -> dict[str, Any]:
    """A public key as a member of a set."""
    encoded: dict[str, Any] = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), True)
    return {**encoded, **said}


RSA_KEY = rsa.generate_private_key(65_537, 2_048)
RSA = jwk("RS256", RSA_KEY, kid="r")
EC = jwk("ES256", ec.generate_private_key(ec.SECP256R1()), kid="e", alg="ES256", use="sig")
ED = jwk("EdDSA", ed25519.Ed25519PrivateKey.generate(), kid="d", key_ops=["verify"])
SECRET = "it is a secret, and a published secret is none"


def parse(*members: object) -> Any:
    """The set of these members."""
    return parse_jwk_set(json.dumps({"keys": members}).encode())


def test_keys_are_found_by_their_ids() -> None:
    """Of every kind; several are no only one."""
    found = parse(RSA, EC, ED)
    assert set(found.by_id) == {"r", "e", "d"}
    assert found.only is None
    assert found.problems == ()


def test_the_only_key_needs_no_id() -> None:
    """Many small issuers have one key, and tokens that do not name it."""
    anonymous = {name: value for name, value in RSA.items() if name != "kid"}
    found = parse(anonymous)
    assert found.only is not None
    assert found.by_id == {}
    assert parse(RSA).only.key_id == "r"


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (5, "it is no object"),
        ({}, "it cannot be read: InvalidKeyError"),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "s"}, SECRET),
        (json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(RSA_KEY)), SECRET),
        ({**RSA, "use": "enc"}, "it is not for signatures"),
        ({**RSA, "key_ops": ["encrypt"]}, "it is not for verifying"),
        ({**RSA, "key_ops": "verify"}, "it is not for verifying"),
        ({**RSA, "alg": "RSA-OAEP"}, "its algorithm is not known"),
        ({**RSA, "alg": "HS256"}, "its algorithm is not known"),
        ({**RSA, "alg": ["RS256"]}, "its algorithm is not known"),
        ({**RSA, "alg": "ES256"}, "it cannot be read: InvalidKeyError"),
        ({**RSA, "kid": 5}, "its id is not a text"),
        ({**EC, "kid": "x", "x": 5}, "it cannot be read: InvalidKeyError"),
        ({**EC, "kid": "x", "x": "AAAA"}, "it cannot be read: InvalidKeyError"),
        ({**EC, "kid": "x", "crv": "P-1"}, "it cannot be read: InvalidKeyError"),
        ({**EC, "kid": "x", "y": EC["x"]}, "it cannot be read: InvalidKeyError"),
        ({**EC, "alg": "none"}, "its algorithm is not known"),
        (
            jwk("RS256", rsa.generate_private_key(65_537, 1_024)),
            "The RSA key is 1024 bits long",
        ),
        (ED, "its id is another key's too"),
    ],
)
def test_a_bad_key_is_passed_over(member: object, problem: str) -> None:
    """With a reason, and the others stay."""
    found = parse(ED, member)
    assert set(found.by_id) == {"d"}
    (told,) = found.problems
    assert told.startswith(f"number 2: {problem}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the answer is not JSON"),
        (b"<html>", "the answer is not JSON"),
        (b"\xff", "the answer is not JSON"),
        (b"[" * 100_000, "the answer is not JSON"),
        (b"[]", "the answer is no JWK set"),
        (b"{}", "the answer is no JWK set"),
        (b'{"keys": {}}', "the answer is no JWK set"),
        (b'{"keys": []}', "the set has no usable key (it is empty)"),
        (b'{"keys": [5]}', "the set has no usable key (number 1: it is no object)"),
    ],
)
def test_what_is_no_set_is_refused(content: bytes, problem: str) -> None:
    """So that it never takes the place of a good one."""
    with pytest.raises(ValueError, match="the ") as refused:
        parse_jwk_set(content)
    assert str(refused.value).startswith(problem)


def test_the_same_keys_have_the_same_content() -> None:
    """In any order, spelled in any order; other keys have another."""
    turned = dict(reversed(RSA.items()))
    assert parse(RSA, EC).content == parse(EC, turned).content
    assert parse(RSA).content != parse(RSA, EC).content
    assert parse({**RSA, "alg": "RS256"}).content != parse(RSA).content


VALUES = st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.sampled_from((*RSA, *EC, "k", "d", "use", "alg", "key_ops")), VALUES))
def test_no_member_takes_the_set_with_it(changes: dict[str, object]) -> None:
    """Whatever a key server sends."""
    for base in (RSA, EC, {}):
        assert "d" in parse(ED, {**base, **changes}).by_id
