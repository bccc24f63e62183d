"""`usageflow policies`: every problem with its place, and what publishing changed."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from usageflow.policies.api_keys import digest

Run = Callable[..., Any]

CHAT = """
[[policy]]
name = "chat"
match = "POST /v1/chat"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"
event_name = "token_used"
"""
CALLS = """
[[policy]]
name = "calls"
match = "GET /v1/items/:id"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy file that is right."""
    path = tmp_path / "policies.toml"
    path.write_text(CHAT + CALLS)
    return path


def test_a_good_file_is_summed_up(run: Run, file: Path) -> None:
    """How much there is, in good English, and exit 0."""
    assert run("policies", "check", file) == (0, "2 policies, 2 metrics: ok\n", "")
    file.write_text(CHAT)
    assert run("policies", "check", file).out == "1 policy, 1 metric: ok\n"
    file.write_text("# none")
    assert run("policies", "check", file).out == "0 policies, 0 metrics: ok\n"


def test_every_problem_has_its_line(run: Run, file: Path) -> None:
    """One line `FILE:LINE: ...` for each problem of each policy; exit 1."""
    file.write_text(CHAT.replace("POST /v1/chat", "/v1/chat") + CALLS.replace("API_CALL", "?!"))
    status, out, err = run("policies", "check", file)
    assert (status, err) == (1, "")
    first, second = out.splitlines()
    assert first.startswith(f"{file}:4: ")
    assert "chat" in first
    assert second.startswith(f"{file}:16: ")
    assert "calls" in second


def test_policies_that_contradict_each_other_are_a_problem(run: Run, file: Path) -> None:
    """Each is right alone; together they would count one request twice under one metric."""
    file.write_text(CALLS + CALLS.replace('"calls"', '"more"'))
    status, out, _ = run("policies", "check", file)
    assert status == 1
    assert "calls" in out
    assert "more" in out


@pytest.mark.parametrize("content", [b"[[policy", b"\xff\xfe", None])
def test_what_cannot_be_read_is_one_problem(
    run: Run, tmp_path: Path, content: bytes | None
) -> None:
    """No TOML, no text, no file: named once, exit 1."""
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    status, out, err = run("policies", "check", path)
    assert (status, err, len(out.splitlines())) == (1, "", 1)
    assert out.startswith(f"{path}:")
    assert out.count(path.name) == 1


def test_push_says_what_changed(run: Run, file: Path, tmp_path: Path) -> None:
    """Added, changed, removed, unchanged; the database may be a fresh one."""
    url = f"sqlite:///{tmp_path / 'fresh.db'}"
    status, out, _ = run("policies", "push", file, "--database", url)
    assert status == 0
    assert out.splitlines() == [
        "added policy calls",
        "added policy chat",
        "added metric AI_TOKEN",
        "added metric API_CALL",
    ]
    file.write_text(CHAT.replace("/v1/chat", "/v2/chat"))
    assert run("policies", "push", file, "--database", url).out.splitlines() == [
        "changed policy chat",
        "removed policy calls",
    ]
    again = run("policies", "push", file, "--database", url)
    assert again.out == "unchanged policy chat\n"


def test_a_file_with_a_problem_is_not_pushed(run: Run, file: Path, tmp_path: Path) -> None:
    """Half a file would silently take the other half out of use."""
    database = tmp_path / "fresh.db"
    file.write_text(CHAT + CALLS.replace("API_CALL", "?!"))
    status, out, err = run("policies", "push", file, "--database", f"sqlite:///{database}")
    assert (status, out) == (1, "")
    assert f"{file}:16: " in err
    assert not database.exists()


def test_a_server_does_not_start_with_a_broken_file(run: Run, file: Path, tmp_path: Path) -> None:
    """`serve --policies` judges the file before anything is opened."""
    database = tmp_path / "fresh.db"
    file.write_text("[[policy")
    url = f"sqlite:///{database}"
    status, _, err = run("serve", "--policies", file, "--database", url)
    assert status == 1
    assert err.startswith(f"usageflow: {file}:1")
    assert not database.exists()


def test_a_check_tells_what_a_person_should_know(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes never fail a check: modes, unverified tokens, changed requests, missing secrets."""
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)
    header = '{ from = "header", name = "x-account-id" }'
    token = '{ from = "jwt", claim = "sub", '
    file.write_text(
        CHAT.replace(header, token + "unverified = true }")
        + "include_usage = true\n"
        + CALLS.replace(header, token + 'secret = "env:NO_SUCH_SECRET" }')
        + 'mode = "shadow"\n'
        + CALLS.replace('"calls"', '"old"')
        + 'mode = "off"\n'
    )
    status, out, err = run("policies", "check", file)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "3 policies, 2 metrics: ok",
        'note: policy "chat": identify[1]: unverified = true: callers can claim to be anyone',
        'note: policy "chat": include_usage = true: requests and streams are changed',
        'note: policy "calls": mode = "shadow": recorded, never billed',
        ('note: policy "calls": identify[1]: the environment variable NO_SUCH_SECRET is not set'),
        'note: policy "old": mode = "off": matches nothing',
    ]


