"""Weaknesses 16 to 22 of the vendor's middleware: whom it believes, and what it tells whom."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

KEY = "the issuer's key, which is 32 bytes long"
FORGED = "another key, which is 32 bytes long, too"
SECRET = "S3CRET"
"""The mark of what must not leave."""
THREE_LINES = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from usageflow import UsageFlowMiddleware

app = Starlette(routes=[Route("/ping", lambda request: PlainTextResponse("pong"))])
app.add_middleware(UsageFlowMiddleware)
"""


def api() -> Starlette:
    """Answers every GET and POST with nothing in particular."""

    async def answer(_: Request) -> Response:
        return PlainTextResponse("fine")

    return Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST"])])


def bearer(key: str, algorithm: str = "HS256", **claims: Any) -> dict[str, str]:
    """A token of this caller."""
    token = jwt.encode({"sub": "victim"} | claims, key, algorithm=algorithm)
    return {"authorization": f"Bearer {token}"}


def test_16_a_forged_token_bills_nobody(
    edge: Callable[..., Any], kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weakness: tokens are decoded and not verified, so anyone can use on the victim's bill. Ours
    verifies signature and expiry; what is not proved is nobody's, and waits in the inbox.
    """
    monkeypatch.setenv("ISSUER_KEY", KEY)
    source = '[ { from = "jwt", claim = "sub", secret = "env:ISSUER_KEY" } ]'
    metered = edge(api(), kit.policy("GET /call", identify=source))
    unsigned = jwt.encode({"sub": "victim"}, None, algorithm="none")  # type: ignore[arg-type]
    presented = [
        bearer(FORGED, exp=1),
        bearer(FORGED),
        bearer(KEY, exp=1),
        bearer(KEY + KEY, "HS512"),
        {"authorization": f"Bearer {unsigned}"},
        bearer(KEY, exp=int(time.time()) + 600),
    ]
    with metered.client() as client:
        assert [client.get("/call", headers=h).status_code for h in presented] == [200] * 6
    *forged, (identity, _, state) = metered.measured()
    assert forged == [(None, 1, "inbox")] * 5
    assert (identity, state) == ("victim", "counted")


def test_17_no_secret_leaves_the_process(
    edge: Callable[..., Any], peer: Any, tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weakness: every request is sent to the vendor whole, passwords, cookies and bearer tokens
    included. Ours sends and stores what its policies extracted, and names and types of the rest.
    """
    monkeypatch.setenv("KEY_HASH_SECRET", "something long enough to be a secret")
    by_key = '[ { from = "api_key", header = "x-api-key", secret = "env:KEY_HASH_SECRET" } ]'
    by_body = '[ { from = "body", path = "account" } ]'
    peer.publish(
        kit.policy("POST /orders", identify=by_key)
        + kit.policy("POST /orders", identify=by_body, metric="N", quantity="response.body.n")
        + kit.policy("POST /failing", metric="F", quantity="response.body.n")
    )
    peer.held.add(kit.events_path)  # so that the spool can be looked at

    async def answer(request: Request) -> Response:
        assert SECRET in str(await request.json())
        answer = JSONResponse({"n": 3, "token": f"{SECRET}-in-answer"})
        answer.set_cookie("session", f"{SECRET}-set")
        return answer

    async def failing(_: Request) -> Response:
        return PlainTextResponse(f"{SECRET} is not JSON")

    metered = edge(
        Starlette(
            routes=[
                Route("/orders", answer, methods=["POST"]),
                Route("/failing", failing, methods=["POST"]),
                Route("/reset/{code}", answer, methods=["POST"]),
            ]
        ),
        **peer.settings,
    )
    headers = {
        "authorization": f"Bearer {SECRET}-token",
        "cookie": f"sid={SECRET}-cookie",
        "x-api-key": f"{SECRET}-key",
    }
    body = {"account": "acct_1", "password": f"{SECRET}-hunter2"}
    with metered.client(headers=headers) as client:
        for path in ("/orders", "/failing", f"/reset/{SECRET}-path"):
            assert client.post(f"{path}?token={SECRET}-query", json=body).status_code == 200
    assert len(metered.events) == 3
    stored = [each.read_bytes() for each in Path(metered.settings.spool_dir).iterdir()]
    stored += metered.lines
    assert any(b"acct_1" in content for content in stored)
    peer.held.clear()
    peer.await_ledger(3)
    metered.stop()  # tells what was discovered
    sent = [b"".join([h.text, *(b"%b: %b" % pair for pair in h.headers)]) for h in peer.heard]
    assert any(b"/reset/{code}" in content for content in sent)
    kept = [each.read_bytes() for each in tmp_path.glob("peer.db*")]
    for content in (*stored, *sent, *kept):
        assert SECRET.encode() not in content


def test_18_without_a_name_nothing_is_free(edge: Callable[..., Any], peer: Any, kit: Any) -> None:
    """Weakness: who leaves the header out is neither limited nor told apart. Ours has no request
    that leaves no row: without an identity it is in the inbox of the ledger, with its quantity.
    """
    peer.publish(kit.policy("GET /call", quantity=5))
    metered = edge(api(), **peer.settings)
    headers: list[dict[str, str]] = [{}, {"x-account": ""}, {"x-acount": "a"}, {"x-account": "a"}]
    with metered.client() as client:
        for each in headers:
            assert client.get("/call", headers=each).status_code == 200
    rows = peer.await_ledger(4)
    assert [(row.identity_value, row.quantity, row.state) for row in rows] == [
        (None, 5, "inbox"),
        (None, 5, "inbox"),
        (None, 5, "inbox"),
        ("a", 5, "counted"),
    ]
    assert [row.reason for row in rows[:2]] == [
        "no identity: header x-account is absent",
        "no identity: header x-account is empty",
    ]


def test_19_path_parameters_and_plain_cookies_identify(
    edge: Callable[..., Any], kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weakness: it looks for path parameters before the framework has found them, and never finds a
    cookie by its plain name. Ours reads the path by the policy's own template.
    """
    monkeypatch.setenv("ISSUER_KEY", KEY)
    app = FastAPI()

    @app.get("/users/{uid}/posts/{post}")
    async def posts(uid: str, post: int) -> dict[str, object]:
        return {"uid": uid, "post": post}

    def by(metric: str, source: str) -> Any:
        return kit.policy("GET /users/:user/posts/*", metric=metric, identify=f"[ {source} ]")

    metered = edge(
        app,
        by("PATH", '{ from = "path", name = "user" }')
        + by("COOKIE", '{ from = "cookie", name = "tenant" }')
        + by("JWT", '{ from = "jwt", cookie = "login", claim = "org", secret = "env:ISSUER_KEY" }'),
    )
    token = jwt.encode({"org": "o9"}, KEY)
    with metered.client(headers={"cookie": f"login={token}; tenant=t1"}) as client:
        answer = client.get("/users/u%C3%A97/posts/3")
    assert answer.json() == {"uid": "ué7", "post": 3}
    assert {(event.metric, event.identity.value, event.state) for event in metered.events} == {
        ("PATH", "ué7", "counted"),
        ("COOKIE", "t1", "counted"),
        ("JWT", "o9", "counted"),
    }


SENT = ["bob", "Bob", "bob ", " bob", "bob,", "GET /call bob", "account:bob", "b\u00f3b", "x" * 500]
REFUSED = ["", "bob\n", "bob\r", "\x00bob", "x" * 501, "x" * 100_000]


def test_20_nobody_can_take_anothers_name(edge: Callable[..., Any], peer: Any, kit: Any) -> None:
    """Weakness: names are joined by blanks, so that one can be written as another, and are of any
    length. Ours compares exactly, joins nothing, and takes no name that is not a text of 1 to 500
    characters; only where a policy says so, case and blanks at the ends do not count.
    """
    exact = '[ { from = "query", name = "who" } ]'
    loose = '[ { from = "query", name = "who", normalize = ["trim", "lower"] } ]'
    peer.publish(
        kit.policy("GET /call", identify=exact)
        + kit.policy("GET /loose", identify=loose, metric="LOOSE")
    )
    metered = edge(api(), **peer.settings)
    url = metered.url
    for who in (*SENT, *REFUSED[:-1], *SENT):
        httpx.get(f"{url}/call", params={"who": who}, trust_env=False).raise_for_status()
    for who in SENT[:4]:
        httpx.get(f"{url}/loose", params={"who": who}, trust_env=False).raise_for_status()
    rows = peer.await_ledger(2 * len(SENT) + len(REFUSED) - 1 + 4)
    calls = [row for row in rows if row.metric == "API_CALL"]
    counted = [row for row in calls if row.state == "counted"]
    assert [row.identity_value for row in counted] == SENT + SENT
    assert Counter(Counter(row.customer_id for row in counted).values()) == {2: len(SENT)}
    refused = {(row.identity_value, row.state) for row in calls if row not in counted}
    assert refused == {(None, "inbox")}
    assert {row.identity_value for row in rows if row.metric == "LOOSE"} == {"bob"}
    assert len({row.customer_id for row in rows if row.metric == "LOOSE"}) == 1


@pytest.mark.parametrize("lifespan", [True, False])
def test_21_the_first_request_is_metered(
    *, lifespan: bool, edge: Callable[..., Any], peer: Any, kit: Any
) -> None:
    """Weakness: until its first polls are done nothing is metered, at every start. Ours takes no
    request before it has the first policies of its life, with a lifespan or without; a later start
    meters from the first request even while the server is down.
    """
    peer.publish(kit.policy("GET /call"))
    peer.held.add(kit.policies_path)

    def release() -> None:
        kit.wait_for(lambda: peer.waiting[kit.policies_path], "the policies are asked for")
        answered_early.append(served.is_set())
        peer.held.clear()

    answered_early: list[bool] = []
    served = threading.Event()
    releasing = threading.Thread(target=release)
    releasing.start()
    first = edge(api(), lifespan=lifespan, **peer.settings)
    with first.client(headers={"x-account": "a"}) as client:
        assert client.get("/call").status_code == 200
        served.set()
    releasing.join()
    assert answered_early == [False]
    assert [row.state for row in peer.await_ledger(1)] == ["counted"]
    first.stop()
    peer.stop()
    spool_dir = first.settings.spool_dir
    second = edge(api(), lifespan=lifespan, spool_dir=spool_dir, **peer.settings)
    with second.client(headers={"x-account": "b"}) as client:
        assert client.get("/call").status_code == 200
    assert [(who, state) for who, _, state in second.measured()] == [("b", "counted")]


def test_22_configured_from_outside_silent_and_deaf_to_probes(
    peer: Any, program: Callable[..., Any], tmp_path: Path, kit: Any
) -> None:
    """Weakness: the key stands in the code, the server's address in the package; it prints to
    stdout; probes of scanners are metered as "GET None". Ours is configured by the environment,
    writes nothing to stdout, and by default what the app does not serve is no usage.
    """
    peer.publish(kit.policy("ANY /{rest:path}"))
    (tmp_path / "three_lines.py").write_text(THREE_LINES)
    app = program(
        *("uvicorn", "--port", "{port}", "--log-level", "warning", "three_lines:app"),
        USAGEFLOW_SERVER=peer.settings["server"],
        USAGEFLOW_API_KEY=peer.settings["api_key"],
        USAGEFLOW_SHIP_INTERVAL_S="0.02",
    )
    with httpx.Client(base_url=app.url, trust_env=False, headers={"x-account": "a"}) as client:
        for path in ("/.env", "/wp-login.php", "/cgi-bin/x", "//ping"):
            assert client.get(path).status_code == 404
        assert client.delete("/ping").status_code == 405
        assert client.get("/ping").text == "pong"
    app.stop()
    assert app.out == b""
    rows = [(r.request_method, r.request_route, r.request_status) for r in peer.ledger()]
    assert rows == [("GET", "/{rest:path}", 200)]
