"""What every answer of Stripe tells."""

from collections.abc import Mapping

import pytest

from usageflow.forwarding.transport import Answer, Lost, Pool
from usageflow.stripe.transport import Wire, boot_time_s

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
        steady=lambda: 7.0,
    )
    assert wire.clock_skew_s == 0
    for _ in range(3):
        wire.request("POST", "http://x/", {})
        assert wire.clock_skew_s == 90


@pytest.mark.parametrize("step_s", [-36_000.0, 36_000.0])
def test_a_clock_that_is_set_after_the_last_answer_is_known_at_once(step_s: float) -> None:
    """Before anything else is sent: an attempt must not be dated by it."""
    ours, passed = [float(NOON_S)], [0.0]
    wire = Wire(
        Played(Answer(200, {"date": DATE}, b"")),
        clock=lambda: ours[0] + passed[0],
        steady=lambda: passed[0],
    )
    wire.request("POST", "http://x/", {})
    passed[0] += 60
    assert wire.clock_skew_s == 0
    ours[0] += step_s
    assert wire.clock_skew_s == -step_s


def test_the_clock_that_nobody_sets_goes_on() -> None:
    """It is not that of the day."""
    assert 0 < boot_time_s() <= boot_time_s()


@pytest.mark.parametrize("date", ["yesterday", ""])
def test_a_strange_date_is_none(date: str) -> None:
    """What is not a date says nothing of a clock."""
    wire = Wire(Played(Answer(200, {"date": date}, b"")))
    wire.request("POST", "http://x/", {})
    assert wire.clock_skew_s == 0
