"""Which keys a source verifies with, and why it cannot verify at all."""

import subprocess
import sys
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from usageflow.policies.reason import Reason
from usageflow.policies.sources import JwtSource
from usageflow.policies.surroundings import Surroundings
from usageflow.policies.token_keys import TokenKeys, token_keys

RSA = rsa.generate_private_key(65_537, 2_048)


def pem_of(key: Any) -> str:
    """The public half."""
    encoded: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
NO_KEY = "holds no public key that can be used (RSA: 2048 bits at least)"


def keys_of(environ: dict[str, str], **said: Any) -> TokenKeys | Reason | None:
    """The keys of a source."""
    source = JwtSource.model_validate({"from": "jwt", "claim": "sub", **said})
    return token_keys(source, Surroundings(environ))


@pytest.mark.parametrize(
    ("pem", "algorithms"),
    [
        (pem_of(RSA), ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), ("ES256",)),
        (pem_of(ec.generate_private_key(ec.SECP521R1())), ("ES512",)),
        (pem_of(ed25519.Ed25519PrivateKey.generate()), ("EdDSA",)),
    ],
)
@pytest.mark.parametrize("where", ["pem", "variable", "one line"])
def test_a_public_key_has_the_algorithms_that_fit(
    pem: str, algorithms: tuple[str, ...], where: str
) -> None:
    """In the policy or in a variable, where its line ends may be written out."""
    environ = {"PEM": pem.replace("\n", "\\n") if where == "one line" else pem}
    keys = keys_of(environ, pem=pem if where == "pem" else "env:PEM")
    assert isinstance(keys, TokenKeys)
    assert keys.algorithms == algorithms
    assert keys.generation() == 0


@pytest.mark.parametrize(
    ("secret", "algorithms", "text"),
    [
        ("", [], "is not set"),
        ("x" * 31, [], "is shorter than the hash of HS256 (RFC 7518, section 3.2)"),
        ("x" * 63, ["HS256", "HS512"], "is shorter than the hash of HS512 (RFC 7518, section 3.2)"),
        (pem_of(RSA), [], "holds a public key, which is no secret"),
        (PRIVATE, [], "holds a public key, which is no secret"),
        ('{"kty": "RSA", "n": "' + "x" * 32 + '"}', [], "holds a public key, which is no secret"),
    ],
)
def test_a_secret_that_is_none_verifies_nothing(
    secret: str, algorithms: list[str], text: str
) -> None:
    """Short ones can be guessed from one token; public keys are known to everybody."""
    found = keys_of({"S": secret}, secret="env:S", algorithms=algorithms)
    assert found == Reason(f"the environment variable S {text}")


def test_a_secret_of_any_bytes_is_one() -> None:
    """Environment variables need not be text."""
    keys = keys_of({"S": "\udcff" * 32}, secret="env:S")
    assert isinstance(keys, TokenKeys)
    assert keys.find(None, "HS256") == b"\xff" * 32


@pytest.mark.parametrize(
    ("pem", "said", "text"),
    [
        ("", {}, "is not set"),
        ("rubbish", {}, NO_KEY),
        (pem_of(RSA)[:100], {}, NO_KEY),
        (PRIVATE, {}, NO_KEY),
        (pem_of(rsa.generate_private_key(65_537, 1_024)), {}, NO_KEY),
        (pem_of(dsa.generate_private_key(1_024)), {}, NO_KEY),
        (
            pem_of(RSA),
            {"algorithms": ["RS256", "ES256"]},
            "holds a key for RS256, RS384, RS512, PS256, PS384, PS512 only",
        ),
    ],
    ids=["none", "rubbish", "cut", "private", "short", "DSA", "other algorithms"],
)
def test_a_public_key_that_is_none_verifies_nothing(
    pem: str, said: dict[str, Any], text: str
) -> None:
    """The source says so, and the variable by its name."""
    found = keys_of({"PEM": pem}, pem="env:PEM", **said)
    assert found == Reason(f"the environment variable PEM {text}")


def test_a_literal_key_is_named_by_its_place() -> None:
    """Not by what it holds."""
    found = keys_of({}, pem="-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----")
    assert found == Reason(f"pem {NO_KEY}")


def test_an_unverified_source_has_no_keys() -> None:
    """It is told apart from one whose keys are missing."""
    assert keys_of({}, unverified=True) is None


def test_without_cryptography_only_secrets_verify() -> None:
    """And the reason says what to install."""
    code = """
import sys
sys.modules["cryptography"] = None
from usageflow.policies.sources import JwtSource
from usageflow.policies.surroundings import Surroundings
from usageflow.policies.token_keys import token_keys
for said in ({"pem": "env:P"}, {"keys": "https://a.example/"}, {"secret": "env:S"}):
    source = JwtSource.model_validate({"from": "jwt", "claim": "sub", **said})
    print(token_keys(source, Surroundings({"S": "x" * 32})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pem, keys, secret = done.stdout.splitlines()
    assert pem == keys
    assert 'pip install "usageflow[jwt]"' in pem
    assert "('HS256',)" in secret
