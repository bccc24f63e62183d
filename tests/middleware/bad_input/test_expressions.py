"""Hostile expressions: refused beyond the limits; else a number, or words that say why not."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from usageflow import UsageFlowMiddleware
from usageflow._types import Receive, Scope, Send

HOSTILE = {
    "nested-projections": "sum(B[*][*][*][*][*][])",
    "flattened": "length(B" + "[]" * 22 + ")",
    "values": "length(B" + ".*" * 22 + ")",
    "doubled": "length(" + "[B, B][] | " + "[@, @][] | " * 20 + "@)",
    "doubled-object": "length(" + "{a: B, b: B} | " + "{a: @, b: @} | " * 20 + "to_string(@))",
    "sorted": "sort_by(B, &to_string(@)) | length(@)",
    "compared": "length(B[?@ == B])",
    "compared-to-all": "length(B[?contains(B, @)])",
    "filtered": "length(B[?to_number(to_string(@)) > `0`])",
    "mapped": "sum(map(&to_number(to_string(@)), B))",
    "joined": "length(join('', map(&to_string(@), B)))",
    "reversed": "length(" + "reverse(" * 30 + "B" + ")" * 30 + ")",
    "multiplied": "mul(" + ", ".join(["sum(B)"] * 40) + ")",
    "powers": "mul(" + ", ".join(["length(B)"] * 40) + ")",
    "merged": "length(merge(" + ", ".join(["B"] * 40) + "))",
    "printed": "length(to_string(to_string(to_string(to_string(B)))))",
    "grown": "max_by(B, &length(to_string(@))) | length(to_string(@))",
}
BODIES = {
    "ones": json.dumps([1] * 20_000).encode(),
    "many-ones": json.dumps([1] * 340_000).encode(),
    "lists": b"[" + b"[]," * 300_000 + b"[]]",
    "deep-lists": json.dumps([[[[[1] * 4] * 6] * 6] * 6] * 6).encode(),
    "texts": json.dumps([f"{number:06}" for number in range(20_000)]).encode(),
    "long-text": json.dumps("x" * 1_000_000).encode(),
    "names": json.dumps({f"{number:06}": number for number in range(15_000)}).encode(),
    "one-name": b"{" + b'"a": 1, ' * 100_000 + b'"a": 1}',
    "decimals": b"[" + b"1.000000000000000000000000001," * 30_000 + b"1]",
    "powers": b"[" + b"1e400," * 100_000 + b"1]",
    "digits": b"[" + b"9" * 1_000_000 + b"]",
    "escapes": b'"' + b"\\u0041" * 170_000 + b'"',
    "brackets": b"[" * 1_000_000,
    "zeros": bytes(1_000_000),
}


def policy(name: str, quantity: str) -> str:
    """A policy with this quantity."""
    return f"""
[[policy]]
name = "{name}"
match = "POST /{name}"
identify = [ {{ from = "header", name = "x-account" }} ]
field = "account_id"
metric = "M_{name}"
quantity = {json.dumps(quantity)}
"""


@pytest.mark.parametrize("levels", ["response.body.n" + "[0]" * 3_000, "!" * 3_000 + "@"])
def test_an_expression_of_3000_levels_is_refused(
    kit: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, levels: str
) -> None:
    """When the policies are read, in words and with its place; the other policy is in force."""
    path = tmp_path / "p.toml"
    path.write_text(kit.calls + policy("deep", levels))
    recorder, client = kit.ManualRecorder(), kit.Client()
    app = UsageFlowMiddleware(
        kit.answering(kit.start(), kit.body(b"ok")),
        policies=path,
        spool_dir=tmp_path,
        recorder=recorder,
    )
    problem = f'p.toml:15: policy "deep" (#2): quantity: {len(levels)} characters; at most 1024'
    assert problem in caplog.text
    asyncio.run(app(kit.scope(), client.receive, client.send))
    assert [event.state for event in recorder.events] == ["counted"]


class Echo:
    """Answers with what it is sent."""

    def __init__(self, kind: bytes) -> None:
        self._headers = [(b"content-type", kind)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        content = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body"})


@pytest.mark.parametrize("kind", [b"application/json", b"text/event-stream"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_expressions_meet_hostile_bodies(kit: Any, name: str, kind: bytes) -> None:
    """Both directions in one request: the bytes pass, the events say a number or why not."""
    toml = "".join(
        policy(section, HOSTILE[name].replace("B", f"{section}.body")).replace(
            f"POST /{section}", "POST /x"
        )
        for section in ("request", "response")
    )
    recorder = kit.ManualRecorder()
    app = kit.wrap(Echo(kind), recorder, toml)
    for what, text in BODIES.items():
        content = text if kind == b"application/json" else b"data: " + text + b"\n\n"
        client = kit.Client([{"type": "http.request", "body": content}])
        headers = [(b"x-account", b"acct_1"), (b"content-type", kind)]
        asyncio.run(app(kit.scope("POST", "/x", headers), client.receive, client.send))
        assert client.body == content, what
        events = recorder.events[-2:]
        assert [event.policy for event in events] == ["request", "response"]
        for event in events:
            assert (event.state == "counted") == (event.reason is None)
            assert "internal error" not in (event.reason or "")
    assert len(recorder.events) == 2 * len(BODIES)
