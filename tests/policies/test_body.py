"""Bodies: what is kept, and how they become documents."""

from decimal import Decimal

from usageflow.policies.body import Body


def test_a_body_keeps_what_fits() -> None:
    """Chunks make one body; one that came whole is not copied."""
    body, chunk = Body(10), b"0123456789"
    body.add(chunk)
    body.add(b"")
    assert body.data is chunk
    assert (body.bytes_total, body.problem) == (10, None)


def test_a_body_that_outgrows_its_limit_is_dropped_and_counted() -> None:
    """Beyond the limit nothing is kept, the bytes still count, and the reason names the setting."""
    body = Body(10)
    for chunk in (b"01234", b"01234", b"01234"):
        body.add(chunk)
    body.problem = None  # the edge takes back its own problem at the end of the request
    body.add(b"")
    assert body.data == b""
    assert body.bytes_total == 15
    assert str(body.problem) == "larger than body_bytes_max (10 bytes)"


def test_a_body_nobody_asked_for_is_only_counted() -> None:
    """Without a limit nothing is kept and nothing is wrong."""
    body = Body(None)
    body.add(b"01234")
    assert (body.bytes_total, body.data, body.problem) == (5, b"", None)


def test_a_body_is_parsed_once() -> None:
    """Several policies read the same parsed document."""
    body = Body(100)
    body.add(b'{"a": 0.1}')
    assert body.document([], "body") is body.document([], "body")
    assert body.document([], "body") == {"a": Decimal("0.1")}
