"""What comes piece by piece, added up."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.interpreter import Budget
from usageflow.policies.reason import Reason
from usageflow.policies.tally import Piece, Tally, may_hold, needles_of

NOTHING = Reason("nothing")
BROKEN = Reason("broken")


def read(data: bytes, piece: Piece, budget: Budget) -> Decimal | Reason | None:
    """A piece is its number; x is none, ! is broken; what was sent counts twice."""
    budget.steps -= 1
    if data == b"!":
        return BROKEN
    return None if data == b"x" else Decimal(data.decode()) * (2 if piece == "sent" else 1)


def tally(*, summed: bool, needles: frozenset[bytes] | None = None) -> Tally:
    """One that has seen nothing."""
    return Tally(read, lambda: NOTHING, summed=summed, needles=needles)


@pytest.mark.parametrize(
    ("pieces", "last", "total"),
    [
        ("", NOTHING, NOTHING),
        ("x x", NOTHING, NOTHING),
        ("5", Decimal(5), Decimal(5)),
        ("1 2 3", Decimal(3), Decimal(6)),
        ("0.1 0.2 x", Decimal("0.2"), Decimal("0.3")),
        ("0 x", Decimal(0), Decimal(0)),
        ("1 ! 2", Decimal(2), BROKEN),
        ("1 !", BROKEN, BROKEN),
        ("! 1", Decimal(1), BROKEN),
    ],
)
def test_the_last_or_the_sum_of_all(
    pieces: str, last: Decimal | Reason, total: Decimal | Reason
) -> None:
    """What cannot be read spoils the sum, and the last value until there is a later one."""
    for summed, expected in ((False, last), (True, total)):
        counted = tally(summed=summed)
        for piece in pieces.split():
            counted.add(piece.encode())
        assert counted.result() == expected


@given(st.lists(st.decimals(0, 10**25, places=12), min_size=1))
def test_sums_are_exact(numbers: list[Decimal]) -> None:
    """To the last digit, however many pieces there are."""
    counted = tally(summed=True)
    for number in numbers:
        counted.put(number)
    found = counted.result()
    assert isinstance(found, Decimal)
    assert Fraction(found) == sum(map(Fraction, numbers))


def test_a_sum_beyond_what_a_quantity_may_be_is_a_reason() -> None:
    """Not rounded, not cut."""
    counted = tally(summed=True)
    for _ in range(11):
        counted.put(Decimal("9" * 38))
    assert counted.result() == Reason("the sum: 40 digits; at most 38 are kept")


def test_what_was_taken_is_not_taken_again() -> None:
    """A WebSocket's usage is recorded in parts, each once."""
    counted = tally(summed=True)
    assert counted.take() is None
    counted.add(b"1", "received")
    counted.add(b"2", "sent")
    assert counted.take() == 5
    assert counted.take() is None
    counted.add(b"!")
    counted.add(b"1")
    assert counted.take() == BROKEN
    counted.add(b"1")
    assert counted.take() == 1


def test_pieces_without_the_needles_are_not_read() -> None:
    """Looking for a name is so much cheaper than reading JSON."""
    counted = tally(summed=True, needles=frozenset({b"7"}))
    budget = Budget(1)
    counted.add(b"8", "body", budget)
    counted.add(b"17", "body", budget)
    assert counted.result() == 17
    assert budget.steps == 0


@pytest.mark.parametrize(
    ("names", "needles"),
    [
        (["total_tokens"], {b'"total_tokens"'}),
        (["a", "b c.$"], {b'"a"', b'"b c.$"'}),
        ([], set()),
        (["naïve"], None),
        (["a/b"], None),
        (['a"b'], None),
        (["a\\b"], None),
        (["a", "a\nb"], None),
    ],
)
def test_needles_are_names_that_json_writes_in_one_way(
    names: list[str], needles: set[bytes] | None
) -> None:
    """Escaped letters aside; a name with another way to be written has no needle."""
    assert needles_of(names) == needles


@pytest.mark.parametrize(
    ("data", "whether"),
    [
        (b'{"usage": 1}', True),
        (b'{"usages": 1}', False),
        (b'{"\\u0075sage": 1}', True),
        (b'{"x": "\\u00fc"}', False),
        (b'{"x": "\\u4e2d"}', False),
        (b"", False),
    ],
)
def test_a_name_may_be_there(data: bytes, whether: bool) -> None:  # noqa: FBT001 - a table
    """Where it is written plainly, or where any ASCII letter is escaped."""
    assert may_hold(data, [b'"usage"']) == whether
