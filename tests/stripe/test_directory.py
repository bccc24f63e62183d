"""The directory: the same history, in whatever order its moments become known."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import select

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import (
    LaneRow,
    StripeAccountRow,
    StripeCustomerRow,
    StripeMeterRow,
)
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store, units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.verdicts import Parked, Verdict
from usageflow.stripe import directory, identity_lanes
from usageflow.stripe.identities import whose

if TYPE_CHECKING:
    from tests.stripe.conftest import Clock

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
ACCOUNT = "account-1"
NEVER = timedelta(days=3_000)


def at(minutes: float) -> datetime:
    """So many minutes after the start."""
    return START + timedelta(minutes=minutes)


class Directory:
    """The directory of one account, with the steps that tests repeat."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._numbers = itertools.count(1)
        with database.transaction() as tx:
            self.organization_id = default_organization(tx)
            tx.session.add(
                StripeAccountRow(
                    id=ACCOUNT,
                    organization_id=self.organization_id,
                    kind="own",
                    account="own",
                    livemode=False,
                    state="active",
                    created_at=tx.now,
                )
            )
            tx.session.flush()
            tx.session.add(
                StripeMeterRow(
                    account_id=ACCOUNT,
                    event_name="calls",
                    meter_id="mtr_1",
                    formula="sum",
                    status="active",
                    refreshed_at=tx.now,
                )
            )

    def changed(
        self, customer_id: str, minute: float, *, certain: bool = False, **values: str
    ) -> bool:
        """Fields of a customer became these values."""
        with self.database.transaction() as tx:
            return directory.changed(tx, ACCOUNT, customer_id, values, at(minute), certain=certain)

    def seen(self, minute: float, wanted: Sequence[str], **found: Mapping[str, str] | None) -> None:
        """Stripe showed these customers."""
        with self.database.transaction() as tx:
            directory.seen(tx, ACCOUNT, found, wanted, at(minute))

    def forget(self, customer_id: str, minute: float) -> None:
        """A customer was deleted."""
        with self.database.transaction() as tx:
            directory.forget(tx, ACCOUNT, customer_id, at(minute))

    def attach(self, field: str, value: str, customer_id: str) -> int:
        """A person says whose it is."""
        with self.database.transaction() as tx:
            return directory.attach(tx, ACCOUNT, (field, value), customer_id)

    def whose(self, value: str, minute: float, field: str = "field") -> list[str]:
        """Whose usage of this minute is."""
        with self.database.reading() as tx:
            meant = directory.known(tx, ACCOUNT, [(field, value)])
        return whose(meant.get((field, value), ()), at(minute))

    def answers(self, minutes: Sequence[float], values: Sequence[str]) -> list[list[str]]:
        """Whose each value is at each of these minutes."""
        with self.database.reading() as tx:
            meant = directory.known(tx, ACCOUNT, [("field", value) for value in values])
        return [
            whose(meant.get(("field", value), ()), at(minute))
            for value in values
            for minute in minutes
        ]

    def use(self, value: str, minute: float, quantity: int = 1) -> None:
        """Record usage of an identity."""
        line = encode(
            UsageEvent(
                id=f"event-{next(self._numbers):06}",
                policy="calls",
                policy_version="1",
                metric="CALLS",
                identity=Identity("field", value),
                quantity=Decimal(quantity),
                occurred_at=at(minute),
                state="counted",
                event_name="calls",
            )
        )
        with self.database.transaction() as tx:
            store.append(tx, self.organization_id, [line], unknown_metric="create")

    def claim(self) -> list[units.Claim]:
        """Claim whatever is free."""
        with self.database.transaction() as tx:
            return units.claim(
                tx, ACCOUNT, owner="test", limit=9, lease_s=60, limits=Limits(resend_s_max=72_000)
            )

    def settle(self, claim: units.Claim, verdict: Verdict) -> None:
        """Settle one claim."""
        with self.database.transaction() as tx:
            assert units.settle(tx, claim, verdict)

    def rows(self, row: type[Any]) -> list[Any]:
        """Every row of a table."""
        with self.database.reading() as tx:
            found = list(tx.session.exec(select(row)))
            tx.session.expunge_all()
        return found

    def moments(self) -> list[tuple[str, str, datetime, datetime | None]]:
        """(customer, value, from, until) of all rows, in order."""
        return sorted(
            (
                (row.stripe_customer_id, row.value, row.valid_from, row.valid_until)
                for row in self.rows(StripeCustomerRow)
            ),
            key=lambda row: (row[0], row[2]),
        )


