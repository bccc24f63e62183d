"""A usage statement written down, line by line: CSV for spreadsheets, NDJSON for programs. Pure.

Quantities have all their digits. A text cell that a spreadsheet would take for a formula begins
with an apostrophe in CSV (owasp.org/www-community/attacks/CSV_Injection).
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import msgspec

from usageflow.billing.statements import Detail, Row
from usageflow.money import plain

Format: TypeAlias = Literal["csv", "ndjson"]

MEDIA_TYPES: Final[Mapping[Format, str]] = MappingProxyType(
    {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}
)
LINES_AT_ONCE: Final = 500
"""Lines in one piece of the answer: fewer are mostly overhead, more wait in memory."""

_ALWAYS: Final = ("row", "metric", "unit", "aggregation", "start", "end", "quantity", "events")
COLUMNS: Final[Mapping[Detail, tuple[str, ...]]] = MappingProxyType(
    {
        "hours": (*_ALWAYS, "invoiced"),
        "events": (
            *(*_ALWAYS, "invoiced", "occurred_at", "event_id", "idempotency_key", "value"),
            *("method", "route", "status"),
        ),
    }
)
"""Of the CSV; every line has all of them, in this order."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

_json: Final = msgspec.json.Encoder(decimal_format="number")


def written(rows: Iterable[Row], format: Format, detail: Detail) -> Iterator[bytes]:  # noqa: A002 - its name in the address
    """The file, piece by piece."""
    return _csv(rows, COLUMNS[detail]) if format == "csv" else _pieces(rows, _ndjson)


def _csv(rows: Iterable[Row], columns: tuple[str, ...]) -> Iterator[bytes]:
    yield _csv_lines([columns])
    yield from _pieces(
        rows,
        lambda some: _csv_lines([_cell(getattr(row, name)) for name in columns] for row in some),
    )


def _csv_lines(lines: Iterable[Iterable[str]]) -> bytes:
    """With the line ends of RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _ndjson(rows: list[Row]) -> bytes:
    return b"".join(_json.encode(row) + b"\n" for row in rows)


def _pieces(rows: Iterable[Row], encode: Callable[[list[Row]], bytes]) -> Iterator[bytes]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == LINES_AT_ONCE:
            yield encode(held)
            held = []
    if held:
        yield encode(held)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case Decimal():
            return plain(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case str():
            return f"'{value}" if value.startswith(_FORMULA) else value
        case _:
            return str(value)
