"""API keys stand behind digests."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.api_keys import Owner, compile_owner, digest
from usageflow.policies.reason import Reason
from usageflow.policies.sources import ApiKeySource

ENVIRON = {"PEPPER": "s3cret"}


def owner_of(**changes: object) -> Owner:
    """The compiled source."""
    source = ApiKeySource.model_validate({"from": "api_key", "header": "x-api-key", **changes})
    owner = compile_owner(source, ENVIRON)
    assert not isinstance(owner, Reason)
    return owner


def test_digests_are_plain_sha_256_and_hmac_sha_256() -> None:
    """Anybody can compute them with tools of their own."""
    assert digest("sk_1", None) == hashlib.sha256(b"sk_1").hexdigest()
    assert digest("sk_1", "s3cret") == hmac.new(b"s3cret", b"sk_1", "sha256").hexdigest()


@pytest.mark.parametrize("secret", [None, "env:PEPPER"])
def test_a_key_is_found_by_its_digest(secret: str | None) -> None:
    """With the secret the policy names, if it names one; digests may be in capitals."""
    hashed = digest("sk_1", None if secret is None else "s3cret")
    owner = owner_of(owners={hashed.upper(): "acct_1"}, secret=secret)
    assert owner("sk_1") == "acct_1"
    assert owner("sk_2") == Reason("the key is in no row of the policy's owners")
    assert isinstance(owner(hashed), Reason), "who knows the policy does not know a key"


def test_without_owners_the_keyed_digest_is_the_identity() -> None:
    """128 bits of it, under the edge's secret: the ledger cannot be searched for known keys."""
    assert owner_of(secret="env:PEPPER")("sk_1") == f"key_{digest('sk_1', 's3cret')[:32]}"


def test_a_missing_secret_is_a_reason() -> None:
    """Hashing with none would be another identity for every key."""
    source = ApiKeySource.model_validate(
        {"from": "api_key", "query": "key", "secret": "env:MISSING"}
    )
    assert compile_owner(source, ENVIRON) == Reason("the environment variable MISSING is not set")


@given(st.text() | st.binary().map(lambda sent: sent.decode(errors="surrogateescape")))
def test_no_key_raises_and_none_is_repeated(key: str) -> None:
    """Whatever a client sends."""
    found = owner_of(secret="env:PEPPER")(key)
    text = found.text if isinstance(found, Reason) else found
    assert len(key) < 8 or key not in text