@pytest.fixture
def known(database: Database, clock: "Clock") -> Directory:
    """An empty directory, at noon."""
    clock.now = START
    return Directory(database)


def test_a_value_is_a_customers_from_one_moment_to_the_next(known: Directory) -> None:
    """Gained, changed, lost: a row for each, until the next."""
    known.changed("cus_1", 1, field="a")
    known.changed("cus_1", 2, field="b")
    known.changed("cus_1", 3, field="")
    assert known.moments() == [
        ("cus_1", "a", at(1), at(2)),
        ("cus_1", "b", at(2), at(3)),
        ("cus_1", "", at(3), None),
    ]
    assert (known.whose("a", 1), known.whose("b", 2), known.whose("b", 3)) == (
        ["cus_1"],
        ["cus_1"],
        [],
    )


class Told(NamedTuple):
    """What one event tells of one of the customers; `value` None: it was deleted."""

    customer_id: str
    minute: int
    value: str | None


def tell(known: Directory, told: Told) -> None:
    """As an event would."""
    if told.value is None:
        known.forget(told.customer_id, told.minute)
    else:
        assert known.changed(told.customer_id, told.minute, field=told.value)


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Told], list[Told]]:
    """What happened to three customers, in order; and as told: in any order, repeatedly."""
    story: list[Told] = []
    values, deleted = st.sampled_from(["a", "b", ""]), st.booleans()
    for number in range(3):
        minutes = sorted(draw(st.sets(st.integers(0, 9), max_size=4)))
        story += [Told(f"cus_{number}", one, draw(values)) for one in minutes]
        if draw(deleted) and minutes:
            story.append(Told(f"cus_{number}", minutes[-1] + 1, None))
    story.sort(key=lambda told: told.minute)
    repeated = draw(st.lists(st.sampled_from(story), max_size=3)) if story else []
    return story, draw(st.permutations(story + repeated))


