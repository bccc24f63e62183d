"""Every exception UsageFlow raises, by who is at fault.

UsageFlowError
├── ConfigurationError      the operator's settings or arguments
│   └── PolicyFileError     a policy file that cannot be read; carries every problem with its place
├── EventError              a line that is not a usage event
├── SpoolError              the spool cannot take or give events now (disk full, I/O error)
│   └── SpoolDamaged        the spool's content is not what was written
├── DeliveryError           the ledger did not take a batch; the events stay in the spool
├── DatabaseError           the database is locked, unreachable or of another version
├── RequestRefused          a request to the API that is not done; carries its answer
└── UpstreamError           the proxied API could not answer
    ├── UpstreamUnreachable     no connection, or it broke (502)
    └── UpstreamTimeout         no answer in time (504)

Expected outcomes (no policy, no customer, a duplicate) are values, not exceptions. No other module
defines exceptions.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class UsageFlowError(Exception):
    """Something UsageFlow can explain to a person."""

    code = "error"


class ConfigurationError(UsageFlowError):
    """A setting or an argument is missing or wrong; the message names it and says what to do."""

    code = "configuration"


class PolicyFileError(ConfigurationError):
    """A policy file has problems. `problems` holds one line for each, with its place."""

    code = "policy_file"

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class EventError(UsageFlowError):
    """These bytes are not a usage event; the message says why."""

    code = "invalid_event"


class SpoolError(UsageFlowError):
    """The spool cannot be written or read at the moment; nothing that was acknowledged is lost."""

    code = "spool"


class SpoolDamaged(SpoolError):  # noqa: N818 - the state, not the act, is what happened
    """The spool's content is not what was written."""

    code = "spool_damaged"


class DeliveryError(UsageFlowError):
    """The ledger did not take a batch.

    `retry_after_s` is its own wish, if it told one; `refused` needs a person to mend it;
    `too_large` means that a smaller batch may be taken.
    """

    code = "delivery"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        refused: bool = False,
        too_large: bool = False,
    ) -> None:
        self.retry_after_s = retry_after_s
        self.refused = refused
        self.too_large = too_large
        super().__init__(message)


class DatabaseError(UsageFlowError):
    """The database is in use by another server, unreachable, or of another version."""

    code = "database"


class RequestRefused(UsageFlowError):  # noqa: N818 - see SpoolDamaged
    """A request to the API is answered with `status` before, or instead of, being done.

    `fields` are (field, message) of what is wrong in it. What its transaction did is undone.
    """

    code = "request_refused"

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        fields: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.headers = headers
        self.fields = fields
        super().__init__(message)


class UpstreamError(UsageFlowError):
    """The proxied API could not answer."""

    code = "upstream_invalid"
    status = 502


class UpstreamUnreachable(UpstreamError):  # noqa: N818 - see SpoolDamaged
    """No connection to the upstream, or it broke before its answer began."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):  # noqa: N818 - see SpoolDamaged
    """The upstream did not answer in time."""

    code = "upstream_timeout"
    status = 504
