"""The page about bodies: every table is what the code does."""

import gzip
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from usageflow._types import Headers
from usageflow.config import Settings
from usageflow.middleware.include_usage import EVENT_BYTES_MAX, UsageFilter, with_usage
from usageflow.policies import content_codings, decoding, media, multipart
from usageflow.policies.decoding import Decoder, open_decoder
from usageflow.policies.media import read_document
from usageflow.policies.reason import Reason

PAGE = Path(__file__).parents[2] / "docs" / "bodies.md"
TEXT = PAGE.read_text(encoding="utf-8")
TABLES = {
    "encoding_row": "encoding | needs | may be followed by",
    "type_row": "content type | body | document",
    "reason_row": "reason | what to do",
    "request_row": "the client sends | the app gets",
    "event_row": "event | the client gets it",
}
"""Argument of a test -> the table it gets a row of."""
MULTIPART = "multipart/form-data; boundary=limit"
BAD_PART = b"--limit\r\n\r\n1\r\n--limit--"


def rows_of(header: str) -> list[list[str]]:
    """The cells of a table on the page."""
    _, found, rest = TEXT.partition(f"| {header} |\n")
    assert found, header
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def spans(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return re.findall("`(.+?)`", cell)


def block(language: str) -> str:
    """The one block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of a table that a test asks for."""
    for argument, header in TABLES.items():
        if argument in metafunc.fixturenames:
            rows = rows_of(header)
            metafunc.parametrize(argument, rows, ids=[row[0] for row in rows])


def opened(encoding: str, bytes_max: int = 1_000, cpu_s_max: float = 1, step_s: float = 0) -> Any:
    """A decoder for this encoding, whose clock goes on by a step at each look."""
    clock = iter(range(1_000_000))
    headers: Headers = [(b"content-encoding", encoding.encode())]
    return open_decoder(
        headers, bytes_max=bytes_max, cpu_s_max=cpu_s_max, cpu_s=lambda: next(clock) * step_s
    )


def test_each_encoding_is_known(encoding_row: list[str]) -> None:
    """Under all of its names; what needs a package is what the light install cannot decode."""
    names, needs, _ = encoding_row
    for name in spans(names):
        assert isinstance(opened(name), Decoder)
        assert (name in ("br", "zstd")) == ("pip install" in needs)


def test_each_type_is_read_so(type_row: list[str]) -> None:
    """The document is the body's, or the reason why there is none."""
    (kind,), (body,), (wanted,) = (spans(cell) or [cell] for cell in type_row)
    headers = [] if kind == "none" else [(b"content-type", kind.encode())]
    found = read_document(body.encode(), headers, "response body")
    if isinstance(found, Reason):
        assert found.text == wanted
    else:
        assert found == json.loads(wanted, parse_float=Decimal)


def test_the_multipart_example() -> None:
    """The body on the page is the document on the page."""
    body = block("text").replace("\n", "\r\n").encode()
    found = read_document(body, [(b"content-type", MULTIPART.encode())], "request body")
    assert found == json.loads(block("json"))


def problem_of(decoder: Decoder, body: bytes) -> str | None:
    """What is wrong with this body."""
    decoder.feed(body)
    decoder.end()
    return decoder.problem


def document_of(body: bytes, content_type: str) -> str:
    """What is wrong with this document."""
    found = read_document(body, [(b"content-type", content_type.encode())], "")
    assert isinstance(found, Reason)
    return found.text.strip()


def test_each_reason_exists(reason_row: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word as an event would say it."""
    gzipped = gzip.compress(b"abc")
    reasons = [
        opened("compress").text,
        opened("gzip, gzip, gzip, gzip").text,
        problem_of(opened("gzip"), b"plain"),
        problem_of(opened("gzip"), gzipped[:-1]),
        document_of(b"{}", "application/json; charset=klingon"),
        document_of(b"\xff", "text/plain; charset=utf-16"),
        document_of(b"", "text/event-stream"),
        document_of(BAD_PART, MULTIPART),
        document_of(b"&" * 1_000, "application/x-www-form-urlencoded"),
        problem_of(opened("gzip", 2), gzipped),
        problem_of(opened("gzip", 1_000, 0.01, 0.015), gzipped),
        problem_of(opened("gzip", 1_000, 1, 0.03), gzipped),
    ]
    monkeypatch.setattr(content_codings, "_loaded", lambda _: None)
    reasons.append(opened("br").text)
    (reason,) = spans(reason_row[0])
    assert reason.replace("(1000 bytes)", "(2 bytes)") in reasons


def test_each_request_is_changed_so(request_row: list[str]) -> None:
    """The text on the right, or nothing."""
    (sent,), (wanted,) = (spans(cell) or [cell] for cell in request_row)
    changed = with_usage(sent.encode())
    assert (changed.decode() if changed else "the same") == wanted


def test_each_event_passes_so(event_row: list[str]) -> None:
    """Just the one with the usage does not."""
    (data,) = spans(event_row[0])
    event = f"data: {data}\n\n".encode()
    assert UsageFilter().feed(event) == (event if event_row[1] == "yes" else b"")


def test_the_limits_are_those_of_the_code() -> None:
    """Each number on the page."""
    settings = Settings()
    for said in (
        f"`USAGEFLOW_DECODED_BYTES_MAX` ({settings.decoded_bytes_max >> 20} MiB)",
        f"`USAGEFLOW_DECODE_CPU_S_MAX` ({settings.decode_cpu_s_max} s",
        f"{decoding.FEED_CPU_S_MAX} s for a single chunk",
        f"{1 << (content_codings.ZSTD_WINDOW_LOG_MAX - 20)} MiB for zstd",
        f"more than {media.FIELDS_MAX:,} fields",
        f"{media.PERCENTS_MAX:,} percent signs",
        f"{multipart.HEADERS_MAX} header lines or {multipart.HEAD_BYTES_MAX:,} bytes",
        f"at most {EVENT_BYTES_MAX >> 10} KiB wait",
    ):
        assert said in " ".join(TEXT.split())