@pytest.fixture(scope="module")
def scratch(sqlite_template: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that examples overwrite."""
    path = tmp_path_factory.mktemp("directory") / "usageflow.db"
    path.write_bytes(sqlite_template)
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories())
def test_order_and_repetition_do_not_matter(
    scratch: Path, sqlite_template: bytes, story: tuple[list[Told], list[Told]]
) -> None:
    """Told in order, or late, shuffled and twice: everybody's usage is the same customer's."""
    in_order, as_told = story
    minutes = [minute / 2 for minute in range(-2, 22)]
    results = []
    for events in (in_order, as_told):
        scratch.write_bytes(sqlite_template)
        database = Database.open(f"sqlite:///{scratch}")
        known = Directory(database)
        for event in events:
            tell(known, event)
        results.append((known.answers(minutes, ["a", "b"]), known.moments()))
        database.close()
    assert results[0] == results[1]


def test_many_may_tell_at_once(known: Directory) -> None:
    """Several servers, or threads of one: nothing is lost or told apart wrongly."""
    minutes = list(range(24))

    def tell_some(first: int) -> None:
        for minute in minutes[first::4]:
            assert known.changed("cus_1", minute, field="ab"[minute % 2])
            with known.database.transaction() as tx:
                directory.mark_listed(tx, ACCOUNT, ["field"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(tell_some, range(4)))
    ends = [*(at(minute) for minute in minutes[1:]), None]
    assert [moment for moment in known.moments() if moment[0]] == [
        ("cus_1", "ab"[minute % 2], at(minute), ends[minute]) for minute in minutes
    ]


def test_what_is_read_counts_where_it_is_news(known: Directory) -> None:
    """A reading that agrees adds nothing; one that does not is a change when it was noticed."""
    known.changed("cus_1", 1, field="a")
    known.seen(5, ["field"], cus_1={"field": "a", "other": "x"}, cus_2={})
    assert known.moments() == [("cus_1", "a", at(1), None)]
    known.seen(6, ["field"], cus_1={}, cus_2={"field": "a"}, cus_3=None)
    assert (known.whose("a", 5), known.whose("a", 6)) == (["cus_1"], ["cus_2"])
    known.changed("cus_1", 4, field="")
    assert (known.whose("a", 3), known.whose("a", 5)) == (["cus_1"], ["cus_2"])


def test_two_changes_of_one_second_are_in_doubt(known: Directory) -> None:
    """Nothing is changed until it has been read which was the last."""
    assert known.changed("cus_1", 1, field="a", other="x")
    assert known.changed("cus_1", 1, field="a")
    assert not known.changed("cus_1", 1, field="b", other="y")
    assert (known.whose("a", 1), known.whose("x", 1, "other")) == (["cus_1"], ["cus_1"])
    assert known.changed("cus_1", 1, certain=True, field="b", other="x")
    assert (known.whose("a", 1), known.whose("b", 1)) == ([], ["cus_1"])
    assert known.whose("x", 1, "other") == ["cus_1"]


def test_what_was_a_deleted_customers_stays_its_own(known: Directory) -> None:
    """Who has the value later gets what is used after it was lost, and from then on."""
    known.changed("cus_1", 1, field="a")
    known.changed("cus_1", 10, field="")
    known.changed("cus_2", 12, field="a")
    known.forget("cus_1", 13)
    assert known.answers([0, 5, 9, 10, 12], ["a"]) == [[], [], [], ["cus_2"], ["cus_2"]]
    known.changed("cus_1", 3, field="")
    assert known.answers([2, 5], ["a"]) == [[], ["cus_2"]]


def test_who_is_seen_again_was_never_gone(known: Directory) -> None:
    """Stripe may say that it does not know a customer that is there."""
    known.changed("cus_1", 1, field="a")
    known.forget("cus_1", 5)
    assert known.whose("a", 2) == []
    known.seen(6, ["field"], cus_1={"field": "a"})
    assert known.answers([2, 5.5, 6], ["a"]) == [["cus_1"]] * 3
    known.forget("cus_1", 4)
    assert known.answers([2, 4.5, 6], ["a"]) == [["cus_1"]] * 3


def test_who_is_gone_is_nobodys(known: Directory) -> None:
    """At any time; what is told late does not bring it back, but being seen again does."""
    known.changed("cus_1", 1, field="a")
    known.forget("cus_1", 5)
    assert (known.whose("a", 0), known.whose("a", 9)) == ([], [])
    known.changed("cus_1", 4, field="a")
    known.seen(5, ["field"], cus_1={"field": "a"})
    assert known.whose("a", 9) == []
    known.seen(6, ["field"], cus_1={"field": "a"})
    assert known.whose("a", 9) == ["cus_1"]


def test_gone_by_now_is_the_default(known: Directory, clock: "Clock") -> None:
    """Who finds that a customer is not there need not say since when."""
    known.changed("cus_1", 1, field="a")
    clock.now = at(3)
    with known.database.transaction() as tx:
        directory.forget(tx, ACCOUNT, "cus_1")
    known.changed("cus_1", 2, field="a")
    assert known.whose("a", 2) == []


def test_a_person_may_say_who_it_is(known: Directory) -> None:
    """The last word stands above Stripe's, for any time, until that customer is gone."""
    known.changed("cus_1", 1, field="a")
    known.changed("cus_2", 1, field="a")
    known.attach("field", "a", "cus_3")
    assert known.whose("a", 0) == ["cus_3"]
    known.attach("field", "a", "cus_1")
    known.changed("cus_1", 2, field="")
    assert known.whose("a", 5) == ["cus_1"]
    known.forget("cus_1", 6)
    assert known.whose("a", 5) == ["cus_2"]


def test_a_person_may_take_it_back(known: Directory) -> None:
    """Then it is whose Stripe says it is; who it was is told."""
    known.use("a", 0)
    known.changed("cus_1", 1, field="a")
    known.attach("field", "a", "cus_3")
    with known.database.transaction() as tx:
        assert directory.detach(tx, ACCOUNT, ("field", "a")) == "cus_3"
        assert directory.detach(tx, ACCOUNT, ("field", "a")) is None
    assert known.whose("a", 0) == ["cus_1"]


def test_rows_of_earlier_releases_may_be_attached(known: Directory) -> None:
    """They are valid since 1970, as a person's word is."""
    with known.database.transaction() as tx:
        tx.session.add(
            StripeCustomerRow(
                account_id=ACCOUNT,
                field="field",
                value="a",
                stripe_customer_id="cus_1",
                valid_from=directory.ALWAYS,
                seen_at=tx.now,
            )
        )
    known.changed("cus_2", 1, field="a")
    known.attach("field", "a", "cus_1")
    assert known.whose("a", 9) == ["cus_1"]


def test_values_are_compared_byte_for_byte(known: Directory) -> None:
    """Case, composition, spaces: another value is another customer's."""
    values = ["a", "A", "a ", "\u00e9", "e\u0301", "%", "_"]
    for number, value in enumerate(values):
        known.changed(f"cus_{number}", 1, field=value)
    assert [known.whose(value, 1) for value in values] == [
        [f"cus_{number}"] for number in range(len(values))
    ]


def test_an_empty_identity_is_nobody(known: Directory) -> None:
    """At Stripe an empty value is none, so it cannot mean those who have none."""
    known.changed("cus_1", 1, field="")
    assert known.whose("", 1) == []


def test_many_identities_at_once(known: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fit in one statement, of several fields."""
    monkeypatch.setattr(identity_lanes, "VALUES_MAX", 7)
    known.seen(1, ["field"], **{f"cus_{number}": {"field": str(number)} for number in range(40)})
    known.changed("cus_other", 1, other="1")
    wanted = [("field", str(number)) for number in range(50)] + [("other", "1")]
    with known.database.reading() as tx:
        found = directory.known(tx, ACCOUNT, wanted)
    assert len(found) == 41
    assert [one.customer_id for one in found["other", "1"]] == ["cus_other"]


def test_lists_are_remembered(known: Directory) -> None:
    """By field; and who has a value of it now."""
    with known.database.transaction() as tx:
        directory.mark_listed(tx, ACCOUNT, ["field"])
    with known.database.transaction() as tx:
        directory.mark_listed(tx, ACCOUNT, ["field"])
    known.seen(1, ["field"], cus_1={"field": "a"}, cus_2={"field": "b"})
    known.changed("cus_2", 2, field="")
    known.attach("field", "c", "cus_3")
    with known.database.reading() as tx:
        assert directory.listed_at(tx, ACCOUNT, "field") == START
        assert directory.listed_at(tx, ACCOUNT, "other") is None
        assert directory.listed(tx, ACCOUNT) == {"field"}
        assert directory.having(tx, ACCOUNT, {"field"}) == {"cus_1"}


def test_attaching_releases_what_was_parked(known: Directory, clock: "Clock") -> None:
    """And says of how many lanes."""
    known.use("a", 0)
    (claim,) = known.claim()
    known.settle(claim, Parked("no Stripe customer"))
    assert known.attach("field", "nobody", "cus_1") == 0
    assert known.attach("field", "a", "cus_1") == 1
    assert len(known.claim()) == 1


def test_the_lanes_of_a_customer(known: Directory) -> None:
    """Those whose identity it is now, each once."""
    known.use("a", 0)
    known.use("b", 0)
    lanes = {lane.identity_value: lane.id for lane in known.rows(LaneRow)}
    known.changed("cus_1", 1, field="a")
    known.changed("cus_1", 2, field="b")
    known.attach("field", "b", "cus_1")
    with known.database.reading() as tx:
        assert directory.lanes_of(tx, ACCOUNT, "cus_1") == [lanes["b"]]
        assert directory.lanes_of(tx, ACCOUNT, "cus_2") == []
