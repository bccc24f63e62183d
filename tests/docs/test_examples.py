"""The README's app and every other piece of Python in the documentation runs."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

EMULATOR_URL = "http://127.0.0.1:12111"
"""Where the documentation's emulator listens; here it has a free port."""


@pytest.fixture
def readme(blocks: Any) -> dict[str, str]:
    """The README's app and its policy file."""
    return {
        block.language: block.text
        for block in blocks
        if block.page == "README.md" and block.language in ("python", "toml")
    }


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The app between its startup and its shutdown, as a server runs it."""
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    answered: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.ensure_future(app({"type": "lifespan"}, asked.get, answered.put))
    await asked.put({"type": "lifespan.startup"})
    assert (await answered.get())["type"] == "lifespan.startup.complete"
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        yield client
    await asked.put({"type": "lifespan.shutdown"})
    assert (await answered.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


def spooled(folder: Path) -> list[dict[str, Any]]:
    """What the command of the README shows."""
    command = ["-m", "usageflow", "spool", ".usageflow/spool", "--json"]
    shown = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    return [json.loads(line) for line in shown.splitlines()]


def test_the_readme_s_app_meters(
    readme: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its two files in an empty directory, a request, and the event is in the spool at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies.toml").write_text(readme["toml"])
    namespace: dict[str, Any] = {"__name__": "app"}
    exec(compile(readme["python"], "README.md", "exec"), namespace)

    async def talk() -> list[dict[str, Any]]:
        async with serving(namespace["app"]) as client:
            answer = await client.get("/v1/items/7", headers={"x-account-id": "acct_42"})
            assert (answer.status_code, answer.json()) == (200, {"item": "7"})
            return await asyncio.to_thread(spooled, tmp_path)

    (event,) = asyncio.run(talk())
    assert event["identity"] == {"field": "account_id", "value": "acct_42"}
    assert (event["policy"], event["metric"], event["quantity"]) == ("items", "API_CALL", 1)
    assert (event["event_name"], event["state"]) == ("api_request", "counted")
    assert spooled(tmp_path) == [event], "without a server, events stay"


def test_other_python_runs(python: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block with what its page has set up before it; the emulator is a real one."""
    if python.page != "docs/stripe-emulator.md":
        exec(compile(python.text, str(python), "exec"), {})
        return
    import stripe

    def use() -> None:
        """What a user's test would do: 7 tokens."""
        emulator: RemoteEmulator = namespace["emulator"]
        client = stripe.StripeClient(
            "sk_test_trial",
            base_addresses=dict.fromkeys(  # type: ignore[arg-type]  # a TypedDict of these keys
                ("api", "connect", "files", "meter_events"), emulator.url
            ),
        )
        (customer,) = client.v1.customers.list().data
        client.v1.billing.meter_events.create(
            {
                "event_name": "tokens",
                "payload": {"stripe_customer_id": customer.id, "value": "7"},
            }
        )

    monkeypatch.setattr(stripe, "enable_telemetry", False)
    namespace: dict[str, Any] = {"stripe": stripe, "Decimal": Decimal, "use": use}
    with running(create_emulator(search_lag_s=0)) as url:
        code = python.text.replace(EMULATOR_URL, url).replace("...", "use()")
        exec(compile(code, str(python), "exec"), namespace)
