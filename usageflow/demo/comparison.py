"""What was sent, what the ledger has, what Stripe applied, per customer and metric. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

Totals = Mapping[tuple[str, str], Decimal | int]
"""(customer, metric) -> quantity."""


@dataclass(frozen=True)
class Row:
    """One customer and metric. `requests` is the number of billable requests behind `sent`."""

    customer: str
    metric: str
    requests: int
    sent: Decimal
    ledger: Decimal
    stripe: Decimal

    @property
    def equal(self) -> bool:
        """Whether all three agree exactly."""
        return self.sent == self.ledger == self.stripe


def compare(
    requests: Mapping[tuple[str, str], int], sent: Totals, ledger: Totals, stripe: Totals
) -> list[Row]:
    """A row for every customer and metric that anybody knows of, sorted."""
    keys = sorted(set(sent) | set(ledger) | set(stripe))
    return [
        Row(
            customer=customer,
            metric=metric,
            requests=requests.get((customer, metric), 0),
            sent=Decimal(sent.get((customer, metric), 0)),
            ledger=Decimal(ledger.get((customer, metric), 0)),
            stripe=Decimal(stripe.get((customer, metric), 0)),
        )
        for customer, metric in keys
    ]


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text."""
    head = ("customer", "metric", "requests", "quantity sent", "in the ledger", "at Stripe", "")
    lines = [head] + [
        (
            row.customer,
            row.metric,
            str(row.requests),
            f"{row.sent:f}",
            f"{row.ledger:f}",
            f"{row.stripe:f}",
            "equal" if row.equal else "DIFFERS",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)  # noqa: PLR2004 - two names first
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