def test_a_method_that_nobody_uses_is_noted(run: Run, file: Path) -> None:
    """It is allowed, but it is seldom meant."""
    file.write_text(CHAT.replace("POST /v1/chat", "POTS /v1/chat"))
    status, out, _ = run("policies", "check", file)
    assert status == 0
    said = 'note: policy "chat": match: POTS is no registered method; did you mean "POST"?'
    assert out.splitlines()[1:] == [said]


EXAMPLES = """
[[example]]
name = "a chat counts its tokens"
request = "POST /v1/chat"
request_headers = { x-account-id = "acct_1" }
response_json = { usage = { total_tokens = 42 } }
expect = [{ policy = "chat", identity = "acct_1", quantity = 42 }]

[[example]]
name = "an unknown path counts nothing"
request = "GET /v1/unknown"
expect = []
"""


def test_examples_are_run(run: Run, file: Path) -> None:
    """One line for each; a policy that none of them shows is mentioned."""
    file.write_text(CHAT + CALLS + EXAMPLES)
    assert run("policies", "check", file).status == 0
    status, out, err = run("policies", "test", file)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "ok      a chat counts its tokens",
        "ok      an unknown path counts nothing",
        'note: policy "calls" has no example',
        f"{file}: 2 examples, 0 failed",
    ]


def test_an_example_that_is_wrong_fails(run: Run, file: Path, tmp_path: Path) -> None:
    """With what was expected and what there was; the other files are tried as well."""
    file.write_text(CHAT + EXAMPLES.replace("quantity = 42", "quantity = 43"))
    good = tmp_path / "good.toml"
    good.write_text(CHAT + EXAMPLES)
    status, out, err = run("policies", "test", file, good)
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "FAILED  a chat counts its tokens",
        '        policy "chat": quantity: expected 43, got 42',
        "ok      an unknown path counts nothing",
        f"{file}: 2 examples, 1 failed",
        "ok      a chat counts its tokens",
        "ok      an unknown path counts nothing",
        f"{good}: 2 examples, 0 failed",
    ]


def test_a_file_without_examples_is_not_tested(run: Run, file: Path) -> None:
    """Success would say more than is known."""
    status, out, _ = run("policies", "test", file)
    assert status == 1
    assert out.splitlines()[-1] == f"{file}: 0 examples, 0 failed"


