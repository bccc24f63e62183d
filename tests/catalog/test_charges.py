"""What a plan may say about price, and the document that keeps it."""

import json
from decimal import Decimal
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.catalog.charges import (
    CHARGES_MAX,
    ENTITLEMENTS_MAX,
    TIERS_MAX,
    Charge,
    Entitlement,
    Terms,
    Tier,
    decode,
    encode,
    problems,
)
from usageflow.periods import Alignment, Interval

NAN = Decimal("NaN")


def fixed(**changes: Any) -> Charge:
    """30 per period."""
    fields = {"id": "ch_seat", "kind": "fixed", "display_name": "Seat", "model": "fixed"}
    return Charge(**{**fields, "unit_price": Decimal(30), **changes})


def usage(model: Any = "per_unit", **changes: Any) -> Charge:
    """0.001 a call."""
    fields: dict[str, Any] = {
        "id": "ch_calls",
        "kind": "usage",
        "display_name": "Calls",
        "metric": "API_CALL",
    }
    if model not in ("graduated", "volume"):
        fields["unit_price"] = Decimal("0.001")
    return Charge(**{**fields, "model": model, **changes})


def tiers(*tops: int | None) -> tuple[Tier, ...]:
    """Tiers that end there, at 0.01 a unit."""
    return tuple(
        Tier(up_to=None if top is None else Decimal(top), unit_price=Decimal("0.01"))
        for top in tops
    )


def terms(*charges: Charge, **changes: Any) -> Terms:
    """A monthly HYBRID plan in dollars."""
    fields = {"type": "HYBRID", "currency": "USD", "interval": "month", "charges": charges}
    return Terms(**{**fields, **changes})


ALLOWED = [
    pytest.param(terms(), id="nothing"),
    pytest.param(terms(type="FIXED", base_price=Decimal(49)), id="a base price"),
    pytest.param(terms(fixed(), type="FIXED"), id="a fixed charge"),
    pytest.param(terms(usage(), type="USAGE"), id="a price per unit"),
    pytest.param(terms(usage("included", included=Decimal(10_000))), id="included units"),
    pytest.param(terms(usage("included")), id="nothing included"),
    pytest.param(terms(usage("graduated", tiers=tiers(1_000, 10_000, None))), id="graduated"),
    pytest.param(terms(usage("volume", tiers=tiers(None))), id="volume of one tier"),
    pytest.param(terms(usage("package", package_size=Decimal(100))), id="packages"),
    pytest.param(terms(usage(minimum=Decimal(5), maximum=Decimal(5))), id="always the same"),
    pytest.param(terms(usage(), usage(id="ch_old", active=False)), id="a price that was"),
    pytest.param(terms(usage(active=False), type="FIXED"), id="no longer any usage"),
    pytest.param(terms(collect="stripe_meters"), id="Stripe collects"),
    pytest.param(terms(payment="stripe_invoice", trial_days=730), id="two years for nothing"),
    pytest.param(
        terms(
            entitlements=(
                Entitlement(feature_id="ft_calls", usage_limit=Decimal(5), reset_period="day"),
                Entitlement(feature_id="ft_sso", enabled=False),
                Entitlement(feature_id="ft_region", value="eu"),
            )
        ),
        id="entitlements",
    ),
]


@pytest.mark.parametrize("allowed", ALLOWED)
def test_terms_that_can_be_offered(allowed: Terms) -> None:
    """Have no problem, and come back from their document as they were."""
    assert problems(allowed) == []
    assert decode(encode(allowed)) == allowed


