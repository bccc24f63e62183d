"""Two changes of one catalog take turns: neither is lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from msgspec.structs import replace

from usageflow.catalog import plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Terms
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database

EDITORS = 6
ANN = Actor("ann@example.com")


def test_no_edit_of_a_plan_is_lost(database: Database) -> None:
    """Several people saw the same plan and add a charge each: it gets them all, one by one."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        terms = Terms(type="HYBRID", currency="USD", interval="month")
        plans.create(tx, organization_id, name="P", lookup_id="p", terms=terms, actor=ANN)

    all_have_seen = threading.Barrier(EDITORS)

    def add(number: int) -> None:
        charge = Charge(
            id=f"chg_{number}",
            kind="fixed",
            display_name="Seat",
            model="fixed",
            unit_price=Decimal(number),
        )
        with database.transaction() as tx:
            seen = plans.find(tx, organization_id, "p")
            if tx.dialect == "postgresql":
                all_have_seen.wait(timeout=30)  # on SQLite nobody else has begun
            edited = plans.amend(
                tx,
                organization_id,
                "p",
                lambda terms: replace(terms, charges=(*terms.charges, charge)),
                action="plan.add_charge",
                actor=ANN,
            )
            assert edited is seen

    with ThreadPoolExecutor(EDITORS) as editors:
        list(editors.map(add, range(EDITORS)))
    with database.reading() as tx:
        row = plans.find(tx, organization_id, "p")
        assert row is not None
        newest = plans.terms(tx, organization_id, row.id, row.version)
        assert row.version == EDITORS + 1
    assert newest is not None
    assert {charge.id for charge in newest.charges} == {f"chg_{n}" for n in range(EDITORS)}
