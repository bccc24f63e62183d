"""From the body of a batch to its lines, within limits. Pure: bytes in, lines or a problem out.

It does not look into the lines; the ledger judges each one by itself.
"""

import zlib

from usageflow.api.problems import Problem

_GZIP_WBITS = 16 + zlib.MAX_WBITS
"""zlib's way to say: expect a gzip header and check its checksum."""


def decoded(body: bytes, encoding: str, *, bytes_max: int) -> bytes | Problem:
    """The body with its Content-Encoding undone; never more than `bytes_max` bytes are unpacked."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip":
            return _gunzipped(body, bytes_max)
    return Problem(
        415,
        "unsupported_encoding",
        f"Content-Encoding {encoding!r} is not supported; send gzip or none",
        {"accept-encoding": "gzip"},
    )


def lines_of(body: bytes, *, events_max: int) -> list[bytes] | Problem:
    """The non-empty lines in order; blank lines count towards the limit, as work does."""
    parts = body.split(b"\n", events_max)
    if len(parts) > events_max and parts[-1].strip():
        return Problem(
            413, "too_many_events", f"more than {events_max} lines; send several batches"
        )
    return [line for line in parts if line.strip()]


def too_large(bytes_max: int) -> Problem:
    """The body, or what it unpacks to, is beyond the limit."""
    return Problem(
        413,
        "body_too_large",
        f"the batch is larger than {bytes_max} bytes (counted after gzip is undone); "
        "send several batches",
    )


def _gunzipped(body: bytes, bytes_max: int) -> bytes | Problem:
    decoder = zlib.decompressobj(_GZIP_WBITS)
    try:
        plain = decoder.decompress(body, bytes_max + 1)
    except zlib.error as error:
        return Problem(400, "invalid_body", f"the body is not gzip: {error}")
    if len(plain) > bytes_max:
        return too_large(bytes_max)
    if not decoder.eof or decoder.unused_data:
        return Problem(400, "invalid_body", "the gzip body is not one complete member")
    return plain
