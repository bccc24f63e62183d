"""Inputs that take as much of a processor as they can, by the kind of reader they are for.

At the limits, where work is done, or beyond, where it is to be refused. Measures nothing; see
`bench.hostile`.
"""

import bisect
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, TypeAlias

import brotli  # type: ignore[import-untyped]
from backports import zstd
from jwt import PyJWS

from usageflow.policies.body import Body
from usageflow.policies.content_type import content_type, percent_decoded
from usageflow.policies.decoding import Decoder, open_decoder
from usageflow.policies.expressions import Expression
from usageflow.policies.interpreter import Budget
from usageflow.policies.json_text import SKIM_BYTES_MAX, decode_json, skim_json
from usageflow.policies.media import FIELDS_MAX, PERCENTS_MAX, read_document
from usageflow.policies.multipart import HEADERS_MAX, MARKS_MAX, PARTS_MAX
from usageflow.policies.quantity import compile_quantity
from usageflow.policies.query import QUERY_BYTES_MAX, query_pairs
from usageflow.policies.reason import Reason
from usageflow.policies.routes import parse_template
from usageflow.policies.sources import JwtSource
from usageflow.policies.streams import Stream, open_splitter
from usageflow.policies.surroundings import Surroundings
from usageflow.policies.tokens import TOKEN_CHARS_MAX, TokenVerifier

MIB = 1_048_576
CHUNK = 65_536
DECODED_BYTES_MAX, DECODE_CPU_S_MAX = 8 * MIB, 0.1
SECRET = "correct horse battery staple, and then some"

Work: TypeAlias = Callable[[], Iterator[object]]
"""Begins anew; the loop may do something else after each item."""

PIECES = {
    "floats": b"0.1",
    "powers": b"-1.5E-3",
    "exact floats": b"1.000000000000000000000000001",
    "integers": b"9" * 120,
    "lists": b"[]",
    "lists of lists": b"[[],[]]",
    "objects": b'{"a":1}',
    "empty objects": b"{}",
    "deep": b"[" * 500 + b"]" * 500,
    "texts": b'""',
    "escapes": b'"' + b"\\u00e4" * 100 + b'"',
}
"""What a list is filled with."""


def _listed(piece: bytes, count: int) -> bytes:
    return b"[%b]" % b",".join([piece] * count)


def _named(count: int) -> bytes:
    return b"{%b}" % b",".join(b'"%06d":1' % number for number in range(count))


def _repeated(count: int) -> bytes:
    return b"{%b}" % b",".join([b'"a":1'] * count)


SHAPES: dict[str, Callable[[int], bytes]] = {
    **{name: partial(_listed, piece) for name, piece in PIECES.items()},
    "names": _named,
    "duplicate keys": _repeated,
}
"""Documents of so many of the same."""


def _most(shape: Callable[[int], bytes], size: int) -> int:
    """How many there are in a document of this size."""
    return size * 100 // len(shape(100))


def _once(function: Callable[..., object], *arguments: Any) -> Work:
    return lambda: map(function, *([argument] for argument in arguments))


@cache
def _documents() -> dict[str, bytes]:
    """Of each shape a document of a megabyte, and the largest one that is read."""
    found = {}
    for name, shape in SHAPES.items():
        most = _most(shape, MIB)
        refused = partial(_is_refused, shape)
        largest = bisect.bisect_left(range(most), x=True, key=refused) - 1
        found[f"{name}, 1 MiB"] = shape(most)
        found[f"{name}, {largest:,}"] = shape(largest)
    return found


def _is_refused(shape: Callable[[int], bytes], count: int) -> bool:
    return isinstance(decode_json(shape(count), ""), Reason)


def json_bodies() -> dict[str, Work]:
    return {name: _once(decode_json, data, "") for name, data in _documents().items()}


