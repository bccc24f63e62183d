"""The kit itself: it finds nothing in a good sink, and the flaw in each bad one."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from usageflow.db.exact import add
from usageflow.forwarding.conformance import CHECKS, Trial, examine, main
from usageflow.forwarding.sink import Parcel, Properties
from usageflow.ledger.verdicts import Accepted, Ambiguous, Busy, Held, Verdict

CUSTOMERS = tuple(f"customer_{number}" for number in range(10))


class Place:
    """What a sink counts into, in memory."""

    def __init__(self) -> None:
        self.known: dict[str, Parcel] = {}

    def counted(self) -> Mapping[str, Decimal]:
        """By customer."""
        totals: dict[str, Decimal] = {}
        for parcel in self.known.values():
            totals[parcel.customer] = add(totals.get(parcel.customer, Decimal(0)), parcel.quantity)
        return totals


class Good:
    """A sink that keeps every promise: at most 12 digits, and a day late."""

    properties = Properties(
        window_s=None,
        digits_max=12,
        late_s_max=86_400,
        ahead_s_max=3_600,
        batch_max=10,
        calls_per_s=10,
        folding="all",
        readable=False,
    )

    def __init__(self, place: Place) -> None:
        self.place = place

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """A verdict for each."""
        return [self.one(parcel) for parcel in parcels]

    def one(self, parcel: Parcel) -> Verdict:
        """The verdict on one."""
        if len(parcel.quantity.as_tuple().digits) > 12:
            return Held("too long")
        age = datetime.now(UTC) - parcel.occurred_at
        if not timedelta(hours=-1) < age < timedelta(days=1):
            return Held("too old or too new")
        duplicate = parcel.identifier in self.place.known
        self.place.known.setdefault(parcel.identifier, parcel)
        return Accepted(duplicate)

    def close(self) -> None:
        """Nothing to give up."""


class Absent(Good):
    """Nobody is there."""

    def one(self, parcel: Parcel) -> Verdict:
        """No answer."""
        return Busy()


class CountsTwice(Good):
    """Forgets identifiers."""

    def one(self, parcel: Parcel) -> Verdict:
        """Counted under a key of its own."""
        self.place.known[f"{parcel.identifier}{len(self.place.known)}"] = parcel
        return Accepted()


class ForgetsOnRestart(Good):
    """Knows identifiers only as long as it lives."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.mine: set[str] = set()

    def one(self, parcel: Parcel) -> Verdict:
        """Known to this object alone."""
        if parcel.identifier in self.mine:
            return Accepted(duplicate=True)
        self.mine.add(parcel.identifier)
        self.place.known[f"{parcel.identifier}{id(self)}{len(self.place.known)}"] = parcel
        return Accepted()


class RefusesRepeats(Good):
    """Takes "I have that" for a failure."""

    def one(self, parcel: Parcel) -> Verdict:
        """A repeat is held."""
        if parcel.identifier in self.place.known:
            return Held("already there")
        return super().one(parcel)


class CountsOneOfABatch(Good):
    """Looks at the first unit of a call."""

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """One verdict for all."""
        return [self.one(parcels[0])] * len(parcels) if parcels else []


class SaysTooLittle(Good):
    """Gives one verdict, however many units."""

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """The last one."""
        return super().send(parcels)[-1:]


