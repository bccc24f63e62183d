"""Stripe as a witness, and the judge of what came of all usage.

The judge believes two witnesses only: what reached the emulator (its journal, and every call noted
before it saw it), and what the ledger recorded. Of what the ledger says became of a unit it
believes no word that Stripe does not bear out.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from sqlmodel import col, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usageflow.db.session import Database, Tx
from usageflow.db.tables import LaneRow, ReconciliationRow, UnitRow, UsageEventRow
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.serve import running

KEY = "sk_test_platform"
OWNER_KEY = "sk_test_owner"
ACCOUNT = "acct_" + sha256(b"owner").hexdigest()[:16]
"""The account that the owner's key is of, by which our platform's key is connected to it."""
FIELD = "account_id"
METERS = {"tokens": "sum", "seconds": "sum", "calls": "count"}
START = datetime(2026, 11, 21, 9, 40, tzinfo=UTC)
BLIND = timedelta(hours=20, minutes=1)
"""Nothing is sent again later than this after its first attempt."""
INBOX = ("parked", "quarantined", "held")
DONE = ("accepted", "settled")
TOLD = ("event_name", "identifier", "timestamp", "customer", "value")
PENDING = ("open", "sealed")


@dataclass
class Clocks:
    """What time it is, which is also Stripe's, and by how much our machine is wrong about it."""

    true: datetime = START
    error: timedelta = timedelta(0)

    def stripe(self) -> datetime:
        """The time at Stripe."""
        return self.true

    def ours(self) -> datetime:
        """The time our machine believes it is."""
        return self.true + self.error


# Stripe, and what reached it


def meter_events(path: str, body: bytes | str) -> list[dict[str, str]]:
    """The meter events that a request carries, if any."""
    if path.endswith("/v1/billing/meter_events"):
        form = dict(parse_qsl(body.decode() if isinstance(body, bytes) else body))
        event = {name: form[name] for name in ("event_name", "identifier", "timestamp")}
        payload = {"customer": form["payload[stripe_customer_id]"], "value": form["payload[value]"]}
        return [event | payload]
    if not path.endswith("/meter_event_stream"):
        return []
    return [
        {name: event[name] for name in ("event_name", "identifier", "timestamp")}
        | {"customer": event["payload"]["stripe_customer_id"], "value": event["payload"]["value"]}
        for event in json.loads(body)["events"]
    ]


@dataclass
class Call:
    """A meter event in a request that reached Stripe; `refused`: and was told not to be taken."""

    at: datetime
    event: dict[str, str]
    refused: bool = False


class Tap:
    """Notes every meter event before the emulator sees it."""

    def __init__(self, app: ASGIApp, clocks: Clocks, calls: list[Call]) -> None:
        self._app, self._clocks, self._calls = app, clocks, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, and hand it on."""
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        mine = [Call(self._clocks.true, event) for event in meter_events(scope["path"], body)]
        self._calls += mine
        messages: Iterator[Message] = iter([{"type": "http.request", "body": body}])

        async def again() -> Message:
            return next(messages, None) or await receive()

        async def answer(message: Message) -> None:
            for call in mine:
                call.refused |= 400 <= message.get("status", 200) < 500
            await send(message)

        await self._app(scope, again if scope["method"] == "POST" else receive, answer)


class Stripe:
    """The emulator over TCP, its clock, and all calls it got; used as the owner of an account."""

    def __init__(self, url: str, clocks: Clocks, calls: list[Call]) -> None:
        self.url, self.clocks, self.calls = url, clocks, calls
        self.key, self.account, self.field = KEY, ACCOUNT, FIELD
        self.meter_events = meter_events
        self.http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {OWNER_KEY}"},
            trust_env=False,
            timeout=30,
        )

    def reset(self) -> None:
        """Empty, but for the meters, and on time."""
        self.clocks.true, self.clocks.error = START, timedelta(0)
        self.calls.clear()
        self.control("reset", {})
        self.control("settings", {"search_lag_s": 0})
        meters = [{"event_name": name, "formula": kind} for name, kind in METERS.items()]
        self.control("seed", {"meters": meters})

    def control(self, path: str, body: Any) -> Any:
        """Ask a control endpoint."""
        return self.http.post(f"/_emulator/{path}", json=body).raise_for_status().json()

    def as_platform(self) -> httpx.Client:
        """Stripe as our platform's key sees it."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30)

    def connect(self, *, connected: bool) -> None:
        """Let our platform act for the account, or no more."""
        with self.as_platform() as http:
            if connected:
                http.post("/_emulator/seed", json={}, headers={"stripe-account": ACCOUNT})
            else:
                http.post("/_emulator/deauthorize", json={"account": ACCOUNT})

    def customer(self, value: str, customer_id: str | None = None) -> str:
        """Create a customer, or change its metadata; its id."""
        path = f"/v1/customers/{customer_id}" if customer_id else "/v1/customers"
        answer = self.http.post(path, data={f"metadata[{FIELD}]": value})
        return str(answer.raise_for_status().json()["id"])

    def journal(self, *, every: bool) -> list[dict[str, Any]]:
        """The journal: what counts now, or with `every` all that ever happened."""
        found: list[dict[str, Any]] = []
        after, more = 0, True
        while more:
            path = f"/_emulator/journal?after={after}{'&all=1' if every else ''}"
            answer = self.http.get(path).raise_for_status().json()
            found += answer["journal"]
            after, more = answer["next"], answer["has_more"]
        return found


