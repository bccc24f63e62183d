"""What a comparison of ledger and Stripe means for one slot. Pure: values in, a judgement out.

A slot is all that the units of one Stripe customer, event name and UTC hour carry. What to compare
and when is `reconciliation`'s; applying what is proposed here is `corrections`'s.

The whole argument rests on sums. Whatever subset of the undecided units Stripe has, what it shows
tells how much is missing, and only that much is ever sent again or proposed. A guess that two
readings half an hour apart do not bear out is never acted on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from itertools import combinations
from typing import Final, Literal, TypeAlias

from usageflow.stripe.precision import gap, is_gap, is_sure

LAG: Final = timedelta(hours=2)
"""How long after the last attempt, and after the end of an hour, Stripe's sums are believed: they
are eventually consistent, by Stripe's own word."""
REPEAT: Final = timedelta(minutes=30)
"""How far apart the same sum must be seen twice before an undecided unit is decided."""
LATE: Final = timedelta(hours=24)
"""How long Stripe may take to count what it accepted before something must be wrong."""
CANCEL: Final = timedelta(hours=24)
"""How long after it received a meter event Stripe takes it back."""
PAST: Final = timedelta(days=34)
"""How old usage may be that is sent again: Stripe takes 35 days, and sending takes a while."""
DOUBTS_MAX: Final = 4
"""Undecided units of one slot that are told apart: with more, too many sums fit by chance."""

_EXACT: Final = Context(prec=100, traps=[Inexact, InvalidOperation])
_NOTHING: Final = Decimal(0)

