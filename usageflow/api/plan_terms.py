"""What a plan costs and grants, as bodies and answers of the API, in the product documents' words.

What is wrong with terms is said by `catalog.charges`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import Field, StringConstraints, model_validator

from usageflow.api.exact_json import Answer, Body, Exact, Id, Line, Number
from usageflow.api.patches import Patch, left_out
from usageflow.catalog import charges
from usageflow.catalog.charges import Charge, Collect, Entitlement, Model, Payment, PlanType, Terms
from usageflow.catalog.plan_edits import ChargeChanges
from usageflow.db.ids import new_id
from usageflow.db.tables import MetricRow
from usageflow.periods import Alignment, Interval

ChargeType = Literal["FIXED", "USAGE"]
ChargeStatus = Literal["ACTIVE", "INACTIVE"]
UsageModel = Literal["per_unit", "included", "graduated", "volume", "package"]
LineText = Annotated[Line, StringConstraints(max_length=charges.NAME_CHARS_MAX)]

NAMES: Final = {
    "interval": "billing_interval",
    "included": "included_units",
    "entitlements": "features",
    "reset_period": "usage_reset_period",
    "value": "static_value",
}
"""Fields of terms in the words of the API."""
_KEPT_AS: Final = {"included_units": "included", "overage_price": "unit_price", "status": "active"}
_NOT_OF_PRICE: Final = {"type", "metric", "meter_id"}


class TierBody(Body):
    """Units beyond the tier before, up to and including `up_to`; null in the last tier."""

    up_to: Exact | None
    unit_price: Exact
    flat_price: Exact = Field(default=0, validate_default=True)


class ChargePatch(Patch):
    """What to change in a charge. INACTIVE is for good; another metric is another charge."""

    status: ChargeStatus = left_out()
    display_name: LineText = left_out()
    model: UsageModel = left_out()
    unit_price: Exact | None = left_out()
    overage_price: Exact = left_out()
    included_units: Exact = left_out()
    tiers: Annotated[list[TierBody], Field(max_length=charges.TIERS_MAX)] = left_out()
    package_size: Exact | None = left_out()
    minimum: Exact | None = left_out()
    maximum: Exact | None = left_out()

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        if {"unit_price", "overage_price"} <= self.model_fields_set:
            raise ValueError("the overage price is the unit price: say one of them")
        return self

    def changes(self) -> ChargeChanges:
        """What is told of the price, for the catalog."""
        values: dict[str, Any] = {}
        for field, value in self.given().items():
            if field == "tiers":
                values[field] = tuple(charges.Tier(**tier.model_dump()) for tier in value)
            elif field == "status":
                values["active"] = value == "ACTIVE"
            elif field not in _NOT_OF_PRICE:
                values[_KEPT_AS.get(field, field)] = value
        return cast("ChargeChanges", values)


class NewCharge(ChargePatch):
    """A charge to add: a fixed amount per period, or a price for the usage of a metric.

    `metric` or `meter_id` name the metric, by its id, key or meter token. The `model` need not be
    told: tiers are graduated, a package size makes packages, included units or an overage price
    are "included", and else every unit has its price.
    """

    type: ChargeType = left_out()
    metric: Id = left_out()
    meter_id: Id = left_out()

    @model_validator(mode="after")
    def _one_metric(self) -> Self:
        if {"metric", "meter_id"} <= self.model_fields_set:
            raise ValueError("the metric is told twice: say metric or meter_id")
        return self

    @property
    def metric_name(self) -> str | None:
        """What the metric is named by."""
        return self.metric or self.meter_id

    def charge(self, metric: MetricRow | None) -> Charge:
        """The charge; without a name of its own, it is called as the `metric` that was found."""
        kind = self.type or ("FIXED" if self.metric_name is None else "USAGE")
        values: dict[str, Any] = {
            "display_name": metric.name if metric else self.metric_name or "",
            "model": "fixed" if kind == "FIXED" else self._usage_model(),
            **self.changes(),
        }
        return Charge(
            id=new_id("chg"),
            kind="fixed" if kind == "FIXED" else "usage",
            metric=metric.key if metric else self.metric_name,
            **values,
        )

    def _usage_model(self) -> Model:
        told = self.model_fields_set
        if "tiers" in told:
            return "graduated"
        if "package_size" in told:
            return "package"
        return "included" if {"included_units", "overage_price"} & told else "per_unit"


class EntitlementBody(Body):
    """What subscribers may use of a feature, which is named by its id or lookup key.

    Without a `usage_limit` usage has no end; beyond a soft limit it is still allowed.
    """

    feature_id: Id
    is_enabled: bool = True
    usage_limit: Exact | None = None
    usage_reset_period: Interval | None = None
    is_soft_limit: bool = False
    static_value: Annotated[Line, StringConstraints(max_length=charges.VALUE_CHARS_MAX)] | None = (
        None
    )

    def entitlement(self) -> Entitlement:
        """As terms have it."""
        return Entitlement(
            feature_id=self.feature_id,
            enabled=self.is_enabled,
            usage_limit=self.usage_limit,
            reset_period=self.usage_reset_period,
            soft=self.is_soft_limit,
            value=self.static_value,
        )


class TierOut(Answer):
    """A tier of a charge."""

    up_to: Number | None
    unit_price: Number
    flat_price: Number


class ChargeOut(Answer):
    """A charge of a plan. `overage_price` is the `unit_price` of the model "included"."""

    id: str
    type: ChargeType
    status: ChargeStatus
    display_name: str
    model: Model
    metric: str | None
    meter_id: str | None
    unit_price: Number | None
    overage_price: Number | None
    included_units: Number
    tiers: list[TierOut]
    package_size: Number | None
    minimum: Number | None
    maximum: Number | None


class EntitlementOut(Answer):
    """What subscribers of a plan may use of a feature."""

    feature_id: str
    is_enabled: bool
    usage_limit: Number | None
    usage_reset_period: Interval | None
    is_soft_limit: bool
    static_value: str | None


class TermsOut(Answer):
    """What a version of a plan costs and grants."""

    version: int
    type: PlanType
    billing_interval: Interval
    alignment: Alignment
    currency: str
    base_price: Number
    minimum: Number | None
    trial_days: int
    collect: Collect
    payment: Payment
    charges: list[ChargeOut]
    features: list[EntitlementOut]
    created_at: datetime


def told_terms(terms: Terms, meter_ids: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `TermsOut` that terms have; `meter_ids` are those of their metrics, by key."""
    return {
        "type": terms.type,
        "billing_interval": terms.interval,
        "alignment": terms.alignment,
        "currency": terms.currency,
        "base_price": terms.base_price,
        "minimum": terms.minimum,
        "trial_days": terms.trial_days,
        "collect": terms.collect,
        "payment": terms.payment,
        "charges": [told_charge(charge, meter_ids) for charge in terms.charges],
        "features": [told_entitlement(entitlement) for entitlement in terms.entitlements],
    }


def told_charge(charge: Charge, meter_ids: Mapping[str, str]) -> ChargeOut:
    """A charge as an answer has it."""
    return ChargeOut(
        id=charge.id,
        type="FIXED" if charge.kind == "fixed" else "USAGE",
        status="ACTIVE" if charge.active else "INACTIVE",
        display_name=charge.display_name,
        model=charge.model,
        metric=charge.metric,
        meter_id=meter_ids.get(charge.metric or ""),
        unit_price=charge.unit_price,
        overage_price=charge.unit_price if charge.model == "included" else None,
        included_units=charge.included,
        tiers=[TierOut.model_validate(tier, from_attributes=True) for tier in charge.tiers],
        package_size=charge.package_size,
        minimum=charge.minimum,
        maximum=charge.maximum,
    )


def told_entitlement(entitlement: Entitlement) -> EntitlementOut:
    """An entitlement as an answer has it."""
    return EntitlementOut(
        feature_id=entitlement.feature_id,
        is_enabled=entitlement.enabled,
        usage_limit=entitlement.usage_limit,
        usage_reset_period=entitlement.reset_period,
        is_soft_limit=entitlement.soft,
        static_value=entitlement.value,
    )