@pytest.fixture(scope="session")
def stripe() -> Iterator[Stripe]:
    """One emulator for the whole session."""
    clocks, calls = Clocks(), list[Call]()
    app = create_emulator(clock=clocks.stripe)
    app.add_middleware(Tap, clocks=clocks, calls=calls)
    with running(app) as url:
        opened = Stripe(url, clocks, calls)
        yield opened
        opened.http.close()


# The judge


@dataclass(frozen=True)
class Evidence:
    """What the witnesses say. `payers` tells whose usage each Stripe customer pays for."""

    journal: Sequence[Mapping[str, Any]]
    calls: Sequence[Call]
    payers: Mapping[str, str]
    events: Mapping[tuple[str, str], Decimal]
    """What was recorded of each identity and event name, as its meter adds it up."""
    units: Sequence[tuple[UnitRow, str, str]]
    """Each unit, the value of its identity, and its event name."""
    told: Mapping[tuple[str, str], Decimal]
    """What open differences say that Stripe has too much, of a Stripe customer and event name."""

    def counting(self) -> dict[str, Mapping[str, Any]]:
        """Identifier -> the entry of the meter event that counts at Stripe now."""
        last: dict[str, Mapping[str, Any]] = {}
        for entry in self.journal:
            if entry["kind"] not in ("duplicate", "refused"):
                last[entry["identifier"]] = entry
        return {name: entry for name, entry in last.items() if entry["kind"] == "applied"}

    def in_inbox(self) -> list[tuple[UnitRow, str, str]]:
        """The units that wait for a person, and those that wait behind such a one in its lane."""
        parked = {unit.lane_id for unit, _, _ in self.units if unit.state == "parked"}
        return [
            (unit, value, event_name)
            for unit, value, event_name in self.units
            if unit.state in INBOX or (unit.state in PENDING and unit.lane_id in parked)
        ]


def weight(event_name: str, quantity: Decimal) -> Decimal:
    """What the meter makes of one event."""
    return Decimal(1) if METERS.get(event_name) == "count" else quantity


def doubled(found: Evidence) -> Iterator[str]:
    """No identifier is applied twice, ever."""
    applied = Counter(row["identifier"] for row in found.journal if row["kind"] == "applied")
    yield from (f"{name} was applied {times} times" for name, times in applied.items() if times > 1)


def altered(found: Evidence) -> Iterator[str]:
    """What Stripe was sent is a unit of the ledger, the same in every call."""
    known = {unit.identifier: (unit, event_name) for unit, _, event_name in found.units}
    for event in {tuple(sorted(call.event.items())): call.event for call in found.calls}.values():
        unit, event_name = known.get(event["identifier"], (None, ""))
        if unit is None:
            yield f"{event['identifier']} is no unit of the ledger"
        elif (event["event_name"], event["customer"], Decimal(event["value"])) != (
            event_name,
            unit.stripe_customer_id,
            unit.quantity,
        ) or int(event["timestamp"]) != int(unit.occurred_at.timestamp()):
            yield f"{event} is not what the ledger has: {unit}"


def blind(found: Evidence) -> Iterator[str]:
    """Nothing is sent later than 20 hours after Stripe may first have taken it, by its clock."""
    first: dict[str, datetime] = {}
    for call in found.calls:
        name = call.event["identifier"]
        if name in first and call.at > first[name] + BLIND:
            yield f"{name} was sent again after {call.at - first[name]}"
        if not call.refused:
            first.setdefault(name, call.at)


def drift(found: Evidence) -> Iterator[str]:
    """Of each identity and event name Stripe counts what the ledger has, but for the inbox."""
    counting = found.counting()
    applied: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for entry in counting.values():
        key = found.payers[entry["customer"]], entry["event_name"]
        applied[key] += weight(entry["event_name"], Decimal(entry["value"]))
    for (customer, event_name), excess in found.told.items():
        applied[found.payers[customer], event_name] -= excess
    missing: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for unit, value, event_name in found.in_inbox():
        if unit.kind != "correction" and unit.identifier not in counting:
            missing[value, event_name] += weight(event_name, unit.quantity)
    for key in applied.keys() | found.events.keys():
        recorded = found.events.get(key, Decimal(0))
        if applied[key] != recorded - missing[key]:
            yield (
                f"{key}: Stripe counts {applied[key]}, the ledger has {recorded}, "
                f"of which {missing[key]} are in the inbox"
            )