REFUSED = [
    (terms(currency="usd"), "currency", "write USD, in capital letters"),
    (terms(base_price=Decimal(-1)), "base_price", "negative"),
    (terms(minimum=NAN), "minimum", "NaN is not a number"),
    (terms(trial_days=731), "trial_days", "731 days; from 0 to 730 are possible"),
    (terms(trial_days=-1), "trial_days", "-1 days"),
    (
        terms(collect="stripe_meters", payment="stripe_invoice"),
        "payment",
        "Stripe collects by its own invoice what stripe_meters sends: say manual",
    ),
    (terms(type="USAGE", base_price=Decimal(1)), "base_price", "a USAGE plan bills usage alone"),
    (terms(fixed(), type="USAGE"), "charges", "a USAGE plan has no fixed charges"),
    (terms(usage(), type="FIXED"), "charges", "a FIXED plan has no usage charges"),
    (terms(usage(), usage(id="ch_2")), "charges", "several charges have the metric API_CALL"),
    (terms(fixed(), fixed()), "charges", "several charges have the id ch_seat"),
    (terms(fixed(display_name=" ")), "charges[0].display_name", "1 to 250 characters"),
    (terms(fixed(display_name="n" * 251)), "charges[0].display_name", "1 to 250 characters"),
    (terms(fixed(model="volume")), "charges[0].model", "volume is not a model of a fixed charge"),
    (terms(usage("fixed")), "charges[0].model", "fixed is not a model of a usage charge"),
    (terms(fixed(unit_price=None)), "charges[0].unit_price", "fixed needs a unit price"),
    (terms(fixed(metric="API_CALL")), "charges[0].metric", "fixed does not use a metric"),
    (terms(fixed(maximum=Decimal(1))), "charges[0].minimum", "a fixed charge has no minimum"),
    (terms(fixed(), usage(metric=None)), "charges[1].metric", "per_unit needs a metric"),
    (terms(usage(unit_price=Decimal("1E-13"))), "charges[0].unit_price", "at most 12 are kept"),
    (terms(usage(included=Decimal(1))), "charges[0].included", "does not use included units"),
    (terms(usage("included", included=Decimal(-1))), "charges[0].included", "negative"),
    (terms(usage(tiers=tiers(None))), "charges[0].tiers", "per_unit does not use tiers"),
    (terms(usage("volume")), "charges[0].tiers", "volume needs tiers"),
    (terms(usage("volume", tiers=tiers(5))), "charges[0].tiers[0].up_to", "null in the last"),
    (
        terms(usage("volume", tiers=tiers(None, None))),
        "charges[0].tiers[0].up_to",
        "null in the last tier, which is open, and there alone",
    ),
    (
        terms(usage("graduated", tiers=tiers(5, 5, None))),
        "charges[0].tiers[1].up_to",
        "not above 5, where the tier begins",
    ),
    (terms(usage("volume", tiers=tiers(0, None))), "charges[0].tiers[0].up_to", "not above 0"),
    (
        terms(usage("volume", tiers=tiers(*range(1, TIERS_MAX + 1), None))),
        "charges[0].tiers",
        "101 of them; at most 100 are possible",
    ),
    (
        terms(usage("volume", tiers=(Tier(up_to=None, unit_price=NAN),))),
        "charges[0].tiers[0].unit_price",
        "NaN is not a number",
    ),
    (terms(usage("package")), "charges[0].package_size", "package needs a package size"),
    (
        terms(usage("package", package_size=Decimal(0))),
        "charges[0].package_size",
        "a package holds more than 0 units",
    ),
    (terms(usage(package_size=Decimal(5))), "charges[0].package_size", "does not use"),
    (
        terms(usage(minimum=Decimal("5.50"), maximum=Decimal("5.40"))),
        "charges[0].minimum",
        "above the maximum of 5.4",
    ),
    (
        terms(entitlements=(Entitlement(feature_id="ft", usage_limit=Decimal(-1)),)),
        "entitlements[0].usage_limit",
        "negative",
    ),
    (
        terms(entitlements=(Entitlement(feature_id="ft", reset_period="day"),)),
        "entitlements[0].reset_period",
        "there is no usage limit to reset",
    ),
    (
        terms(entitlements=(Entitlement(feature_id="ft", value="v" * 1_001),)),
        "entitlements[0].value",
        "1001 characters; at most 1000 are kept",
    ),
    (
        terms(entitlements=(Entitlement(feature_id="ft"), Entitlement(feature_id="ft"))),
        "entitlements",
        "the feature ft is there more than once",
    ),
]


@pytest.mark.parametrize(
    ("refused", "field", "message"),
    [pytest.param(*case, id=f"{n}-{case[1]}") for n, case in enumerate(REFUSED)],
)
def test_terms_that_cannot_be_offered(refused: Terms, field: str, message: str) -> None:
    """One problem each, at its place and in words."""
    found = [text for name, text in problems(refused) if name == field]
    assert len(found) == 1, problems(refused)
    assert message in found[0]


