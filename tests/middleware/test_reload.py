"""Policies are replaced under load: each request sees one set, and its events say which."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from usageflow import UsageFlowMiddleware
from usageflow._types import Receive, Scope, Send
from usageflow.catalog.keys import create_key
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import publish
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import UsageFlowError
from usageflow.events import UsageEvent
from usageflow.middleware.feed import PollingFeed, open_feed
from usageflow.middleware.policy_sources import Source
from usageflow.policies import PolicySet, parse_file
from usageflow.server import Server, listening_socket

SETS = 50
"""How often the policies are replaced."""
CALLERS = 8
PATIENCE_S = 30.0
BROKEN = ["[[policy", "\x00"]

POLICY = """
[[policy]]
name = "{name}"
match = "POST /v1/orders/:id"
identify = [ {{ from = "path", name = "id" }} ]
field = "order_id"
metric = "{metric}"
quantity = {mark}
event_name = "v{mark}"
when = "request"
"""


def policies(mark: int) -> str:
    """A set in which everything carries this mark."""
    return "".join(
        POLICY.format(name=metric.lower(), metric=metric, mark=mark) for metric in ("CALL", "BYTE")
    )


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes some turns of the loop, so that policies change while it works."""
    await receive()
    await asyncio.sleep(0.001)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.sleep(0.001)
    await send({"type": "http.response.body", "body": b"ok"})


class Load:
    """Callers that ask one after the other until they are told to stop."""

    def __init__(self, kit: Any, feed: PollingFeed) -> None:
        self.recorder = kit.ManualRecorder()
        self.asked = 0
        self._kit = kit
        self._feed = feed
        self._metered = UsageFlowMiddleware(
            app, settings=Settings(), feed=feed, recorder=self.recorder
        )

    def run(self, replace: Callable[[int], None]) -> None:
        """Replace the policies by each mark's; the next comes when one is in force and was used."""
        asyncio.run(self._run(replace))

    async def _run(self, replace: Callable[[int], None]) -> None:
        stop = asyncio.Event()
        callers = [asyncio.ensure_future(self._call(stop)) for _ in range(CALLERS)]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                for mark in range(1, SETS + 1):
                    await loop.run_in_executor(None, replace, mark)
                    while not self.uses(mark):  # noqa: ASYNC110 - the callers have no event
                        await asyncio.sleep(0.0005)
        finally:
            stop.set()
            await asyncio.gather(*callers)

    def uses(self, mark: int) -> bool:
        """Whether the last request was recorded under this set."""
        return bool(self.recorder.events) and self.recorder.events[-1].quantity == mark

    async def _call(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.asked += 1
            client = self._kit.Client([{"type": "http.request"}])
            scope = self._kit.scope("POST", f"/v1/orders/{self.asked}")
            await self._metered(scope, client.receive, client.send)
            assert client.body == b"ok"

    def assert_whole(self, version: Callable[[str, int], str]) -> None:
        """Every request has left one event of each metric, all of one set, with its versions."""
        by_request: dict[str | None, list[UsageEvent]] = defaultdict(list)
        for event in self.recorder.events:
            by_request[event.identity.value].append(event)
        assert len(by_request) == self.asked
        assert len({event.quantity for event in self.recorder.events}) >= SETS
        for events in by_request.values():
            assert sorted(event.metric for event in events) == ["BYTE", "CALL"]
            (mark,) = {event.quantity for event in events}
            assert mark is not None
            assert {event.event_name for event in events} == {f"v{mark}"}
            for event in events:
                assert event.policy_version == version(event.policy, int(mark))


@pytest.fixture
def feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Settings], PollingFeed]]:
    """Open feeds, with their default spool in the test's own directory; closed at the end."""
    monkeypatch.chdir(tmp_path)
    made: list[PollingFeed] = []

    def make(settings: Settings) -> PollingFeed:
        made.append(open_feed(settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_file_is_replaced_under_load(
    kit: Any, feed: Callable[[Settings], PollingFeed], tmp_path: Path
) -> None:
    """Fifty times, with broken files in between: they are told and change nothing."""
    path, draft = tmp_path / "p.toml", tmp_path / "p.new"
    path.write_text(policies(0))
    polling = feed(Settings(policies=str(path), policy_poll_s=0.0005))
    source = Counting(polling._source)
    polling._source = source

    def put(text: str) -> None:
        draft.write_text(text)
        draft.replace(path)

    def replace(mark: int) -> None:
        if mark % 5 == 0:
            refused = source.refused
            put(BROKEN[mark // 5 % len(BROKEN)])
            while source.refused == refused:
                threading.Event().wait(0.0005)
        put(policies(mark))

    load = Load(kit, polling)
    load.run(replace)
    versions = {
        (policy.name, mark): version
        for mark in range(SETS + 1)
        for policy, version in parse_file(policies(mark), "t").policies
    }
    load.assert_whole(lambda name, mark: versions[name, mark])
    assert source.refused == SETS // 5


class Counting:
    """A source; counts what it could not read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.refused = 0

    def read(self) -> PolicySet | None:
        """See Source."""
        try:
            return self._source.read()
        except UsageFlowError:
            self.refused += 1
            raise

    def close(self) -> None:
        """See Source."""
        self._source.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a server on a free port, and of its edge."""
    with closing(listening_socket("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return Settings(
        database=f"sqlite:///{tmp_path / 'usageflow.db'}",
        port=port,
        server=f"http://127.0.0.1:{port}",
        api_key="to be made",
        spool_dir=str(tmp_path / "spool"),
        policy_poll_s=0.001,
    )


@pytest.fixture
def serving(settings: Settings) -> Iterator[None]:
    """A real server on its port, with the first set of policies."""
    config = uvicorn.Config("", ws="none", lifespan="off", log_config=None)
    listener = listening_socket("127.0.0.1", settings.port)
    first = parse_file(policies(0), "t")
    with closing(listener), Server(settings, policies=first) as server:
        config.app = server.app
        http = uvicorn.Server(config)
        thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]})
        thread.start()
        yield
        http.should_exit = True
        thread.join(PATIENCE_S)


@pytest.mark.usefixtures("serving")
def test_the_policies_of_a_server_are_replaced_under_load(
    kit: Any, feed: Callable[[Settings], PollingFeed], settings: Settings
) -> None:
    """Fifty times, and each event says which of the server's versions it was recorded under."""
    with closing(Database.open(settings.database)) as db:
        with db.transaction() as tx:
            organization_id = default_organization(tx)
            key = create_key(tx, organization_id, "edge", ["usage.write"]).secret

        def replace(mark: int) -> None:
            wanted = [policy for policy, _ in parse_file(policies(mark), "t").policies]
            with db.transaction() as tx:
                publish(tx, organization_id, wanted)

        load = Load(kit, feed(settings.with_changes(api_key=key)))
        load.run(replace)
    load.assert_whole(lambda _, mark: str(mark + 1))