def hollow(found: Evidence) -> Iterator[str]:
    """What the ledger took for done is done: only what Stripe dropped needed a correction."""
    state = {unit.identifier: unit.state for unit, _, _ in found.units}
    corrections = {unit.identifier for unit, _, _ in found.units if unit.kind == "correction"}
    dropped = {row["identifier"] for row in found.journal if row["kind"] == "rejected"}
    done: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    there: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for unit, value, event_name in found.units:
        if unit.state in DONE and unit.identifier not in dropped | corrections:
            done[value, event_name] += weight(event_name, unit.quantity)
    for name, row in found.counting().items():
        if name not in corrections and state.get(name) not in INBOX:
            key = found.payers[row["customer"]], row["event_name"]
            there[key] += weight(row["event_name"], Decimal(row["value"]))
    for key in done.keys() | there.keys():
        if done[key] != there[key]:
            yield f"{key}: {done[key]} are done, of which Stripe counts {there[key]}"


def groundless(found: Evidence) -> Iterator[str]:
    """What is in the inbox has a reason there, and Stripe bears it out."""
    refused = {row["identifier"] for row in found.journal if row["kind"] in ("refused", "rejected")}
    counting = found.counting()
    for unit, _, _ in found.units:
        if unit.state in INBOX and not unit.reason:
            yield f"{unit.identifier} is {unit.state} without a reason"
        if unit.state == "quarantined" and unit.identifier not in refused:
            yield f"{unit.identifier} is quarantined, and Stripe never refused it: {unit.reason}"
        if unit.state == "parked" and unit.identifier in counting:
            yield f"{unit.identifier} is parked, and Stripe counts it"


def unfinished(found: Evidence) -> Iterator[str]:
    """In the end each unit is settled, replaced or in the inbox, or its slot is known to differ."""
    waiting = {unit.identifier for unit, _, _ in found.in_inbox()}
    for unit, _, event_name in found.units:
        done = unit.state in ("settled", "reissued", "written_off") or unit.identifier in waiting
        if not done and (unit.stripe_customer_id, event_name) not in found.told:
            yield f"{unit.identifier} is still {unit.state}: {unit.reason}"


class Judge:
    """Reads the ledger, hears Stripe, and tells every fault that there is."""

    def __init__(self, database: Database, payers: Mapping[str, str]) -> None:
        self._database, self._payers = database, payers

    def faults(
        self, journal: Sequence[Mapping[str, Any]], calls: Sequence[Call] | None = None
    ) -> list[str]:
        """What is wrong in the end, in sentences. Without `calls` those of the journal must do."""
        if calls is None:
            calls = [
                Call(datetime.fromisoformat(row["at"]), {name: str(row[name]) for name in TOLD})
                for row in journal
            ]
        rules = (doubled, altered, blind, drift, hollow, groundless, unfinished)
        return self._found(rules, journal, calls)

    def faults_of_now(self, journal: Sequence[Mapping[str, Any]]) -> list[str]:
        """What is wrong already, whatever may still come."""
        return self._found((doubled, groundless), journal, [])

    def _found(
        self,
        rules: Sequence[Callable[[Evidence], Iterator[str]]],
        journal: Sequence[Mapping[str, Any]],
        calls: Sequence[Call],
    ) -> list[str]:
        with localcontext(prec=100), self._database.reading() as tx:
            found = Evidence(
                journal, calls, self._payers, _events(tx), _units(tx), _differences(tx)
            )
            return [sentence for rule in rules for sentence in rule(found)]


def _events(tx: Tx) -> dict[tuple[str, str], Decimal]:
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for event in tx.session.exec(select(UsageEventRow).where(UsageEventRow.state == "counted")):
        name = event.event_name or ""
        sums[event.identity_value or "", name] += weight(name, event.quantity or Decimal(0))
    return sums


def _units(tx: Tx) -> list[tuple[UnitRow, str, str]]:
    rows = tx.session.exec(
        select(UnitRow, LaneRow.identity_value, LaneRow.event_name)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .order_by(col(UnitRow.id))
    )
    return [(unit, value, event_name) for unit, value, event_name in rows]


def _differences(tx: Tx) -> dict[tuple[str, str], Decimal]:
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in tx.session.exec(select(ReconciliationRow).where(ReconciliationRow.state == "open")):
        sums[row.stripe_customer_id, row.event_name] += row.observed - row.expected
    return sums


@pytest.fixture(scope="session")
def judge() -> Callable[[Database, Mapping[str, str]], Judge]:
    """A judge for a ledger, and for the customers whose usage is known."""
    return Judge