def test_every_problem_is_told_at_once() -> None:
    """Whoever wrote the plan mends it in one go."""
    found = problems(terms(fixed(unit_price=NAN), usage("volume"), currency="", trial_days=-1))
    assert [field for field, _ in found] == [
        "currency",
        "trial_days",
        "charges[0].unit_price",
        "charges[1].tiers",
    ]


def test_what_a_plan_holds_is_bounded() -> None:
    """More charges or entitlements than an invoice or a check can carry are refused."""
    many = terms(
        *(fixed(id=f"ch_{n}") for n in range(CHARGES_MAX + 1)),
        entitlements=[Entitlement(feature_id=f"ft_{n}") for n in range(ENTITLEMENTS_MAX + 1)],
    )
    assert problems(many) == [
        ("charges", "101 of them; at most 100 are possible"),
        ("entitlements", "201 of them; at most 200 are possible"),
    ]


def test_the_document_has_no_number_a_parser_could_spoil() -> None:
    """Every decimal is a string in plain notation; only counts are numbers."""
    document = json.loads(encode(terms(usage(unit_price=Decimal("1.0E-7")), trial_days=14)))
    assert document["charges"][0]["unit_price"] == "0.0000001"
    assert document["trial_days"] == 14
    assert not [text for text in _numbers(document) if text != 14]


def _numbers(value: Any) -> list[int | float]:
    if isinstance(value, dict):
        return [one for inner in value.values() for one in _numbers(inner)]
    if isinstance(value, list):
        return [one for inner in value for one in _numbers(inner)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_equal_terms_have_one_document() -> None:
    """However a price was written down: the text can be compared and hashed."""
    written = [terms(usage(unit_price=Decimal(text))) for text in ("10", "10.00", "1E+1")]
    assert len({encode(one) for one in written}) == 1
    assert '"unit_price":"10"' in encode(written[0])


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"type":"FREE"}'])
def test_what_is_no_document_is_not_read(text: str) -> None:
    """Nothing is made up for what is missing."""
    with pytest.raises(msgspec.ValidationError):
        decode(text)


def test_a_field_of_a_later_version_is_not_overlooked() -> None:
    """Terms that say more than this version knows must not be priced as if they did not."""
    document = json.loads(encode(terms(usage())))
    document["charges"][0]["discount"] = "0.5"
    with pytest.raises(msgspec.ValidationError, match="unknown field `discount`"):
        decode(json.dumps(document))


_decimals = st.one_of(
    st.sampled_from([Decimal(text) for text in ("NaN", "sNaN", "-1", "Infinity", "1E+99999999")]),
    st.decimals(0, 10**6, allow_nan=False, allow_infinity=False),
)
_maybe = st.none() | _decimals
_charges = st.builds(
    Charge,
    id=st.sampled_from(["a", "b"]),
    kind=st.sampled_from(["fixed", "usage"]),
    display_name=st.text(max_size=3),
    metric=st.sampled_from([None, "A", "B"]),
    model=st.sampled_from(["fixed", "per_unit", "included", "graduated", "volume", "package"]),
    unit_price=_maybe,
    included=_decimals,
    tiers=st.lists(
        st.builds(Tier, up_to=_maybe, unit_price=_decimals, flat_price=_decimals), max_size=3
    ).map(tuple),
    package_size=_maybe,
    minimum=_maybe,
    maximum=_maybe,
    active=st.booleans(),
)


@given(
    st.builds(
        Terms,
        type=st.sampled_from(["FIXED", "USAGE", "HYBRID"]),
        currency=st.sampled_from(["USD", "JPY", "XYZ"]),
        interval=st.sampled_from(get_args(Interval)),
        alignment=st.sampled_from(get_args(Alignment)),
        base_price=_decimals,
        minimum=_maybe,
        charges=st.lists(_charges, max_size=3).map(tuple),
    )
)
def test_anything_is_judged(anything: Terms) -> None:
    """Numbers of every kind are told in words; what has no problem can be stored."""
    found = problems(anything)
    assert all(field and message for field, message in found)
    if not found:
        assert decode(encode(anything)) == anything
