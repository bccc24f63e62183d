"""What becomes of policies in a process: what it lacks is told, and nothing is lost for it."""

import asyncio
import gc
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.middleware.policy_sources import Assembly, collector_paused
from usageflow.policies import PolicySet, parse_file
from usageflow.recorder import Recorder

POLICY = """
[[policy]]
name = "{name}"
match = "{match}"
identify = [ {source} ]
field = "account_id"
metric = "M_{name}"
mode = "{mode}"
"""
HEADER = '{ from = "header", name = "x-account" }'
SECRET = '{ from = "jwt", claim = "sub", secret = "env:JWT_SECRET" }'
UNVERIFIED = '{ from = "jwt", claim = "sub", unverified = true }'
TOKEN = jwt.encode({"sub": "acct_7"}, "s" * 32)


def policy(
    name: str = "calls", source: str = HEADER, match: str = "GET /metered", mode: str = "live"
) -> str:
    """One policy as a person writes it."""
    return POLICY.format(name=name, source=source, match=match, mode=mode)


@pytest.fixture
def assembly() -> Iterator[Callable[..., Assembly]]:
    """Make assemblies; their key sets are closed at the end."""
    made: list[Assembly] = []

    def make(environ: Mapping[str, str] | None = None, **settings: Any) -> Assembly:
        made.append(Assembly(Settings(**settings), environ or {}))
        return made[-1]

    yield make
    for each in made:
        each.keys.close()


def build(subject: Assembly, *tables: str) -> PolicySet:
    """The set of these policies, all of which are valid by themselves."""
    parsed = parse_file("\n".join(("# policies", *tables)), "p.toml")
    return subject.build(parsed.policies, parsed.problems, "p.toml")


def ask(kit: Any, policies: PolicySet, *headers: tuple[bytes, bytes]) -> Any:
    """The only event of a request with these headers; the app has answered it."""
    recorder, client = kit.ManualRecorder(), kit.Client()
    app = UsageFlowMiddleware(
        kit.answering(kit.start(), kit.body(b"ok")),
        settings=Settings(),
        feed=FixedFeed(policies),
        recorder=cast("Recorder", recorder),
    )
    asyncio.run(app(kit.scope(headers=headers), client.receive, client.send))
    assert client.body == b"ok"
    (event,) = recorder.events
    return event


def test_a_child_forked_while_policies_are_read_has_its_collector() -> None:
    """The thread that would enable it again is not there; an app that disabled it keeps it so."""
    for enabled, expected in ((True, b"1"), (False, b"0")):
        read, write = os.pipe()
        if not enabled:
            gc.disable()
        try:
            with collector_paused():
                assert not gc.isenabled()
                if (child := os.fork()) == 0:
                    os.write(write, b"1" if gc.isenabled() else b"0")
                    os._exit(0)
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
        assert os.read(read, 1) == expected
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_path_rules_that_do_not_exist_stop_the_start(assembly: Callable[..., Assembly]) -> None:
    """The message names the variable, the word and what was meant."""
    with pytest.raises(ConfigurationError, match=r"USAGEFLOW_PATH_RULES.*final-slsh.*final-slash"):
        assembly(path_rules="double-slash, final-slsh")


def test_path_rules_reach_the_policies(assembly: Callable[..., Assembly]) -> None:
    """They say how the app routes, so they say what is metered."""
    assert build(assembly(), policy()).match("GET", "/metered/") is None
    built = build(assembly(path_rules="final-slash"), policy())
    assert built.match("GET", "/metered/") is not None


