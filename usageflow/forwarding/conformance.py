"""Whether a sink keeps what `sink.Sink` promises: checks for everyone who writes one.

From a test: `assert examine(trial) == []`. From a shell:

    python -m usageflow.forwarding.conformance my_module:my_trial

where `my_trial` is a context manager that gives a `Trial`. Time does not pass here, so the end of
an identifier's window is not looked at.
"""

import importlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, cast

from usageflow.db.exact import add
from usageflow.forwarding.sink import Parcel, Properties, Sink
from usageflow.ledger.verdicts import Accepted, Ambiguous, Busy, Verdict

USAGE: Final = "usage: python -m usageflow.forwarding.conformance MODULE:FACTORY"
THREADS: Final = 8
"""Calls at a time; the forwarder makes up to 32, each for other customers."""
LOOK_S: Final = 0.02
_DAY: Final = timedelta(days=1)
_ANY_AGE: Final = timedelta(days=400)
_ANY_DIGITS: Final = 20
"""Tried where any number is declared to do: no binary float has them, and no 64-bit integer."""
_FRACTIONS: Final = ("0.1", "0.2", "0.000001", "12345.678901")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A sink to be examined, and who tells what it has counted.

    `open` makes a sink to the same place each time, as a restart does. `counted` gives the exact
    total there of each customer for `event_name`, which nobody else uses meanwhile. `customers`
    exist there, 8 or more. `away` makes a sink whose far side is not there. `told_later`: it
    accepts before it looks, so what it refuses is not told by the verdict. `patience_s`: how long
    until what was accepted is counted.
    """

    open: Callable[[], Sink]
    counted: Callable[[], Mapping[str, Decimal]]
    customers: Sequence[str]
    event_name: str
    away: Callable[[], Sink] | None = None
    told_later: bool = False
    patience_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that was not kept."""

    check: str
    problem: str

    def __str__(self) -> str:
        return f"{self.check}: {self.problem}"


Check = Callable[["Examination"], Iterator[str]]