Formula: TypeAlias = Literal["sum", "count", "last"]
Classification: TypeAlias = Literal["unsettled", "late", "foreign", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A unit that may matter for a difference: what the meter gets by it, and when it was sent."""

    unit_id: int
    identifier: str
    weight: Decimal
    sent_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt(Sent):
    """A unit of which nobody knows whether Stripe has it.

    `rests_at`: from then on nothing sends it any more; None while it still may be. `moved_at`: when
    something was last heard of it. `held`: it waits for a person. A `correction` is there to make a
    sum right, and is no usage.
    """

    occurred_at: datetime
    moved_at: datetime
    rests_at: datetime | None
    held: bool = False
    correction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What the ledger knows of one slot.

    `expected` is what Stripe has to show for the units it accepted, differences that a person
    dismissed included, and no doubt; on a `last` meter it is of `expected_at`. `accepted_at` and
    `corrected_at`: when Stripe last took a unit, and a correction. `coming`: the sum of corrections
    that are not there yet, None without one. `suspects` may be among those that `reports` of Stripe
    (their codes) say were dropped; `gone` are units that it should not have any more.
    """

    formula: Formula
    hour: datetime
    expected: Decimal
    expected_at: datetime | None = None
    accepted_at: datetime | None = None
    corrected_at: datetime | None = None
    coming: Decimal | None = None
    doubts: tuple[Doubt, ...] = ()
    gone: tuple[Sent, ...] = ()
    suspects: tuple[Sent, ...] = ()
    reports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The open difference of the slot: what was `observed` then, and that ever `since`.

    `applied`: its proposal is being carried out.
    """

    expected: Decimal
    observed: Decimal
    since: datetime
    applied: bool = False


@dataclass(frozen=True, slots=True)
class Agrees:
    """Stripe has exactly what it accepted: its units are settled."""


@dataclass(frozen=True, slots=True)
class Waits:
    """What is on its way will show; nothing to do or to tell until then."""


@dataclass(frozen=True, slots=True)
class Decides:
    """Stripe has the units `applied` and not those `lost`, which are to be sent as others."""

    applied: tuple[int, ...]
    lost: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would end a difference: send a signed `unit`, `cancel` one event, or `reissue` a unit.

    `quantity` belongs to a unit, `identifier` to the others.
    """

    kind: Literal["unit", "cancel", "reissue"]
    quantity: Decimal | None = None
    identifier: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Differs:
    """Stripe shows something else than it should, and why that may be.

    `since`: when this was first seen. `hold`: nobody but a person can decide the undecided units.
    """

    classification: Classification
    expected: Decimal
    reason: str
    since: datetime
    proposal: Proposal | None = None
    hold: bool = False


Judgement: TypeAlias = Agrees | Waits | Decides | Differs


def judge(slot: Slot, observed: Decimal, *, now: datetime, seen: Seen | None = None) -> Judgement:
    """What is to be done about a slot of which Stripe shows `observed`."""
    if slot.doubts:
        return _doubtful(slot, observed, now, seen)
    if slot.coming is not None:
        return Waits()
    if not gap(slot.expected, observed):
        return Agrees() if _rests(slot, now) else Waits()
    if seen is not None and seen.applied and now < _carried_out(slot, seen) + LATE:
        return Waits()
    return _different(slot, observed, now, _since(slot.expected, observed, now, seen))


def explained(slot: Slot, observed: Decimal, *, dismissed: Seen) -> Decimal:
    """How much of what a person let be missing are units that have gone from the ledger since.

    Stripe still shows what it did when that was dismissed, which has been expected since; but now
    less is: what went was missing there already, and must not be expected to be missing twice.
    """
    missing = _EXACT.subtract(dismissed.expected, dismissed.observed)
    went = _EXACT.subtract(dismissed.observed, slot.expected)
    unchanged = not gap(dismissed.observed, observed)
    return max(_NOTHING, min(went, missing)) if unchanged else _NOTHING


def whole(slot: Slot) -> Decimal:
    """What Stripe has to show once it has every unit of the slot."""
    return _shown_with(slot, slot.doubts)


def total(values: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    found = _NOTHING
    for value in values:
        found = _EXACT.add(found, value)
    return found


def _rests(slot: Slot, now: datetime) -> bool:
    """Whether the last unit that Stripe took is old enough for its sums to be believed."""
    return slot.accepted_at is None or now >= slot.accepted_at + LAG


def _carried_out(slot: Slot, seen: Seen) -> datetime:
    """When what was applied had reached Stripe."""
    return max(seen.since, slot.corrected_at or seen.since)


def _since(expected: Decimal, observed: Decimal, now: datetime, seen: Seen | None) -> datetime:
    """Since when the slot has been seen as it is now."""
    alike = seen is not None and (seen.expected, seen.observed) == (expected, observed)
    return seen.since if seen is not None and alike and not seen.applied else now


# Undecided units


def _doubtful(slot: Slot, observed: Decimal, now: datetime, seen: Seen | None) -> Judgement:
    there = _fitting(slot, observed)
    expected = whole(slot)
    resting = all(doubt.rests_at is not None and doubt.rests_at <= now for doubt in slot.doubts)
    if not resting and there is not None:
        return Waits()
    since = _since(expected, observed, now, seen)
    if since < _moved_at(slot) + LAG:
        since = now  # what was seen so soon is not believed
    reason = _doubt_words(slot, observed, there)
    if not resting or now < since + REPEAT:
        reason += "; it is looked at once more before anything is done"
        return Differs(classification="unsettled", expected=expected, reason=reason, since=since)
    lost = () if there is None else _without(slot.doubts, there)
    too_old = bool(lost) and slot.hour < now - PAST
    if there is not None and not too_old:
        return Decides(_ids(there), _ids(lost), reason)
    lasts = now >= since + LATE
    reason += "; it is too old to be sent again" if too_old else ""
    return Differs(
        classification="unsettled",
        expected=expected,
        reason=reason if lasts else reason + _later(since + LATE),
        since=since,
        proposal=_signed(slot, expected, observed) if lasts else None,
        hold=True,
    )


def _fitting(slot: Slot, observed: Decimal) -> tuple[Doubt, ...] | None:
    """The undecided units that Stripe must have to show `observed`; None if that is not clear.

    Units of the same weight are as good as each other, since only the sum is billed; one that
    changes nothing counts as there.
    """
    if len(slot.doubts) > DOUBTS_MAX:
        return None
    fits: dict[tuple[Decimal, ...], tuple[Doubt, ...]] = {}
    for some in _subsets(slot.doubts):
        if not gap(_shown_with(slot, some), observed):
            weights = () if slot.formula == "last" else tuple(sorted(_weights(some)))
            fits.setdefault(weights, some)
    return next(iter(fits.values())) if len(fits) == 1 else None


def _subsets(doubts: tuple[Doubt, ...]) -> Iterator[tuple[Doubt, ...]]:
    """Every subset, the largest first."""
    for size in range(len(doubts), -1, -1):
        yield from combinations(doubts, size)


def _weights(doubts: Iterable[Doubt]) -> Iterator[Decimal]:
    return (doubt.weight for doubt in doubts if doubt.weight)


def _shown_with(slot: Slot, some: tuple[Doubt, ...]) -> Decimal:
    """What Stripe shows if it has just `some` of the undecided units.

    `expected` takes every correction for granted: one that is not there is missing from it.
    """
    if slot.formula == "last":
        values = [(doubt.occurred_at, doubt.unit_id, doubt.weight) for doubt in some]
        latest = max(values, default=None)
        newer = latest and (slot.expected_at is None or latest[0] >= slot.expected_at)
        return latest[2] if latest and newer else slot.expected
    usage = (doubt.weight for doubt in some if not doubt.correction)
    absent = (doubt.weight for doubt in _without(slot.doubts, some) if doubt.correction)
    missing = total([*absent, slot.coming or _NOTHING])
    return total([slot.expected, *usage, missing.copy_negate()])


def _without(doubts: tuple[Doubt, ...], some: tuple[Doubt, ...]) -> tuple[Doubt, ...]:
    return tuple(doubt for doubt in doubts if doubt not in some)


def _ids(doubts: tuple[Doubt, ...]) -> tuple[int, ...]:
    return tuple(doubt.unit_id for doubt in doubts)


def _moved_at(slot: Slot) -> datetime:
    """When something was last sent or heard in the slot."""
    moments = [doubt.moved_at for doubt in slot.doubts]
    return max(moments if slot.accepted_at is None else [*moments, slot.accepted_at])


def _doubt_words(slot: Slot, observed: Decimal, there: tuple[Doubt, ...] | None) -> str:
    first, *others = slot.doubts
    weight = total(doubt.weight for doubt in slot.doubts)
    units = (
        f"{len(slot.doubts)} units ({weight:f} in all) were"
        if others
        else (f"unit {first.identifier} ({weight:f}) was")
    )
    sent = f"{min(doubt.sent_at for doubt in slot.doubts):%Y-%m-%d %H:%M} UTC"
    sums = f"{whole(slot):f} with, {_shown_with(slot, ()):f} without"
    arrived = "arrived in part"
    if there is None:
        arrived = "which tells nothing"
    elif there in ((), slot.doubts):
        arrived = "it arrived" if there else "it did not arrive"
    shows = f"Stripe shows {observed:f} ({sums})"
    words = f"{units} sent at {sent} without a known outcome; {shows}: {arrived}"
    return words + _rounded(slot.expected, observed)


# Differences


def _different(slot: Slot, observed: Decimal, now: datetime, since: datetime) -> Differs:
    classification, reason = _classified(slot, observed, now)
    reason += _rounded(slot.expected, observed)
    proposal = None if classification == "late" else _proposal(slot, observed, now)
    return Differs(
        classification=classification,
        expected=slot.expected,
        reason=reason if proposal else reason + _unproposed(slot, classification, now),
        since=since,
        proposal=proposal,
    )


def _unproposed(slot: Slot, classification: Classification, now: datetime) -> str:
    """Why nothing is proposed, and from when on something will be."""
    waits = LATE if classification == "late" else LAG
    last = max((at for at in (slot.accepted_at, slot.corrected_at) if at), default=None)
    if last is not None and now < last + waits:
        return _later(last + waits)
    if slot.formula != "sum":
        return f"; nothing can be taken off or added to what a {slot.formula!r} meter shows"
    return ""


def _later(moment: datetime) -> str:
    return f"; what to do is proposed from {moment:%Y-%m-%d %H:%M} UTC on"


def _classified(slot: Slot, observed: Decimal, now: datetime) -> tuple[Classification, str]:
    shows = f"Stripe shows {observed:f} of {slot.expected:f}"
    missing = not observed if slot.formula == "last" else observed < slot.expected
    recent = slot.accepted_at is not None and now - slot.accepted_at < LATE
    if slot.reports and missing:
        return "rejected", f"{shows} and reports that it dropped some ({', '.join(slot.reports)})"
    if recent and missing:
        return "late", f"{shows}; the last came less than a day ago, and its sums lag behind"
    if missing:
        return "rejected", f"{shows} a day after the last was accepted"
    if slot.corrected_at is not None and now - slot.corrected_at < LATE:
        return "late", f"{shows}; a correction of less than a day ago may not be in it"
    writes = "something else writes to this meter, or a unit was counted twice"
    return "foreign", f"Stripe shows {observed:f} where {slot.expected:f} were sent: {writes}"


def _proposal(slot: Slot, observed: Decimal, now: datetime) -> Proposal | None:
    """The smallest step that makes Stripe show what it should."""
    expected = slot.expected
    if slot.formula != "last":
        doubled = [
            one
            for one in slot.gone
            if is_gap(one.weight.copy_negate(), expected, observed) and now - one.sent_at < CANCEL
        ]
        dropped = [one for one in slot.suspects if is_gap(one.weight, expected, observed)]
        if len(doubled) == 1:
            return Proposal("cancel", identifier=doubled[0].identifier)
        if len(dropped) == 1:
            return Proposal("reissue", identifier=dropped[0].identifier)
    if not _rests(slot, now):
        return None  # a lag looks the same, and a unit that is sent too much must be taken back
    return _signed(slot, expected, observed)


def _signed(slot: Slot, expected: Decimal, observed: Decimal) -> Proposal | None:
    """Only a sum can be corrected by adding to it, and only if it is known how much."""
    if slot.formula != "sum" or not is_sure(expected, observed):
        return None
    quantity = gap(expected, observed)
    return Proposal("unit", quantity=quantity) if quantity else None


def _rounded(expected: Decimal, observed: Decimal) -> str:
    words = "; Stripe shows a number of this size rounded, so how much it is off is not certain"
    return "" if is_sure(expected, observed) else words
