"""How each unit of a batch comes to its own verdict."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from usageflow.forwarding.batches import each_verdict
from usageflow.ledger.verdicts import Accepted, Ambiguous, Busy, Quarantined, Verdict


@given(st.lists(st.sampled_from(["good", "bad", "known"]), max_size=40))
def test_what_is_true_of_one_is_told_of_that_one(items: list[str]) -> None:
    """Refused and repeated units are found among the others, each of which goes through once."""
    taken: list[str] = []

    def send(some: Sequence[str]) -> Verdict:
        if "bad" in some:
            return Quarantined("http_422", "bad")
        if "known" in some:
            return Accepted(duplicate=True)
        taken.extend(some)
        return Accepted()

    expected: dict[str, Verdict] = {
        "good": Accepted(),
        "bad": Quarantined("http_422", "bad"),
        "known": Accepted(duplicate=True),
    }
    assert each_verdict(items, send) == [expected[item] for item in items]
    assert taken.count("good") == items.count("good")


def test_a_good_batch_is_one_call() -> None:
    """Halves are for batches that were refused."""
    calls = []

    def send(some: Sequence[int]) -> Verdict:
        calls.append(list(some))
        return Accepted()

    assert each_verdict([1, 2, 3], send) == [Accepted()] * 3
    assert calls == [[1, 2, 3]]


def test_an_answer_that_says_nothing_of_the_units_is_that_of_all() -> None:
    """A lost answer, or one that asks for patience, is not asked for again in halves."""
    for verdict in (Ambiguous("reset"), Busy(3.0)):
        said = iter([verdict])
        assert each_verdict([1, 2], lambda _, said=said: next(said)) == [verdict] * 2  # type: ignore[misc]


def test_nothing_is_no_call() -> None:
    """An empty batch is not sent."""
    assert each_verdict([], lambda _: Busy()) == []
