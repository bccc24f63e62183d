"""Real HTTP traffic of several customers, and what it should be billed as.

The expectation is what the client saw: 1 for each answer with status 200, the tokens that the
answer names. It shares nothing with the ledger it is compared with.
"""

import asyncio
from collections import Counter
from typing import Final

import httpx

CUSTOMERS: Final = ("acme", "globex", "initech", "umbrella", "hooli")
METRICS: Final = ("AI_TOKEN", "API_CALL", "STREAM")
PARALLEL: Final = 16
"""Requests in flight: enough for group commits to form, few enough for a laptop."""

Totals = Counter[tuple[str, str]]
"""(customer, metric) -> quantity."""


class Traffic:
    """Sends rounds of requests to the edges and keeps count of what was answered."""

    def __init__(self, edges: list[str]) -> None:
        self.requests = 0
        self.failures = 0
        self.sent: Counter[tuple[str, str]] = Counter()
        self.expected: Totals = Counter()
        self._edges = edges
        self._slots = asyncio.Semaphore(PARALLEL)
        self._round = 0

    async def send_round(self, client: httpx.AsyncClient) -> None:
        """One round: every customer calls every endpoint of every edge."""
        self._round += 1
        await asyncio.gather(
            *(
                self._slotted(client, edge, customer)
                for edge in self._edges
                for customer in CUSTOMERS
            )
        )

    async def _slotted(self, client: httpx.AsyncClient, edge: str, customer: str) -> None:
        async with self._slots:
            await self._chat(client, edge, customer)
            await self._item(client, edge, customer)
            await self._stream(client, edge, customer)
            await self._fail(client, edge, customer)

    async def _chat(self, client: httpx.AsyncClient, edge: str, customer: str) -> None:
        prompt = f"{customer} asks for the {self._round}. time"
        answer = await client.post(
            f"{edge}/v1/chat/completions", json={"prompt": prompt}, headers=_account(customer)
        )
        tokens = answer.json()["usage"]["total_tokens"] if answer.is_success else 0
        self._count(answer, customer, "AI_TOKEN", tokens)

    async def _item(self, client: httpx.AsyncClient, edge: str, customer: str) -> None:
        answer = await client.get(f"{edge}/v1/items/{self._round}", headers=_account(customer))
        self._count(answer, customer, "API_CALL", 1)

    async def _stream(self, client: httpx.AsyncClient, edge: str, customer: str) -> None:
        answer = await client.get(f"{edge}/v1/stream", params={"account": customer})
        self._count(answer, customer, "STREAM", 1)

    async def _fail(self, client: httpx.AsyncClient, edge: str, customer: str) -> None:
        answer = await client.get(f"{edge}/v1/fail", headers=_account(customer))
        self._count(answer, customer, "API_CALL", 1)

    def _count(self, answer: httpx.Response, customer: str, metric: str, quantity: int) -> None:
        self.requests += 1
        if answer.is_success:
            self.sent[customer, metric] += 1
            self.expected[customer, metric] += quantity
        else:
            self.failures += 1


def _account(customer: str) -> dict[str, str]:
    return {"x-account-id": customer}
