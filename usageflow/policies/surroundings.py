"""What an edge lends to its policies: environment variables, key sets, and how its app routes.

Policies are pure; whatever they need from the process is handed to them when a set is built.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from usageflow.policies.reason import Reason

if TYPE_CHECKING:
    from jwt import PyJWK  # loads cryptography, which only some policies need


class KeySets(Protocol):
    """The public keys behind JWKS URLs. Never waits: a key is there, or there is a reason."""

    def find(self, url: str, kid: str | None) -> "PyJWK | Reason":
        """The key of this id in the set at `url`; a `kid` of None is the set's only key."""

    def generation(self, url: str) -> int:
        """Changes whenever the keys at `url` do, so that what was verified can be forgotten."""


class NoKeySets:
    """Where no key server can be asked, as in a check of a policy file."""

    def find(self, url: str, kid: str | None) -> "PyJWK | Reason":  # noqa: ARG002 - see KeySets
        """See KeySets."""
        return Reason(f"the keys at {url} are not loaded")

    def generation(self, url: str) -> int:  # noqa: ARG002 - see KeySets
        """See KeySets."""
        return 0


class Surroundings(NamedTuple):
    """`environ` holds the variables that secrets may name; `path_rules` what the app ignores in
    paths (see `paths`); `tokens_max` bounds the verified tokens remembered per source.
    """

    environ: Mapping[str, str] = {}
    keys: KeySets = NoKeySets()
    path_rules: frozenset[str] = frozenset()
    tokens_max: int = 10_000