class Shuffles(Good):
    """Gives the verdicts in another order."""

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Backwards, if that makes a difference."""
        verdicts = list(super().send(parcels))
        return verdicts[1:] + verdicts[:1]


class Rounds(Good):
    """Uses binary floats."""

    def one(self, parcel: Parcel) -> Verdict:
        """0.1 is a little more then."""
        object.__setattr__(parcel, "quantity", Decimal(float(parcel.quantity)))
        return super().one(parcel)


class AcceptsWhatIsTooOld(Good):
    """Says yes to usage that it drops."""

    def one(self, parcel: Parcel) -> Verdict:
        """Too old or too new is dropped."""
        verdict = super().one(parcel)
        return Accepted() if verdict == Held("too old or too new") else verdict


class Raises(Good):
    """Raises where nobody is there."""

    def one(self, parcel: Parcel) -> Verdict:
        """As a library does."""
        raise ConnectionRefusedError


class BreaksOnClose(Good):
    """Can be closed once."""

    closed = False

    def close(self) -> None:
        """The second time is one too many."""
        if self.closed:
            raise ValueError("closed")
        self.closed = True


class Changes(Good):
    """Has other properties each time one looks, and an answer to nothing."""

    @property
    def properties(self) -> Properties:  # type: ignore[override]
        """Not the same twice."""
        self.looks = getattr(self, "looks", 0) + 1
        return Properties(
            window_s=self.looks,
            digits_max=12,
            late_s_max=86_400,
            ahead_s_max=3_600,
            batch_max=10,
            calls_per_s=0,
            folding="all",
            readable=False,
        )

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """One more verdict than units."""
        return [*super().send(parcels), Ambiguous("what?")]


def trial(kind: Callable[[Place], Good], away: Callable[[Place], Good] = Absent) -> Trial:
    """A trial of a kind of sink."""
    place = Place()
    return Trial(
        open=lambda: kind(place),
        counted=place.counted,
        customers=CUSTOMERS,
        event_name="tokens",
        away=lambda: away(place),
        patience_s=0.05,
    )


def test_nothing_is_found_in_a_good_sink() -> None:
    """A sink that keeps its promises passes every check."""
    assert examine(trial(Good)) == []


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (CountsTwice, "a unit counts once"),
        (ForgetsOnRestart, "a unit counts once"),
        (RefusesRepeats, "a unit counts once"),
        (CountsOneOfABatch, "a full batch has a verdict for each"),
        (SaysTooLittle, "a full batch has a verdict for each"),
        (Shuffles, "verdicts are in order"),
        (Rounds, "quantities are exact"),
        (AcceptsWhatIsTooOld, "usage is as old as declared"),
        (Changes, "its properties stand"),
        (BreaksOnClose, "it closes twice"),
    ],
)
def test_each_flaw_is_found(kind: Callable[[Place], Good], check: str) -> None:
    """The check that is about a promise fails for a sink that breaks it."""
    assert check in {finding.check for finding in examine(trial(kind))}


@pytest.mark.parametrize("away", [Raises, Good])
def test_an_absent_far_side_must_be_a_verdict(away: Callable[[Place], Good]) -> None:
    """A sink that raises, or accepts, where nobody is there is found out."""
    (finding,) = examine(trial(Good, away))
    assert finding.check == "an absent far side is a verdict"


def test_what_is_told_later_need_not_be_a_verdict() -> None:
    """A sink that accepts before it looks may drop usage that is too old."""
    place = Place()
    late = Trial(
        open=lambda: AcceptsWhatIsTooOld(place),
        counted=place.counted,
        customers=CUSTOMERS,
        event_name="tokens",
        told_later=True,
        patience_s=0.05,
    )
    assert examine(late) == []


@contextmanager
def good_trial() -> Iterator[Trial]:
    """What a command line names."""
    yield trial(Good)


@contextmanager
def bad_trial() -> Iterator[Trial]:
    """The same of a sink with a flaw."""
    yield trial(CountsTwice)


@pytest.mark.parametrize(
    ("factory", "code", "words"),
    [("good_trial", 0, f"{len(CHECKS)} checks"), ("bad_trial", 1, "a unit counts once: ")],
)
def test_it_is_a_command(
    factory: str,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The trial is named as module:factory, and the exit code tells."""
    monkeypatch.setitem(sys.modules, "my_trials", sys.modules[__name__])
    assert main(f"my_trials:{factory}") == code
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("target", ["", "my_trials", "no.such:trial", "usageflow:nothing", ":x"])
def test_a_name_that_is_none_is_told(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with how it is used."""
    assert main(target) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: python -m usageflow.forwarding.conformance MODULE:FACTORY")
    assert err.count("\n") == 1
