"""The demo's client: what it sends and what it expects to be billed."""

import asyncio

import httpx

from usageflow.demo.sample_api import app
from usageflow.demo.traffic import CUSTOMERS, METRICS, Traffic


def after(rounds: int, edges: list[str]) -> Traffic:
    """The counts after some rounds of traffic to the sample API."""

    async def send() -> Traffic:
        traffic = Traffic(edges)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            for _ in range(rounds):
                await traffic.send_round(client)
        return traffic

    return asyncio.run(send())


def test_every_customer_calls_every_endpoint_of_every_edge() -> None:
    """Four calls each; the failing one is a request, but nothing to bill."""
    traffic = after(2, ["http://app", "http://proxy"])
    assert traffic.requests == 2 * 2 * len(CUSTOMERS) * 4
    assert traffic.failures == 2 * 2 * len(CUSTOMERS)
    assert traffic.sent == {
        (customer, metric): 2 * 2 for customer in CUSTOMERS for metric in METRICS
    }


def test_what_is_expected_is_what_the_answers_say() -> None:
    """Tokens are the answer's: 7 and one for each character of the prompt. Others count 1."""
    traffic = after(1, ["http://app"])
    for customer in CUSTOMERS:
        prompt = f"{customer} asks for the 1. time"
        assert traffic.expected[customer, "AI_TOKEN"] == 7 + len(prompt)
        assert traffic.expected[customer, "API_CALL"] == 1
        assert traffic.expected[customer, "STREAM"] == 1


def test_a_failed_chat_is_not_billed() -> None:
    """Whatever its body looks like."""

    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, text="not JSON")

    async def send() -> Traffic:
        traffic = Traffic(["http://app"])
        async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
            await traffic.send_round(client)
        return traffic

    traffic = asyncio.run(send())
    assert traffic.failures == traffic.requests
    assert not traffic.sent
    assert not traffic.expected