def test_a_missing_secret_leaves_the_policy_in_force(
    assembly: Callable[..., Assembly], kit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told at once, and requests go to the inbox with the reason; none is lost."""
    built = build(assembly(), policy(source=SECRET))
    assert (
        'policy "calls" cannot identify by one of its sources: identify[1]: '
        "the environment variable JWT_SECRET is not set" in caplog.text
    )
    event = ask(kit, built, (b"authorization", b"Bearer " + TOKEN.encode()))
    assert (event.state, event.identity.value, event.quantity) == ("inbox", None, 1)
    assert "the environment variable JWT_SECRET is not set" in event.reason


def test_another_source_steps_in_for_a_missing_secret(
    assembly: Callable[..., Assembly], kit: Any
) -> None:
    """Sources are tried in order; one that cannot work yields nothing."""
    built = build(assembly(), policy(source=f"{SECRET}, {HEADER}"))
    event = ask(kit, built, (b"x-account", b"acct_1"))
    assert (event.state, event.identity.value) == ("counted", "acct_1")


def test_the_secret_comes_from_the_environment_that_was_given(
    assembly: Callable[..., Assembly], kit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is told, and the token is verified."""
    built = build(assembly({"JWT_SECRET": "s" * 32}), policy(source=SECRET))
    assert "cannot identify" not in caplog.text
    event = ask(kit, built, (b"authorization", b"Bearer " + TOKEN.encode()))
    assert (event.state, event.identity.value) == ("counted", "acct_7")


def test_a_policy_that_is_off_lacks_nothing(
    assembly: Callable[..., Assembly], caplog: pytest.LogCaptureFixture
) -> None:
    """What will not be asked is not complained about."""
    build(assembly(), policy(source=SECRET, mode="off"))
    assert "cannot identify" not in caplog.text


def test_tokens_that_nobody_verifies_are_told(
    assembly: Callable[..., Assembly], caplog: pytest.LogCaptureFixture
) -> None:
    """By the name of the policy; one that verifies is not named."""
    subject = assembly({"JWT_SECRET": "s" * 32})
    build(subject, policy("open", UNVERIFIED), policy("safe", SECRET), policy("header", HEADER))
    warnings = [line for line in caplog.messages if "nobody verifies" in line]
    assert warnings == ['policy "open" trusts tokens that nobody verifies']


def test_what_is_left_out_and_what_is_in_force_is_told(
    assembly: Callable[..., Assembly], caplog: pytest.LogCaptureFixture
) -> None:
    """Problems of the file and of the set alike; the others count."""
    caplog.set_level(logging.INFO, "usageflow.middleware")
    parsed = parse_file(policy() + policy("other", match="GET /other"), "p.toml")
    twice = [*parsed.policies, (parsed.policies[0][0].model_copy(update={"name": "twin"}), "f1")]
    built = assembly().build(twice, ["p.toml:9: wrong"], "p.toml")
    left_out = [line for line in caplog.messages if line.startswith("a policy is left out: ")]
    assert left_out[0] == "a policy is left out: p.toml:9: wrong"
    assert 'policy "twin"' in left_out[1]
    assert "policies in force from p.toml: 2" in caplog.messages
    assert built.match("GET", "/other") is not None


def test_an_empty_set_is_told(
    assembly: Callable[..., Assembly], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is metered by it, so it is a warning."""
    assert build(assembly()).match("GET", "/metered") is None
    assert "no policies in force from p.toml: nothing is metered" in caplog.messages


# Key sets


class KeyServer:
    """A key server with one key for each path; counts what it was asked."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.asked: list[str] = []
        es256 = jwt.get_algorithm_by_name("ES256")
        member = {**es256.to_jwk(self.key.public_key(), True), "kid": "a"}
        content = json.dumps({"keys": [member]}).encode()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.thread = Thread(target=self.httpd.serve_forever, args=(0.01,))
        self.thread.start()

    def source(self, name: str) -> str:
        """A source that verifies with the keys at this path."""
        url = f"http://127.0.0.1:{self.httpd.server_port}/{name}"
        return f'{{ from = "jwt", claim = "sub", keys = "{url}" }}'

    def close(self) -> None:
        """Stop."""
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    """A key server of its own."""
    subject = KeyServer()
    yield subject
    subject.close()


def test_keys_are_fetched_before_the_first_token(
    assembly: Callable[..., Assembly], key_server: KeyServer, kit: Any
) -> None:
    """By building the set, not by a request; those of policies that are off are not."""
    subject = assembly()
    subject.keys.start()
    built = build(
        subject,
        policy(source=key_server.source("used")),
        policy("off", key_server.source("unused"), match="GET /off", mode="off"),
    )
    assert subject.keys.wait(10)
    assert key_server.asked == ["/used"]
    token = jwt.encode({"sub": "acct_9"}, key_server.key, "ES256", {"kid": "a"})
    event = ask(kit, built, (b"authorization", b"Bearer " + token.encode()))
    assert (event.state, event.identity.value) == ("counted", "acct_9")


def test_keys_stay_over_a_reload_and_are_dropped_with_their_policy(
    assembly: Callable[..., Assembly], key_server: KeyServer
) -> None:
    """A set that names the same server does not ask it again, even if one between did not."""
    subject = assembly()
    subject.keys.start()
    first = policy(source=key_server.source("first"))
    build(subject, first)
    assert subject.keys.wait(10)
    build(subject, first, policy("two", key_server.source("second"), match="GET /two"))
    assert subject.keys.wait(10)
    assert key_server.asked == ["/first", "/second"]
    build(subject, policy("two", key_server.source("second"), match="GET /two"))
    assert len(subject.keys._sets) == 2, "the set before is still in force"
    subject.forget_keys()
    named = {url.rsplit("/", 1)[1]: each.named for url, each in subject.keys._sets.items()}
    assert named == {"first": False, "second": True}
    build(subject, first)
    assert all(each.named for each in subject.keys._sets.values())
    assert subject.keys.wait(10)
    assert key_server.asked == ["/first", "/second"]
