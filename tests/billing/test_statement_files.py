"""A usage statement as CSV and NDJSON: all its digits, and nothing a spreadsheet would run."""

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow.billing import statement_files
from usageflow.billing.statement_files import COLUMNS, Format, written
from usageflow.billing.statements import Detail, Row

HOUR = datetime(2025, 3, 1, tzinfo=UTC)


def row(**changes: Any) -> Row:
    """An hour."""
    values: dict[str, Any] = {"row": "hour", "metric": "API_CALL", "unit": "calls"}
    values |= {"aggregation": "SUM", "start": HOUR, "end": HOUR.replace(hour=1)}
    return Row(**values | {"quantity": Decimal("12000.50"), "events": 3} | changes)


def text(rows: list[Row], form: Format = "csv", detail: Detail = "hours") -> str:
    """The whole file."""
    return b"".join(written(rows, form, detail)).decode()


def test_a_csv_has_a_header_and_a_line_for_each_row() -> None:
    """With the line ends of RFC 4180; what a row does not have is empty."""
    total = row(row="total", invoiced=Decimal("1E+2"))
    assert text([row(), total]) == (
        "row,metric,unit,aggregation,start,end,quantity,events,invoiced\r\n"
        "hour,API_CALL,calls,SUM,2025-03-01T00:00:00Z,2025-03-01T01:00:00Z,12000.5,3,\r\n"
        "total,API_CALL,calls,SUM,2025-03-01T00:00:00Z,2025-03-01T01:00:00Z,12000.5,3,100\r\n"
    )


def test_an_event_has_its_request() -> None:
    """Columns of events stand beside those of every row."""
    event = row(row="event", start=None, end=None, events=None, occurred_at=HOUR, event_id="e1")
    event = Row(
        **{name: getattr(event, name) for name in event.__struct_fields__} | {"status": 200}
    )
    (line,) = csv.DictReader(io.StringIO(text([event], detail="events")))
    assert tuple(line) == COLUMNS["events"]
    assert (line["event_id"], line["occurred_at"]) == ("e1", "2025-03-01T00:00:00Z")
    assert (line["status"], line["route"], line["start"]) == ("200", "", "")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(name: str) -> None:
    """A key or route that begins like one is text in a spreadsheet."""
    (line,) = csv.DictReader(io.StringIO(text([row(route=name)], detail="events"), newline=""))
    assert line["route"] == f"'{name}"


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.decimals(0, 10**20, places=12))
def test_every_cell_reads_back_as_it_was(name: str, quantity: Decimal) -> None:
    """Whatever a metric is called, and however many digits a quantity has."""
    rows = [row(metric=name, quantity=quantity)]
    (line,) = csv.DictReader(io.StringIO(text(rows), newline=""))
    assert line["metric"].removeprefix("'") == name.removeprefix("'")
    assert Decimal(line["quantity"]) == quantity
    (told,) = text(rows, "ndjson").splitlines() if name.isprintable() else [text(rows, "ndjson")]
    read = json.loads(told, parse_float=Decimal, parse_int=Decimal)
    assert (read["metric"], read["quantity"]) == (name, quantity)


def test_ndjson_leaves_out_what_a_row_does_not_have() -> None:
    """A number is a number, with every digit."""
    assert text([row(quantity=Decimal("12000.000001"))], "ndjson") == (
        '{"row":"hour","metric":"API_CALL","unit":"calls","aggregation":"SUM",'
        '"start":"2025-03-01T00:00:00Z","end":"2025-03-01T01:00:00Z",'
        '"quantity":12000.000001,"events":3}\n'
    )


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_a_long_statement_comes_in_pieces(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some lines each, which together are the whole."""
    monkeypatch.setattr(statement_files, "LINES_AT_ONCE", 4)
    rows = [row(events=number) for number in range(10)]
    pieces = list(written(rows, form, "hours"))
    header = 1 if form == "csv" else 0
    assert len(pieces) == 3 + header
    assert b"".join(pieces).count(b"\n") == 10 + header
    assert list(written([], form, "hours"))[header:] == []
