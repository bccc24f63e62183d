"""Sheets become PDF: the same bytes each time, and nothing in them is markup."""

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pypdf
import pytest

from usageflow.billing.typesetting import Entry, Sheet, Total, Who, pdf


def sheet(**changes: Any) -> Sheet:
    """An invoice of one line."""
    made: dict[str, Any] = {
        "kind": "Invoice",
        "number": "INV-2025-0001",
        "made_at": datetime(2025, 4, 1, 0, 0, 0, 7, tzinfo=UTC),
        "issuer": Who(name="CloudAI", lines=("Friedrichstr. 1", "Berlin")),
        "payer": Who(name="Acme Corp", lines=()),
        "facts": (("Issued", "1 April 2025"),),
        "amount_title": "Amount (USD)",
        "lines": (Entry(description="API calls", amount="20.00"),),
        "totals": (Total("Total", "USD 20.00", strong=True),),
    }
    return Sheet(**made | changes)


def pages(document: bytes) -> list[str]:
    """The text of each page, as a reader copies it."""
    reader = pypdf.PdfReader(io.BytesIO(document))
    return [page.extract_text() for page in reader.pages]


def test_the_same_sheet_gives_the_same_bytes() -> None:
    """Also from several threads at once: a customer's copy can be compared with ours."""
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: pdf(sheet()), range(12)))
    assert len(copies) == 1
    assert pdf(sheet(number="INV-2025-0002")) not in copies


def test_the_file_is_of_the_day_of_the_document() -> None:
    """Title, author and day in the file's own data are the document's."""
    reader = pypdf.PdfReader(io.BytesIO(pdf(sheet())))
    assert reader.metadata is not None
    assert reader.metadata.title == "Invoice INV-2025-0001"
    assert reader.metadata.author == "CloudAI"
    assert reader.metadata.creation_date == datetime(2025, 4, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "name",
    [
        "#*_$<b>[x](y) `c` @ref \\u{41} // /* #let x = 1",
        "= Heading",
        '"quoted" \\" #panic("no")',
        "$ x^2 $ <label> ~ -- ---",
    ],
)
def test_markup_is_printed_as_it_is(name: str) -> None:
    """A customer's name cannot be a program."""
    (text,) = pages(pdf(sheet(lines=(Entry(description=name, details=(name,), amount="1"),))))
    assert text.count(name) == 2


@pytest.mark.parametrize(
    "name", ["日本語 株式会社", "🎉", "عربى", "a\x00b\x07\r\n\u2028c", "\u202egpj"]
)
def test_no_character_keeps_a_document_from_being_made(name: str) -> None:
    """What the fonts lack is a box, what cannot be seen a blank; the rest stands as it should."""
    (text,) = pages(
        pdf(sheet(payer=Who(name=name, lines=()), lines=(Entry(description=name, amount="20.00"),)))
    )
    assert "USD 20.00" in text
    assert not {"\u202e", "\x07", "\u2028"}.intersection(text)


def test_a_long_table_repeats_its_header_on_every_page() -> None:
    """And each page tells which of how many it is."""
    lines = tuple(Entry(description=f"Line {n}", amount="1.00") for n in range(60))
    found = pages(pdf(sheet(lines=lines)))
    assert len(found) > 1
    for number, text in enumerate(found, 1):
        assert f"Page {number} of {len(found)}" in text
        assert ("AMOUNT (USD)" in text) == ("Line " in text)
    whole = " ".join("\n".join(found).split())
    assert all(f"Line {n} 1.00" in whole for n in range(60))


def test_a_word_that_is_too_long_is_broken() -> None:
    """It stays on the page, in its column."""
    (text,) = pages(pdf(sheet(payer=Who(name="W" * 200, lines=()))))
    assert text.replace("\n", "").count("W" * 200) == 1
    assert "W" * 60 not in text


def test_a_word_that_may_break_leaves_no_trace_in_the_text() -> None:
    """Who searches the file for a sum or copies it gets just that."""
    payer = Who(name="Acme Corp", lines=("0.0.2.billing.department@acme.example",))
    (text,) = pages(pdf(sheet(payer=payer)))
    assert "USD 20.00" in text
    assert text.isascii()


def test_a_period_with_times_of_day_leaves_room_for_addresses() -> None:
    """It takes two lines; an ordinary e-mail address takes one."""
    period = ("Period", "22 November 2026 00:18:55 \u2013 22 December 2026 00:18:55")
    payer = Who(name="Acme Corp", lines=("billing@cloudai.example",))
    (text,) = pages(pdf(sheet(payer=payer, facts=(period,))))
    assert "billing@cloudai.example\n" in text
    assert "\n22 December 2026 00:18:55\n" in text
