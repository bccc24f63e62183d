"""What may be an identity; the sources themselves are in test_identity."""

from hypothesis import given
from hypothesis import strategies as st

from usageflow.events import IDENTITY_CHARS_MAX
from usageflow.policies.identity_values import checked, normalizer, text_of
from usageflow.policies.reason import Reason


class Name(str):
    """A text of the app's own kind."""

    __slots__ = ()

    def __str__(self) -> str:
        """Not what it is."""
        return "other"


def test_a_kind_of_text_is_its_text() -> None:
    """Whatever the app's class says of itself."""
    found = text_of(Name("acct_42"), "x")
    assert (found, type(found)) == ("acct_42", str)


def test_steps_are_done_in_their_order() -> None:
    """Trimming after lowering is the same here, but the order is the policy's."""
    assert normalizer(())(" A ") == " A "
    assert normalizer(("lower", "trim"))(" A ") == "a"


@given(st.text(), st.sampled_from([(), ("trim",), ("lower",), ("trim", "lower")]))
def test_what_is_accepted_can_be_stored(text: str, steps: tuple[str, ...]) -> None:
    """Bounded after it was normalised, not empty, and valid Unicode."""
    found = checked(normalizer(steps)(text), "x")
    if not isinstance(found, Reason):
        assert 1 <= len(found) <= IDENTITY_CHARS_MAX
        assert found.encode().decode() == found
