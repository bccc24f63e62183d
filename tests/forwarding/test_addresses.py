"""Whose a unit is where nobody has to be asked."""

from datetime import UTC, datetime
from decimal import Decimal

from sqlmodel import select

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow, UnitRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.forwarding.addresses import ByIdentity
from usageflow.ledger import store, units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.units import Claim


def use(database: Database, *customers: str) -> None:
    """Usage of some customers, on its way to a sink."""
    lines = [
        encode(
            UsageEvent(
                id=f"event-{number:06}",
                policy="chat",
                policy_version="1",
                metric="TOKENS",
                identity=Identity("account_id", customer),
                quantity=Decimal(5),
                occurred_at=datetime.now(UTC),
                state="counted",
                event_name="tokens",
            )
        )
        for number, customer in enumerate(customers)
    ]
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        tx.session.add(
            StripeAccountRow(
                id="account-1",
                organization_id=organization_id,
                kind="cloudevents",
                account="file",
                livemode=False,
                state="active",
                folding="all",
                created_at=tx.now,
            )
        )
        tx.session.flush()
        store.append(tx, organization_id, lines, unknown_metric="create")


def claimed(database: Database) -> list[Claim]:
    """Every unit that may be sent, bound by identity."""
    with database.transaction() as tx:
        limits = Limits(resend_s_max=72_000)
        found = units.claim(tx, "account-1", owner="me", limit=10, lease_s=60, limits=limits)
        return ByIdentity().bind(tx, found)


def test_the_customer_is_the_identity(database: Database) -> None:
    """Each claim is bound to the value of its identity, and stays so."""
    use(database, "acct_1", "acct_2")
    ByIdentity().prepare()
    claims = claimed(database)
    assert {claim.stripe_customer_id for claim in claims} == {"acct_1", "acct_2"}
    assert all(claim.stripe_customer_id == claim.identity_value for claim in claims)
    with database.transaction() as tx:
        stored = tx.session.exec(select(UnitRow.stripe_customer_id)).all()
        assert set(stored) == {"acct_1", "acct_2"}
        assert ByIdentity().bind(tx, claims) == claims


def test_nobody_is_asked(database: Database) -> None:
    """Should a claim come unbound, the answer is the same."""
    use(database, "acct_1")
    (claim,) = claimed(database)
    assert ByIdentity().look_up(claim) == "acct_1"