def test_tokens_are_judged_at_the_time_of_the_example(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the secret of the environment; so an example does not expire."""
    secret = "s" * 32
    token = jwt.encode({"sub": "acct_1", "exp": 1_767_229_200}, secret)  # 2026-01-01T01:00:00Z
    source = '{ from = "jwt", claim = "sub", secret = "env:TOKEN_SECRET" }'
    example = EXAMPLES.partition("\n\n")[0].replace(
        'x-account-id = "acct_1"', f'authorization = "Bearer {token}"'
    )
    text = CHAT.replace('{ from = "header", name = "x-account-id" }', source) + example
    monkeypatch.setenv("TOKEN_SECRET", secret)
    file.write_text(f"{text}\nat = 2026-01-01T00:59:00Z\n")
    assert run("policies", "test", file).status == 0
    file.write_text(f'{text}\nat = "2026-01-01T01:01:00Z"\n')
    late = run("policies", "test", file)
    assert late.status == 1
    assert "expected counted, got inbox" in late.out


APP = """
from starlette.applications import Starlette
from starlette.routing import Route

async def end(request): ...

app = Starlette(routes=[
    Route("/v1/chat", end, methods=["POST"], name="chat"),
    Route("/v1/items/{id}", end, name="item"),
    Route("/health", end, name="health"),
    Route("/new", end, name="new"),
])
"""
EXEMPT = """
[[exempt]]
match = "GET /health"
reason = "the load balancer asks"

[[exempt]]
match = "GET /gone"
reason = "was a page"
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An app in the current directory."""
    (tmp_path / "covered_app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    yield "covered_app:app"
    sys.modules.pop("covered_app", None)


def test_coverage_lists_every_route(run: Run, file: Path, app: str) -> None:
    """Metered, partly, exempt, uncovered; and what no route needs."""
    items = CALLS.replace("/:id", "/{id:int}") + 'mode = "shadow"\n'
    gone = CALLS.replace('"calls"', '"gone"').replace("/v1/items/:id", "/old")
    paid = CHAT.replace('"chat"', '"paid"').replace('"AI_TOKEN"', '"PAID"')
    paid += 'header = { x-plan = "paid" }\n'
    file.write_text(CHAT + paid + items + gone + EXEMPT)
    status, out, err = run("policies", "coverage", app, "--policies", file)
    assert (status, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "           method  route           name    policies",
        "---------  ------  --------------  ------  -----------------------------------",
        "metered    POST    /v1/chat        chat    chat, paid (conditional)",
        "partly     GET     /v1/items/{id}  item    calls (shadow); not GET /v1/items/x",
        "exempt     GET     /health         health  exempt: the load balancer asks",
        "uncovered  GET     /new            new",
        "",
        'policy "gone": no route needs it',
        "exemption of GET /gone: no route needs it",
        "4 routes: 1 metered, 1 partly, 1 exempt, 1 uncovered",
    ]


def test_strict_coverage_fails_while_a_route_is_open(run: Run, file: Path, app: str) -> None:
    """Neither metered as a whole nor exempt in writing."""
    assert run("policies", "coverage", app, "--policies", file, "--strict").status == 1
    file.write_text(CHAT + CALLS + EXEMPT.replace("/gone", "/new"))
    assert run("policies", "coverage", app, "--policies", file, "--strict").status == 0
    file.write_text(CHAT + CALLS.replace("/:id", "/7") + EXEMPT.replace("/gone", "/new"))
    assert run("policies", "coverage", app, "--policies", file, "--strict").status == 1


def test_coverage_as_json(run: Run, file: Path, tmp_path: Path) -> None:
    """One document, here of an OpenAPI file; path rules and hosts are those of the edge."""
    document = {
        "openapi": "3.1.0",
        "servers": [{"url": "https://api.example.com/v1"}],
        "paths": {"/chat/": {"post": {"operationId": "chat"}}, "/x": {"get": {}}},
    }
    (tmp_path / "api.json").write_text(json.dumps(document))
    file.write_text(CHAT + 'host = "api.example.com"\n' + EXEMPT)
    options = ("--json", "--policies", file, "--path-rules", "final-slash")
    status, out, _ = run("policies", "coverage", tmp_path / "api.json", *options)
    assert status == 0
    found = json.loads(out)
    assert found["counts"] == {"metered": 1, "partly": 0, "exempt": 0, "uncovered": 1}
    by_template = {route["template"]: route for route in found["routes"]}
    assert by_template["/v1/x"]["missed"] == "GET /v1/x"
    assert by_template["/v1/chat/"] == {
        "method": "POST",
        "host": "api.example.com",
        "template": "/v1/chat/",
        "name": "chat",
        "status": "metered",
        "policies": ["chat"],
        "conditional": [],
        "reason": None,
        "missed": None,
    }
    assert found["idle"]["policies"] == []
    assert [each["match"] for each in found["idle"]["exemptions"]] == [
        ["GET /health"],
        ["GET /gone"],
    ]


def test_wrong_path_rules_are_told(run: Run, file: Path, app: str) -> None:
    """Not taken for none."""
    status, out, err = run(
        "policies", "coverage", app, "--policies", file, "--path-rules", "final-slahs"
    )
    assert (status, out) == (1, "")
    assert '"final-slahs" is not a path rule; did you mean "final-slash"?' in err


def test_the_host_of_requests_can_be_said(run: Run, file: Path, app: str) -> None:
    """An app does not know which host it is reached by."""
    file.write_text(CHAT + 'host = "api.example.com"\n')
    command = ("policies", "coverage", app, "--policies", file)
    assert "1 partly" in run(*command).out
    assert "1 metered" in run(*command, "--host", "api.example.com").out


class Typed(io.TextIOWrapper):
    """Standard input at a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_a_key_is_hashed_as_policies_have_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a secret of the environment, or without; the key itself is not shown."""
    monkeypatch.setenv("KEY_SECRET", "pepper")
    for options, secret in (((), None), (("--secret", "env:KEY_SECRET"), "pepper")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"sk_live_1\r\n")))
        assert run("policies", "hash-key", *options) == (0, digest("sk_live_1", secret) + "\n", "")


def test_a_key_may_be_typed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being shown; the digest is alone on standard output."""
    monkeypatch.setattr(sys, "stdin", Typed(io.BytesIO(b"")))
    monkeypatch.setattr("typer.prompt", lambda *_, **options: "k" * options["hide_input"])
    assert run("policies", "hash-key").out == digest("k", None) + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--secret", "pepper"), "--secret must name an environment variable"),
        (("--secret", "env:NO_SUCH_SECRET"), "the environment variable NO_SUCH_SECRET is not set"),
        ((), "no key: type it, or pipe it into this command"),
    ],
)
def test_what_cannot_be_hashed_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    """A digest of nothing would be everybody's who sends none."""
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    status, out, err = run("policies", "hash-key", *options)
    assert (status, out) == (1, "")
    assert message in err
    assert "pepper" not in err
