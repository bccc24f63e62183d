"""The page about the proxy: its tables are what the code does, row by row."""

import ast
import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from usageflow import errors
from usageflow.config import Settings, variable
from usageflow.events import decode
from usageflow.middleware.feed import FixedFeed
from usageflow.middleware.meter import Meter
from usageflow.policies import PolicySet, parse_file
from usageflow.policies.hops import HOP_HEADERS
from usageflow.proxy import figures, transit
from usageflow.proxy.forwarded import forwarded_fields
from usageflow.proxy.gateway import Gateway
from usageflow.proxy.headers import FORWARDED, HOP_BY_HOP
from usageflow.proxy.heads import parse_request
from usageflow.proxy.refusals import Refusal
from usageflow.recorder import read_spool

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "proxy.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "proxy-operations.md").read_text(encoding="utf-8")
TABLES = {
    "failure_row": "what | the client gets | status | code | leaves an event if `when` is",
    "peer_row": "peer | X-Forwarded-For | X-Forwarded-Proto, X-Forwarded-Host | Forwarded",
}
"""Argument of a test -> the table it gets a row of."""
POLICY = """
[[policy]]
name = "{name}"
match = "{match}"
identify = [{{ from = "metadata", value = "acct_42" }}]
field = "account_id"
metric = "{name}"
when = "{name}"
"""
WHENS = ("success", "response", "request")
PATIENCE_S = 10.0
"""Longest wait for anything; reached only when something is broken."""


