"""The hop header: what was signed is read again, and nothing else is believed."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from usageflow.config import Settings
from usageflow.policies import Policy
from usageflow.policies.hops import (
    FORGED,
    MALFORMED,
    SKEW_S_MAX,
    UNTIMELY,
    VALUE_BYTES_MAX,
    _signature,
    claim,
    claimed,
    hop_header,
    hop_key,
)

NOW_S = 1_800_000_000
KEY = b"k" * 32
CALLS = frozenset({"API_CALL"})
REQUEST: dict[str, Any] = {"method": "POST", "target": b"/v1/chat?x=1"}

claims = st.frozensets(st.text(min_size=1), min_size=1, max_size=5)
methods = st.text(max_size=10)
targets = st.binary(max_size=40)


@given(st.binary(), methods, targets, claims, st.integers(0, 2**40))
def test_what_was_signed_is_read(
    key: bytes, method: str, target: bytes, names: frozenset[str], now_s: int
) -> None:
    """Any names, for any request, and in bytes that a header may have."""
    value = hop_header(key, method=method, target=target, claims=names, now_s=now_s)
    assert all(0x21 <= byte <= 0x7E for byte in value)
    assume(len(value) <= VALUE_BYTES_MAX)
    assert claimed(key, value, method=method, target=target, now_s=now_s) == names


@given(st.text("AZ /1", min_size=1), st.integers(0), st.integers(0))
def test_a_claim_is_of_one_request(text: str, cut: int, other_cut: int) -> None:
    """However method and target are cut, those of another request are not the same bytes."""
    cut, other_cut = cut % (len(text) + 1), other_cut % (len(text) + 1)
    assume(cut != other_cut)
    target, other_target = text[cut:].encode(), text[other_cut:].encode()
    value = hop_header(KEY, method=text[:cut], target=target, claims=CALLS, now_s=NOW_S)
    found = claimed(KEY, value, method=text[:other_cut], target=other_target, now_s=NOW_S)
    assert found is FORGED


@given(methods, targets)
def test_a_target_does_not_reach_into_what_is_signed(method: str, target: bytes) -> None:
    """A value that was cut, its beginning taken for the end of the target, is another one."""
    value = hop_header(KEY, method=method, target=target, claims=CALLS, now_s=NOW_S)
    for cut in range(1, value.rindex(b".")):
        moved = target + value[:cut]
        found = claimed(KEY, value[cut:], method=method, target=moved, now_s=NOW_S)
        assert found is FORGED


@given(st.data())
def test_no_byte_may_change(data: st.DataObject) -> None:
    """A changed, missing or further byte anywhere is noticed."""
    value = hop_header(KEY, claims=CALLS, now_s=NOW_S, **REQUEST)
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, len(value)))
    changed = value[:start] + data.draw(st.binary(max_size=3)) + value[end:]
    assume(changed != value)
    assert claimed(KEY, changed, now_s=NOW_S, **REQUEST) is FORGED


@given(st.binary())
def test_anything_may_be_sent(value: bytes) -> None:
    """Nothing raises, and nothing is believed."""
    assert claimed(KEY, value, now_s=NOW_S, **REQUEST) is FORGED


@pytest.mark.parametrize(
    ("late_s", "believed"),
    [(SKEW_S_MAX, True), (-SKEW_S_MAX, True), (SKEW_S_MAX + 1, False), (-SKEW_S_MAX - 1, False)],
)
def test_a_claim_is_believed_for_a_minute(late_s: int, *, believed: bool) -> None:
    """Before and after, since either clock may be the one that is ahead."""
    value = hop_header(KEY, claims=CALLS, now_s=NOW_S, **REQUEST)
    found = claimed(KEY, value, now_s=NOW_S + late_s, **REQUEST)
    assert found == (CALLS if believed else UNTIMELY)


@pytest.mark.parametrize("signed", [b"", b"1", b"1.", b"1..API_CALL", b"1.-5.A", b"2.1800000000.A"])
def test_what_another_version_signed_is_not_guessed_at(signed: bytes) -> None:
    """The key is right, and still nothing is read into it."""
    value = signed + b"." + _signature(KEY, REQUEST["method"], REQUEST["target"], signed)
    assert claimed(KEY, value, now_s=NOW_S, **REQUEST) is MALFORMED


def test_a_value_that_is_too_long_is_not_verified() -> None:
    """What a hostile value costs is bounded."""
    many = frozenset(f"{number:064}" for number in range(70))
    value = hop_header(KEY, claims=many, now_s=NOW_S, **REQUEST)
    assert claimed(KEY, value, now_s=NOW_S, **REQUEST) is MALFORMED


def test_the_key() -> None:
    """Shared explicitly, or the API key's; never the secret itself, and none without either."""
    api = hop_key(Settings(api_key="uf_1"))
    assert api is not None
    assert api == hop_key(Settings(api_key="uf_1"))
    assert b"uf_1" not in api
    assert hop_key(Settings(api_key="uf_1", hop_key="shared" * 3)) == hop_key(
        Settings(api_key="uf_2", hop_key="shared" * 3)
    )
    assert hop_key(Settings(api_key="uf_2")) != api
    assert hop_key(Settings()) is None


def test_a_key_of_an_environment_that_is_no_text() -> None:
    """Environment variables hold any bytes."""
    assert hop_key(Settings(hop_key="\udcff" * 16)) is not None


def test_a_shadow_policy_claims_for_shadow_policies_only(policy: Callable[..., Policy]) -> None:
    """A rehearsal never takes a bill away, and no metric is called like its claim."""
    assert claim(policy()) == "CALL"
    assert claim(policy(mode="shadow")) == "shadow:CALL"
