"""What every answer of Stripe tells."""

from collections.abc import Mapping

import pytest

from usageflow.forwarding.transport import Answer, Lost, Pool
from usageflow.stripe.transport import Wire

DATE = "Sat, 21 Nov 2026 12:00:00 GMT"
NOON_S = 1_795_262_400


class Played(Pool):
    """A pool that plays what it was given."""

    def __init__(self, *answers: Answer | Lost) -> None:
        super().__init__(timeout_s=1, connections_max=1, environment=False)
        self.answers = list(answers)

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> Answer | Lost:
        """The next of them."""
        return self.answers.pop(0)


def test_reads_are_counted() -> None:
    """Those that were not answered as well: Stripe may have counted them."""
    answers = (Answer(200, {}, b""), Lost("reset", sent=True), Answer(200, {}, b""))
    wire = Wire(Played(*answers))
    assert [wire.request(method, "http://x/", {}) for method in ("GET", "GET", "POST")] == [
        *answers
    ]
    assert wire.reads == 2
    wire.close()


def test_the_clock_of_the_other_side_is_known() -> None:
    """Its Date, as of the last answer that had one."""
    wire = Wire(
        Played(Answer(500, {"date": DATE}, b""), Answer(200, {}, b""), Lost("reset", sent=True)),
        clock=lambda: NOON_S - 90.0,
    )
    assert wire.clock_skew_s == 0
    for _ in range(3):
        wire.request("POST", "http://x/", {})
        assert wire.clock_skew_s == 90


@pytest.mark.parametrize("date", ["yesterday", ""])
def test_a_strange_date_is_none(date: str) -> None:
    """What is not a date says nothing of a clock."""
    wire = Wire(Played(Answer(200, {"date": date}, b"")))
    wire.request("POST", "http://x/", {})
    assert wire.clock_skew_s == 0