class Examination:
    """A trial with a sink opened, and the steps that checks repeat."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.sink = trial.open()
        self.properties: Properties = self.sink.properties

    def parcel(
        self, quantity: str = "1", *, number: int = 0, age: timedelta | None = None
    ) -> Parcel:
        """A unit nobody has sent yet, for the customer of this number, an hour or `age` old."""
        customer = self.trial.customers[number % len(self.trial.customers)]
        return Parcel(
            identifier=f"conformance-{uuid.uuid4()}",
            event_name=self.trial.event_name,
            customer=customer,
            identity_field="account_id",
            identity_value=customer,
            quantity=Decimal(quantity),
            occurred_at=datetime.now(UTC).replace(microsecond=0) - (age or timedelta(hours=1)),
        )

    def totals(self) -> dict[str, Decimal]:
        """What is counted now, by customer."""
        counted = self.trial.counted()
        return {customer: counted.get(customer, Decimal(0)) for customer in self.trial.customers}

    def expect(self, before: Mapping[str, Decimal], added: Sequence[Parcel]) -> Iterator[str]:
        """A problem unless exactly `added` comes to be counted since `before`."""
        wanted = dict(before)
        for parcel in added:
            wanted[parcel.customer] = add(wanted[parcel.customer], parcel.quantity)
        end = time.monotonic() + self.trial.patience_s
        while (found := self.totals()) != wanted and time.monotonic() < end:
            time.sleep(LOOK_S)
        for customer, total in wanted.items():
            if found[customer] != total:
                yield f"{customer} has {found[customer]} counted, not {total}"


def examine(trial: Trial) -> list[Finding]:
    """Every promise that the sink does not keep; an empty list for a good one."""
    findings = []
    for name, check in CHECKS.items():
        examination = Examination(trial)
        try:
            findings += [Finding(name, problem) for problem in check(examination)]
        except Exception as error:  # noqa: BLE001 - whatever it raises is what was looked for
            findings.append(Finding(name, f"raised {error!r}"))
        finally:
            examination.sink.close()
    return findings


def _properties(it: Examination) -> Iterator[str]:
    properties = it.properties
    if it.sink.properties != properties:
        yield "the properties change"
    if properties.batch_max < 1 or not properties.calls_per_s > 0:
        yield "batch_max and calls_per_s must be above 0"
    if list(it.sink.send([])):
        yield "a verdict on nothing"


def _once(it: Examination) -> Iterator[str]:
    before, parcel, other = it.totals(), it.parcel("3"), it.parcel("4")
    yield from _accepted(it.sink.send([parcel]), "the first time")
    yield from _accepted(it.sink.send([parcel]), "the second time")
    yield from it.expect(before, [parcel])
    yield from _accepted(it.sink.send([other]), "with another identifier")
    yield from it.expect(before, [parcel, other])
    it.sink.close()
    it.sink = it.trial.open()
    yield from _accepted(
        it.sink.send([parcel, other][: it.properties.batch_max]), "after a restart"
    )
    yield from it.expect(before, [parcel, other])


def _batches(it: Examination) -> Iterator[str]:
    before = it.totals()
    parcels = [
        it.parcel(str(number + 1), number=number) for number in range(it.properties.batch_max)
    ]
    verdicts = it.sink.send(parcels)
    if len(verdicts) != len(parcels):
        yield f"{len(verdicts)} verdicts on {len(parcels)} units"
    yield from _accepted(verdicts, "in a full batch")
    yield from it.expect(before, parcels)


def _order(it: Examination) -> Iterator[str]:
    """One unit with too many digits in a batch is told apart from the others, at its place."""
    digits = it.properties.digits_max
    if digits is None:
        return
    before = it.totals()
    parcels = [it.parcel(number=number) for number in range(min(it.properties.batch_max, 5))]
    wrong = len(parcels) // 2
    parcels[wrong] = it.parcel("9" * (digits + 1), number=wrong)
    good = parcels[:wrong] + parcels[wrong + 1 :]
    verdicts = list(it.sink.send(parcels))
    if isinstance(verdicts.pop(wrong), Accepted):
        yield f"{digits + 1} digits are accepted, though {digits} are declared"
    yield from _accepted(verdicts, "beside a unit with too many digits")
    yield from it.expect(before, good)


def _exact(it: Examination) -> Iterator[str]:
    digits = it.properties.digits_max or _ANY_DIGITS
    largest = "9" * digits
    before = it.totals()
    quantities = [largest, f"-{largest}", "-7", *_FRACTIONS, f"{'1' * (digits - 3)}.125"]
    parcels = [it.parcel(quantity) for quantity in quantities]
    for parcel in parcels:
        yield from _accepted(it.sink.send([parcel]), f"with quantity {parcel.quantity}")
    yield from it.expect(before, parcels)


def _times(it: Examination) -> Iterator[str]:
    """What is within the bounds is counted; what is beyond is so too, or it is not accepted."""
    late, ahead = it.properties.late_s_max, it.properties.ahead_s_max
    slack = timedelta(seconds=30)
    oldest = _ANY_AGE if late is None else timedelta(seconds=late)
    newest = _DAY if ahead is None else timedelta(seconds=ahead)
    before = it.totals()
    within = [it.parcel(age=oldest - slack), it.parcel(age=slack - newest)]
    for parcel in within:
        yield from _accepted(it.sink.send([parcel]), f"with usage of {parcel.occurred_at}")
    yield from it.expect(before, within)
    beyond = [it.parcel(age=oldest + _DAY), it.parcel(age=-newest - _DAY)]
    if it.trial.told_later:
        return
    taken = [one for one in beyond if isinstance(it.sink.send([one])[0], Accepted)]
    yield from it.expect(before, [*within, *taken])


def _threads(it: Examination) -> Iterator[str]:
    before = it.totals()
    parcels = [[it.parcel(number=number) for _ in range(5)] for number in range(THREADS)]

    def send(mine: list[Parcel]) -> list[Verdict]:
        return [it.sink.send([parcel])[0] for parcel in mine]

    with ThreadPoolExecutor(THREADS) as pool:
        for verdicts in pool.map(send, parcels):
            yield from _accepted(verdicts, f"from {THREADS} threads")
    yield from it.expect(before, [parcel for mine in parcels for parcel in mine])


def _away(it: Examination) -> Iterator[str]:
    if it.trial.away is None:
        return
    sink = it.trial.away()
    parcels = [it.parcel(number=number) for number in range(min(it.properties.batch_max, 2))]
    verdicts = sink.send(parcels)
    sink.close()
    if len(verdicts) != len(parcels) or not all(
        isinstance(one, Ambiguous | Busy) for one in verdicts
    ):
        yield f"a far side that is not there gives {verdicts}, not Ambiguous or Busy"


def _closes(it: Examination) -> Iterator[str]:
    sink = it.trial.open()
    sink.close()
    sink.close()
    yield from ()


CHECKS: Final[Mapping[str, Check]] = {
    "its properties stand": _properties,
    "a unit counts once": _once,
    "a full batch has a verdict for each": _batches,
    "verdicts are in order": _order,
    "quantities are exact": _exact,
    "usage is as old as declared": _times,
    "several threads may send": _threads,
    "an absent far side is a verdict": _away,
    "it closes twice": _closes,
}
"""What is looked at, by what it shows."""


def _accepted(verdicts: Sequence[Verdict], when: str) -> Iterator[str]:
    for verdict in verdicts:
        if not isinstance(verdict, Accepted):
            yield f"{verdict} instead of Accepted {when}"


def main(target: str = "") -> int:
    """Examine `module:factory` and print what was found.

    0 if nothing was, 1 if something was, 2 if there is no such factory.
    """
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        sys.stderr.write(f"{USAGE}{f'; {target!r}: {error}' if target else ''}\n")
        return 2
    factory = cast("Callable[[], AbstractContextManager[Trial]]", found)
    with factory() as trial:
        findings = examine(trial)
    lines = [str(finding) for finding in findings] or [f"{len(CHECKS)} checks: nothing found"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
