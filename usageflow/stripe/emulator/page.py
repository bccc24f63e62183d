"""The emulator's one page: plain HTML that reads on a desk and on a phone, renewed every 2 s.

It shows what the control endpoints tell, and no key. Text from outside is escaped here.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any, Final

import msgspec

from usageflow.stripe.emulator.faults import Fault
from usageflow.stripe.emulator.journal import Entry
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

LAST_ROWS: Final = 12
"""Of what only grows the last rows are shown; the whole of it is a link away."""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stripe emulator</title><style>
:root {{ color-scheme: light dark }}
body {{
  font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1.5rem 1rem;
}}
h1 {{ font-size: 1.5rem; margin: 0 }}
h2 {{ font-size: 1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere }}
h3 {{ font-size: .875rem; margin: 1.25rem 0 0; opacity: .7; font-weight: normal }}
table {{ width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent) }}
td:first-child, small {{ overflow-wrap: anywhere }}
.number {{ text-align: right; padding: .35rem 0 .35rem .75rem }}
th, small, p {{ opacity: .7; font-weight: normal }}
small {{ display: block; font-size: .75rem }}
</style></head>
<body><h1>Stripe emulator</h1>
<p>{now} · <a href="/_emulator/state">state</a> · <a href="/_emulator/journal?all=1">journal</a> ·
<a href="/_emulator/deliveries">deliveries</a></p>
{sections}</body></html>
"""

Row = tuple[str, ...]


def rendered(world: World) -> str:
    """The page. `world.sections` adds what other modules have to show, as HTML."""
    accounts = "".join(map(_account, world.accounts.values())) or "<p>No calls yet.</p>"
    more = "".join(section() for section in world.sections)
    sections = accounts + _faults(world) + _limits(world) + more + _journal(world)
    return _PAGE.format(now=f"{world.now():%Y-%m-%d %H:%M:%S} UTC", sections=sections)


def table(title: str, head: Row, rows: Iterable[Row], *, numbers: int = 0) -> str:
    """A titled table of text, its last `numbers` columns numbers; nothing if there are no rows."""
    lines = [_line("td", row, numbers) for row in rows]
    if not lines:
        return ""
    return f"<h3>{escape(title)}</h3><table>{_line('th', head, numbers)}{''.join(lines)}</table>"


def _line(cell: str, row: Row, numbers: int) -> str:
    """One line; what follows a line break in a cell is shown small."""
    shown = []
    for place, text in enumerate(row):
        kind = ' class="number"' if place >= len(row) - numbers else ""
        first, _, rest = text.partition("\n")
        small = f"<small>{escape(rest)}</small>" if rest else ""
        shown.append(f"<{cell}{kind}>{escape(first)}{small}</{cell}>")
    return f"<tr>{''.join(shown)}</tr>"


def deliveries(log: Sequence[Mapping[str, Any]]) -> str:
    """The last attempts to deliver a webhook, as a section of the page."""
    rows = [
        (f"{one['type']}\n{one['event']}", one["endpoint"], str(one["status"] or one["error"]))
        for one in islice(reversed(log), LAST_ROWS)
    ]
    return table("Webhooks, newest first", ("event", "endpoint", "outcome"), rows, numbers=1)


def _account(account: Account) -> str:
    mode = "live" if account.livemode else "test"
    return (
        f"<h2>{escape(account.object_id)}, {mode} mode</h2>"
        + table("Usage", ("customer", "event name", "value", "events"), _usage(account), numbers=2)
        + table("Meters", ("event name", "formula", "status"), _meters(account))
        + table("Calls", ("call", "outcome", "calls"), _calls(account), numbers=1)
        + table("Beyond a rate limit", ("limit", "calls"), _counts(account.limited), numbers=1)
        + table("Rejected later", ("code", "events"), _counts(account.rejected_later), numbers=1)
    )


def _usage(account: Account) -> list[Row]:
    """What counts, by customer and event name; a customer is shown by its metadata."""
    rows = []
    for customer, event_name, value, events in account.totals():
        metadata = account.customers[customer].metadata
        named = ", ".join(f"{key} {text}" for key, text in metadata.items()) or "no metadata"
        rows.append((f"{named}\n{customer}", event_name, f"{value:f}", str(events)))
    return sorted(rows)


def _meters(account: Account) -> list[Row]:
    return [
        (
            f"{meter.event_name}\n{meter.object_id}",
            meter.formula
            + (f" of the newest per {meter.time_window}" if meter.time_window else ""),
            "active" if meter.active else "inactive",
        )
        for meter in account.meters.values()
    ]


def _calls(account: Account) -> list[Row]:
    return [(route, end, str(number)) for (route, end), number in sorted(account.calls.items())]


def _counts(counter: dict[str, int]) -> list[Row]:
    return [(name, str(number)) for name, number in sorted(counter.items())]


def _faults(world: World) -> str:
    rows = [(fault.route, _strike(fault)) for fault in world.faults.shown()]
    return table("Faults to come", ("route", "fault"), rows)


def _strike(fault: Fault) -> str:
    kind = {
        "status": f"status {fault.status}",
        "slow": f"{fault.seconds:g} s slow",
        "reset": "reset",
    }[fault.kind]
    moment = "after" if fault.after_commit else "before"
    often = "always" if fault.count is None else f"{fault.count} more"
    return f"{kind}, {moment} it takes effect, {often}, {fault.rate:.0%} of the calls"


def _limits(world: World) -> str:
    if not world.limits.enforce:
        return ""
    rates = msgspec.structs.asdict(world.limits).items()
    rows = [(name, f"{rate:g}") for name, rate in rates if name != "enforce"]
    return table("Rate limits", ("limit", "per second"), rows, numbers=1)


def _journal(world: World) -> str:
    last = islice(reversed(world.journal), LAST_ROWS)
    head = ("what", "event", "customer", "value")
    return table("Journal, newest first", head, map(_entry, last), numbers=1)


def _entry(entry: Entry) -> Row:
    what = entry.kind if entry.code is None else f"{entry.kind}\n{entry.code}"
    event = entry.event
    return what, f"{event.event_name}\n{event.identifier}", f"\n{event.customer}", event.value
