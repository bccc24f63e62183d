"""The states of an invoice: each step there is, and no other."""

import itertools
from typing import TYPE_CHECKING, get_args

import pytest

from usageflow.billing import invoice_states
from usageflow.billing.invoice_states import TRANSITIONS, State
from usageflow.db.billing_tables import INVOICE_STATES, InvoiceRow

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_STATES = get_args(State)


def test_the_states_are_those_of_the_table() -> None:
    """No state is known here that the database refuses, or the other way round."""
    assert set(_STATES) == set(INVOICE_STATES)
    assert {state for pair in TRANSITIONS for state in pair} == set(_STATES)


@pytest.mark.parametrize(("before", "to"), list(itertools.product(_STATES, _STATES)))
def test_a_step_that_is_not_in_the_table_is_refused(before: str, to: State) -> None:
    """The reason says which steps there are."""
    invoice = InvoiceRow(state=before)
    refused = invoice_states.problem(invoice, to)
    if (before, to) in TRANSITIONS:
        assert refused is None
    else:
        assert refused is not None
        assert refused.code == "conflict"
        assert f"not {to}" in refused.message
        with pytest.raises(ValueError, match="cannot become"):
            invoice_states.apply(None, invoice, to)  # type: ignore[arg-type]  # not reached


@pytest.mark.parametrize(("before", "to"), sorted(TRANSITIONS))
def test_a_step_is_taken_and_told(till: "Books", before: str, to: State) -> None:
    """The row is in its new state since now, and an event of its own tells of it."""
    till.start()
    till.work(till.now.replace(month=4))
    (draft,) = till.invoices()
    with till.database.transaction() as tx:
        row = tx.session.get_one(InvoiceRow, draft.id)
        row.state = before
        tx.session.flush()
        invoice_states.apply(tx, row, to)
    (after,) = till.invoices()
    assert (after.state, after.updated_at) == (to, till.now)
    assert after.paid_at == (till.now if to == "PAID" else None)
    assert after.ended_at == (till.now if to in ("VOID", "UNCOLLECTIBLE") else None)
    assert till.told()[-1] == TRANSITIONS[before, to]