def rows_of(header: str, text: str = TEXT) -> list[list[str]]:
    """The cells of a table on the page."""
    _, found, rest = text.partition(f"| {header} |\n")
    assert found, header
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def spans(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return re.findall("`(.+?)`", cell)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of a table that a test asks for."""
    for argument, header in TABLES.items():
        if argument in metafunc.fixturenames:
            rows = rows_of(header)
            metafunc.parametrize(argument, rows, ids=[row[0] for row in rows])


# What matches


def policies_for(match: str) -> PolicySet:
    """One for each `when`, named after it."""
    text = "".join(POLICY.format(name=when, match=match) for when in WHENS)
    parsed = parse_file(text, "policies.toml")
    assert parsed.problems == ()
    return PolicySet.build(parsed.policies)


def metered(match: str, requests: list[str]) -> set[bool]:
    """Whether a policy with this template matches these requests."""
    policies = policies_for(match)
    split = (request.partition("?")[0].split(" ") for request in requests)
    return {policies.match(method, unquote(path)) is not None for method, path in split}


def test_only_the_decoded_path_as_it_came_matches() -> None:
    """Each request of the table, and the catch-all that the page advises takes them all."""
    example, advised = re.findall(r'`match = "(.+?)"`', TEXT)
    rows = rows_of("request | metered")
    assert [answer for _, answer in rows] == ["yes", "no"]
    for cell, answer in rows:
        assert metered(example, spans(cell)) == {answer == "yes"}
        assert metered(advised, spans(cell)) == {True}


# What is passed on


def test_each_field_that_is_not_sent_on_is_named() -> None:
    """Those about one connection, those about who called, and the hop header; and no others."""
    rows = rows_of("of the request | sent on")
    lists = [frozenset(name.lower().encode() for name in spans(cell)) for cell, _ in rows]
    assert HOP_BY_HOP in lists
    assert FORWARDED in lists
    assert HOP_HEADERS in lists


def test_a_peer_is_believed_as_the_table_says(peer_row: list[str]) -> None:
    """What is told of a request that came with each of these fields."""
    peer, called_from, scheme_and_host, forwarded = peer_row
    came = {
        b"x-forwarded-for": [b"203.0.113.9"],
        b"x-forwarded-proto": [b"https"],
        b"x-forwarded-host": [b"a.example"],
        b"forwarded": [b"for=203.0.113.9"],
    }
    told = dict(
        forwarded_fields(
            came, peer="10.0.0.7", scheme=b"http", host=b"b", trusted=peer == "a trusted one"
        )
    )
    believed = b"203.0.113.9, 10.0.0.7"
    assert told[b"X-Forwarded-For"] == (believed if "what came" in called_from else b"10.0.0.7")
    kept = scheme_and_host.startswith("what came")
    assert told[b"X-Forwarded-Proto"] == (b"https" if kept else b"http")
    assert told[b"X-Forwarded-Host"] == (b"a.example" if kept else b"b")
    assert (b"Forwarded" in told) == (forwarded != "none")


# What is refused


def refusals_in_source() -> Iterator[tuple[str, int]]:
    """Code and status of every Refusal(...) of the proxy, and of the errors that become one."""
    for module in (ROOT / "usageflow" / "proxy").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
                status, code = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                    yield str(code.value), int(str(status.value))
    for error in (errors.UpstreamError, errors.UpstreamUnreachable, errors.UpstreamTimeout):
        yield error.code, error.status


def test_every_refusal_is_listed() -> None:
    """With its status; the metrics tell the same ones apart."""
    rows = rows_of("code | status | when")
    listed = {spans(code)[0]: int(status) for code, status, _ in rows}
    assert len(listed) == len(rows)
    assert set(listed.items()) == set(refusals_in_source())
    assert listed.keys() == set(figures.REFUSALS) - {"other"}


HOST = b"Host: h\r\n"
REFUSED: dict[str, list[bytes]] = {
    "invalid_request_line": [b"GET /a", b"GET  /a HTTP/1.1", b"GET /a b HTTP/1.1"],
    "http_version": [b"GET /a HTTP/2.0", b"GET /a HTTP/1.2"],
    "invalid_target": [
        b"GET a HTTP/1.1",
        b"GET http://other/ HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET /\xe4 HTTP/1.1",
    ],
    "request_line_too_long": [b"GET /%b HTTP/1.1" % (b"a" * 8_192)],
    "bare_line_feed": [b"GET /a HTTP/1.1\nA: b"],
    "obsolete_folding": [b"GET /a HTTP/1.1\r\nA: b\r\n c"],
    "invalid_header": [
        b"GET /a HTTP/1.1\r\nA : b",
        b"GET /a HTTP/1.1\r\nA B: c",
        b"GET /a HTTP/1.1\r\nA: b\0",
        b"GET /a HTTP/1.1\r\nContent_Length: 1",
        b"GET /a HTTP/1.1\r\nTransfer_Encoding: chunked",
    ],
    "invalid_host": [b"GET /a HTTP/1.1\r\nHost: h", b"GET /a HTTP/1.1\r\nHost: /"],
    "invalid_framing": [
        b"POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"POST /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1",
        b"POST /a HTTP/1.1\r\nContent-Length: +1",
        b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked",
    ],
    "unknown_coding": [
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ],
    "too_many_headers": [b"GET /a HTTP/1.1" + b"\r\nA: b" * 128],
    "connect_not_supported": [b"CONNECT h:443 HTTP/1.1"],
}
"""Code -> beginnings of heads, of which the page says that they are refused so."""


@pytest.mark.parametrize("code", REFUSED)
def test_what_cannot_be_read_is_refused_so(code: str) -> None:
    """Each with one Host more, which is one too many where there was one."""
    settings = Settings()
    for head in REFUSED[code]:
        read = parse_request(
            head + b"\r\n" + HOST + b"\r\n",
            line_bytes_max=settings.request_line_bytes_max,
            fields_max=settings.request_headers_max,
        )
        assert isinstance(read, Refusal), head
        assert read.code == code, head


# What happens when something fails

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
SAYS: dict[str, list[bytes | None]] = {
    "it closes before its answer": [b""],
    "it closes within its answer's head": [HEAD[:20]],
    "it answers garbage": [b"SSH-2.0-OpenSSH\r\n"],
    "it does not answer": [b"", None],
    "it closes within its answer's body": [HEAD + b"ab"],
    "it sends a wrong chunk": [CHUNKED, b"xyz\r\n"],
    "it falls silent within its answer's body": [HEAD + b"ab", None],
    "it sends more than its answer": [HEAD + b"abcd" + HEAD],
    "the client leaves before the answer": [b"", None],
    "the client leaves within the answer": [HEAD + b"ab", None],
}
"""What fails -> what the upstream sends, part by part, before it closes; None: it just waits."""


class Conversation:
    """One request on its way: who has got something by now."""

    def __init__(self, what: str) -> None:
        self.parts = SAYS.get(what, [])
        self.leaves = what if "client leaves" in what else ""
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()

    async def upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play the parts to one request, each after the first once the client has got that."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked.set()
            for number, part in enumerate(self.parts):
                if part is None:
                    await reader.read()  # until the proxy gives up
                    continue
                if number:
                    await self.answered.wait()
                writer.write(part)
                await writer.drain()
        writer.close()

    async def client(self, port: int) -> bytes:
        """Ask, and give what comes until the connection ends; or leave."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/items/7 HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
        got = b""
        if self.leaves:
            await self.asked.wait()
            if "within" in self.leaves:
                await reader.readuntil(b"ab")
        else:
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    got += data
                    self.answered.set()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return got


@asynccontextmanager
async def proxy(upstream_port: int, folder: Path) -> AsyncIterator[int]:
    """A proxy in front of this port, with an access log in the folder; ends once it is idle."""
    settings = Settings(
        upstream=f"http://127.0.0.1:{upstream_port}",
        upstream_read_timeout_s=0.2,
        access_log=str(folder / "access.log"),
        spool_dir=str(folder / "spool"),
        discovery="off",
    )
    feed = FixedFeed(policies_for("GET /v1/items/:item"))
    gateway = Gateway(settings, meter=Meter(settings, feed=feed, app=False))
    await gateway.start()
    server = await asyncio.get_running_loop().create_server(gateway.connection, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    while gateway.figures.in_flight:  # noqa: ASYNC110 - a client that left is heard of in a moment
        await asyncio.sleep(0.01)
    server.close()
    await gateway.aclose()


async def fail(what: str, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Let a request fail so; what the client got, and the line of the log."""
    conversation = Conversation(what)
    upstream = await asyncio.start_server(conversation.upstream, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    if what not in SAYS:
        upstream.close()
    async with asyncio.timeout(PATIENCE_S), proxy(port, folder) as proxy_port:
        got = await conversation.client(proxy_port)
    upstream.close()
    (line,) = (folder / "access.log").read_text().splitlines()
    return got, json.loads(line)


def test_failures_are_answered_as_the_table_says(failure_row: list[str], tmp_path: Path) -> None:
    """Client and access log are told so; what is cut never looks whole, and counts."""
    what, client_gets, status, code, whens = failure_row
    got, line = asyncio.run(fail(what, tmp_path))
    head, _, body = got.partition(b"\r\n\r\n")
    if client_gets.isdigit():
        assert head.startswith(f"HTTP/1.1 {client_gets} ".encode())
        assert json.loads(body)["error"]["code"] == spans(code)[0]
    elif client_gets:
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b"abcd" if client_gets == "the answer" else body in (b"ab", b"1\r\na\r\n")
    assert line["status"] == (int(spans(status)[0]) if spans(status) else 200)
    assert line["code"] == next(iter(spans(code)), None)
    assert (line["aborted"] is None) == (client_gets.isdigit() or client_gets == "the answer")
    decoded = map(decode, read_spool(tmp_path / "spool"))
    events = {event.policy: event.reason for event in decoded}
    assert events.keys() == set(spans(whens))
    assert {reason is None for reason in events.values()} == {line["aborted"] is None}


def test_who_left_is_told_as_the_page_says() -> None:
    """The status and the code that stand for it."""
    assert f"`{transit.CLIENT_LEFT_STATUS}` | `{transit.CLIENT_LEFT}` |" in TEXT


# Limits


def test_the_defaults_are_the_code_s() -> None:
    """On both pages."""
    known = {f"`{variable(item.name)}`": item.default for item in fields(Settings)}
    rows = rows_of("setting | default | beyond it")
    rows += rows_of("setting | default | meaning", OPERATIONS)
    for setting, default, _ in rows:
        assert default == ("none" if known[setting] is None else f"`{known[setting]}`"), setting


def test_every_limit_towards_clients_is_listed() -> None:
    """The settings that limit a size or a time, as the statuses in their meaning say."""
    listed = {setting for setting, *_ in rows_of("setting | default | beyond it")}
    for item in fields(Settings):
        name, meaning = item.name, item.metadata["doc"]
        if name.startswith(("client_", "request_", "connections_")):
            assert f"`{variable(name)}`" in listed
            (said,) = (
                what
                for setting, _, what in rows_of("setting | default | beyond it")
                if setting == f"`{variable(name)}`"
            )
            for status in re.findall(r"\b[45]\d\d\b", meaning):
                assert status in said, name