def skims() -> dict[str, Work]:
    pieces = PIECES | {"umlauts": '"ä"'.encode()}
    found: dict[str, Work] = {}
    for name, piece in pieces.items():
        for size in (MIB, SKIM_BYTES_MAX - 100):
            rest = _listed(piece, size // (len(piece) + 1))
            data = b'{"x":%b,"n":{"n":7}}' % rest
            found[f"{name}, {size / MIB:.1f} MiB"] = _once(skim_json, data, ("n", "n"), "")
    levels = b'{"a":' * 20 + b'"%b"' % (b"x" * (SKIM_BYTES_MAX // 21)) + b"}" * 20
    return found | {"levels": _once(skim_json, levels, ("a",) * 20, "")}


EXPRESSIONS = {
    "doubled lists": "[@, @] | " * 40 + "@",
    "doubled and flat": "[@, @][] | " * 40 + "length(@)",
    "doubled objects": "{a: @, b: @} | " * 40 + "@",
    "doubled text": "to_string([@, @]) | " * 40 + "@",
    "joined": "join(to_string(@), map(&to_string(@), @))",
    "joined again": "join('', map(&to_string(@), @)) | length(@)",
    "printed": "length(to_string(to_string(to_string(@))))",
    "sorted": "sort(@) | sort(@) | length(@)",
    "sorted by": "sort_by(@, &to_string(@)) | length(@)",
    "compared": "length([?@ == `1.5`])",
    "compared to all": "length([?contains([@, @], @)])",
    "compared as a whole": "(@ == @ && @ == @) && (@ == @ && @ == @)",
    "divided": "[].div(@, `7`)",
    "summed": "sum(map(&to_number(to_string(@)), @))",
    "multiplied": "mul(" + ", ".join(["sum(@)"] * 40) + ")",
    "reversed": "length(" + "reverse(" * 30 + "@" + ")" * 30 + ")",
    "projected": "length([*][*][*][*][])",
}
READ = {
    "numbers": b"[%b]" % b",".join(b"%d.5" % number for number in range(4_000)),
    "long numbers": _listed(b"1." + b"7" * 900, 1_000),
    "texts": b"[%b]" % b",".join(b'"%06d"' % number for number in range(15_000)),
    "long texts": _listed(b'"%b"' % (b"x" * 10_000), 100),
    "one text": b'"%b"' % (b"x" * 1_000_000),
    "lists": _listed(_listed(_listed(b"1", 12), 12), 60),
}


def expressions() -> dict[str, Work]:
    documents = {name: decode_json(data, "") for name, data in READ.items()}
    assert not any(isinstance(document, Reason) for document in documents.values())
    return {
        f"{name}: {what}": _once(Expression(text).search, document)
        for name, text in EXPRESSIONS.items()
        for what, document in documents.items()
    }


def requests() -> dict[str, Work]:
    """Everything that is evaluated at the end of one: two bodies, and one budget for both."""
    return {
        f"{name}: {what}": _once(_request, Expression(EXPRESSIONS[name]), data)
        for name in ("compared", "printed")
        for what, data in _documents().items()
    }


def _request(expression: Expression, data: bytes) -> None:
    budget = Budget()
    for label in ("request body", "response body"):
        document = decode_json(data, label)
        if not isinstance(document, Reason):
            expression.search(document, budget)


def _form(part: bytes, count: int = 1) -> bytes:
    head = b'--XX\r\nContent-Disposition: form-data; name="a"'
    return (head + part + b"\r\n") * count + b"--XX--\r\n"


def multipart_bodies() -> dict[str, Work]:
    lines = b"".join(b"\r\n%d:" % number for number in range(HEADERS_MAX - 1))
    marks = b"".join(b";%d=b" % number for number in range(MARKS_MAX - 1))
    bodies = {
        "line ends": _form(b"\r\n\r\n" + b"\r\n" * (MIB // 2)),
        "almost boundaries": b"\r\n--X" * (MIB // 5),
        "boundaries": b"\r\n--XX" * (MIB // 6),
        "parts": _form(b"\r\n\r\n" + b"." * 900, PARTS_MAX),
        "long heads": _form(b"\r\na:" + b"b" * 900 + b"\r\n\r\n", PARTS_MAX),
        "header lines": _form(lines + b"\r\n\r\n", PARTS_MAX),
        "parameters": _form(marks + b"\r\n\r\n", PARTS_MAX),
        "quotes": _form(b'; x="' + b'\\"' * (MARKS_MAX - 2) + b'"\r\n\r\n', PARTS_MAX),
        "escapes": _form(b'; x="' + b"\\\\" * (MIB // 2) + b'"\r\n\r\n'),
        "one long head": _form(b"; name*=utf-8''" + b"%41" * (MIB // 3) + b"\r\n\r\n"),
        "percents": _form(b"; name*=utf-8''" + b"%41" * 300 + b"\r\n\r\n", PARTS_MAX),
    }
    return _typed(b"multipart/form-data; boundary=XX", bodies)


def form_bodies() -> dict[str, Work]:
    bodies = {
        "escapes": b"a=" + b"%41" * PERCENTS_MAX,
        "escapes and one that is none": b"a=" + b"%41" * (PERCENTS_MAX - 1) + b"%",
        "percents": b"%" * PERCENTS_MAX,
        "separators": b"&" * MIB,
        "equals": b"=" * MIB,
        "fields": b"&".join(b"%%41%d=%%42+%%43" % number for number in range(FIELDS_MAX)),
        "mended": b"&".join([b"%" * 20 + b"%41" * 175] * FIELDS_MAX),
    }
    return _typed(b"application/x-www-form-urlencoded", bodies)


def _typed(kind: bytes, bodies: Mapping[str, bytes]) -> dict[str, Work]:
    headers = [(b"content-type", kind)]
    return {name: _once(read_document, body, headers, "") for name, body in bodies.items()}


def queries() -> dict[str, Work]:
    pieces = (b"%61&", b"&", b"=&", b"a=%ff&", b"%", b"+", b"a", b"%41")
    found = {
        piece.decode(): _once(query_pairs, (piece * QUERY_BYTES_MAX)[:QUERY_BYTES_MAX])
        for piece in pieces
    }
    return found | {"1 MiB": _once(query_pairs, b"a&" * (MIB // 2))}


def content_types() -> dict[str, Work]:
    found = {
        name: _once(content_type, [(b"content-type", value)])
        for name, value in {
            "parameters": b"a/b" + b";a=b" * 63,
            "quotes": b'a/b; a="' + b'\\"' * 120 + b'"',
            "no end of quotes": b'a/b; a="' + b"\\\\" * 120,
            "spaces": b"a/b;" + b" " * 250,
            "1 MiB": b"a/b" + b";a=b" * (MIB // 4),
        }.items()
    }
    found["headers"] = _once(content_type, [(b"Content-Tape", b"a/b")] * 5_000)
    return found | {"percents": _once(percent_decoded, b"%41" * (MIB // 3) + b"%")}


SSE, NDJSON = b"text/event-stream", b"application/x-ndjson"
TOKENS = "response.body.usage.total_tokens"
EVALUATED = "sum([response.body.n, response.body.n])"
EVENTS = {
    "line ends": (TOKENS, SSE, b"\n"),
    "CR LF": (TOKENS, SSE, b"\r\n"),
    "empty lines": (TOKENS, SSE, b"data:\n"),
    "empty events": (TOKENS, SSE, b"data:\n\n"),
    "comments": (TOKENS, SSE, b":\n\n"),
    "events with the name": (TOKENS, SSE, b'data:"total_tokens"\n\n'),
    "lines with the name": (TOKENS, SSE, b'data:"total_tokens"\n'),
    "one line": (TOKENS, SSE, b'data:"total_tokens"'),
    "escapes": (TOKENS, SSE, b"\\u0041"),
    "numbers": (TOKENS, SSE, b'data:{"usage":{"total_tokens":1}}\n\n'),
    "evaluated": (EVALUATED, SSE, b'data:{"n":1}\n\n'),
    "lines of numbers": ("response.body.n", NDJSON, b'{"n":1}\n'),
    "short lines": ("response.body.n", NDJSON, b"1\n"),
    "lines evaluated": ("length(response.body)", NDJSON, b"[]\n"),
    "lists": ("length(response.body)", NDJSON, b"[%b[]]\n" % (b"[[[]]]," * 9_300)),
}


def _filled(piece: bytes, size: int) -> bytes:
    return (piece * (size // len(piece) + 1))[:size]


def _stream(quantity: str, kind: bytes) -> Stream:
    begin = compile_quantity(quantity, parse_template("/"), "sum").tally
    splitter = open_splitter(kind, MIB)
    facts: Any = None  # these quantities take nothing but the events
    assert begin is not None
    assert splitter is not None
    return Stream(splitter, [begin(facts, [""])])


def chunks(size: int) -> dict[str, Work]:
    def streamed(quantity: str, kind: bytes, piece: bytes) -> Work:
        return lambda: map(_stream(quantity, kind).feed, [_filled(piece, size)] * 4)

    return {name: streamed(*case) for name, case in EVENTS.items()}


def encoded_chunks() -> dict[str, Work]:
    """As large as a chunk may become, on the wire some kilobytes."""

    def streamed(quantity: str, kind: bytes, piece: bytes) -> Work:
        chunk = gzip.compress(_filled(piece, DECODED_BYTES_MAX))

        def work() -> Iterator[object]:
            body = Body(MIB)
            body.read_as(_decoder("gzip", total=False), _stream(quantity, kind))
            return map(body.add, [chunk])

        return work

    return {name: streamed(*case) for name, case in EVENTS.items()}


def _token(payload: bytes, header: dict[str, Any] | None = None) -> str:
    return PyJWS().encode(payload, SECRET, "HS256", header)


def token_payloads() -> dict[str, Work]:
    source = JwtSource.model_validate({"from": "jwt", "claim": "sub", "secret": "env:SECRET"})
    verifier = TokenVerifier(source, Surroundings({"SECRET": SECRET}))
    most = TOKEN_CHARS_MAX * 3 // 4 - 300
    tokens = {
        name: _token(b'{"a":%b}' % shape(_most(shape, most))) for name, shape in SHAPES.items()
    }
    tokens["brackets"] = _token(b"[" * most)
    tokens["header"] = _token(b"{}", {str(number): [[0.1]] for number in range(300)})
    assert all(len(token) <= TOKEN_CHARS_MAX for token in tokens.values())
    tokens["1 MiB"] = "a." * (MIB // 2)
    return {name: _once(verifier.identify, token, 0.0) for name, token in tokens.items()}


def _empty_blocks(count: int) -> bytes:
    """Raw deflate that makes nothing: blocks with code tables of their own and no content."""
    lengths = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    fields = [(0, 1), (2, 2), (0, 5), (0, 5), (14, 4)]
    fields += [(int(symbol in (18, 1)), 3) for symbol in lengths]
    fields += [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)]
    block = width = 0
    for value, bits in fields:
        block |= value << width
        width += bits
    eight = sum(block << (width * number) for number in range(8))
    return eight.to_bytes(width, "little") * (count // 8)


def bombs() -> dict[str, dict[str, Work]]:
    zeros, blocks = bytes(64 * MIB), _empty_blocks(1_000_000)
    encoded: dict[str, dict[str, tuple[bytes, str]]] = {
        "gzip": {
            "zeros": (gzip.compress(gzip.compress(zeros)), "gzip, gzip"),
            "empty members": (gzip.compress(b"") * 100_000, "gzip"),
        },
        "deflate": {
            "zeros": (zlib.compress(zeros), "deflate"),
            "empty blocks": (blocks, "deflate"),
        },
        "br": {
            "zeros": (brotli.compress(zeros, quality=5), "br"),
            "empty blocks": (brotli.compress(blocks, quality=5), "deflate, br"),
        },
        "zstd": {
            "zeros": (zstd.compress(zeros), "zstd"),
            "empty frames": (zstd.compress(b"") * 200_000, "zstd"),
        },
    }
    return {
        coding: {name: _decoded(*bomb) for name, bomb in cases.items()}
        for coding, cases in encoded.items()
    }


def _decoder(encoding: str, *, total: bool = True) -> Decoder:
    decoder = open_decoder(
        [(b"content-encoding", encoding.encode())],
        bytes_max=DECODED_BYTES_MAX,
        cpu_s_max=DECODE_CPU_S_MAX,
        total=total,
    )
    assert isinstance(decoder, Decoder)
    return decoder


def _decoded(data: bytes, encoding: str) -> Work:
    pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    return lambda: map(_decoder(encoding).feed, pieces)


KINDS: dict[str, Callable[[], dict[str, Work]]] = {
    "JSON bodies": json_bodies,
    "skims": skims,
    "expressions": expressions,
    "both bodies of a request": requests,
    "multipart bodies": multipart_bodies,
    "form bodies": form_bodies,
    "queries": queries,
    "content types": content_types,
    "stream chunks of 64 KiB": partial(chunks, CHUNK),
    "stream chunks of 1 MiB": partial(chunks, MIB),
    "stream chunks of 8 MiB, gzip": encoded_chunks,
    "token payloads": token_payloads,
}
