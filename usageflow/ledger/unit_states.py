"""The states of a unit: every step there is, as a table. Who takes which step is said there."""

from collections.abc import Mapping
from typing import Final

from usageflow.db.tables import UnitRow

TRANSITIONS: Final[Mapping[tuple[str, str], str]] = {
    ("open", "seal"): "sealed",
    # `units`: on the way
    ("sealed", "send"): "sending",
    ("ambiguous", "send"): "sending",
    ("parked", "send"): "sending",
    ("sending", "accept"): "accepted",
    ("sending", "refuse"): "quarantined",
    ("sending", "postpone"): "sealed",
    ("sending", "lose"): "ambiguous",
    ("sending", "park"): "parked",
    ("sending", "hold"): "held",
    ("sealed", "hold"): "held",
    ("parked", "hold"): "held",
    # `resolution`: by reconciliation, by an error report of Stripe's, or by a person
    ("accepted", "settle"): "settled",
    ("ambiguous", "settle"): "settled",
    ("held", "settle"): "settled",
    ("quarantined", "settle"): "settled",
    ("ambiguous", "hold"): "held",
    ("accepted", "reject"): "quarantined",
    ("settled", "reject"): "quarantined",
    ("quarantined", "seal"): "sealed",
    ("held", "seal"): "sealed",
    ("accepted", "reissue"): "reissued",
    ("settled", "reissue"): "reissued",
    ("ambiguous", "reissue"): "reissued",
    ("quarantined", "reissue"): "reissued",
    ("held", "reissue"): "reissued",
    ("parked", "write_off"): "written_off",
    ("quarantined", "write_off"): "written_off",
    ("held", "write_off"): "written_off",
}
"""(state, what happens) -> state.

`seal` after a refusal: Stripe never took the unit, so it may go out as it is. `reissue`: another
unit carries its quantity, because its identifier is used up. `settle`: Stripe was seen to have it;
only Stripe's own word that it dropped the unit ends that.
"""


def following(state: str, trigger: str) -> str:
    """The next state. KeyError for a step that does not exist: our mistake."""
    return TRANSITIONS[state, trigger]


def advance(unit: UnitRow, trigger: str) -> None:
    """Bring a unit to its next state. KeyError as above."""
    unit.state = following(unit.state, trigger)
