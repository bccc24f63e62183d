"""The examples kept beside policies: an exchange as a person writes it, and what it must leave.

Says in words how events differ from what was expected. Runs nothing: an example is driven by
`usageflow.middleware.rehearsal`.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, AwareDatetime, Field, PlainValidator, model_validator

from usageflow.events import UsageEvent
from usageflow.policies.models import Policy
from usageflow.policies.routes import parse_route
from usageflow.policies.shapes import Model, Name

_BODIES: Final = (
    ("request_body", "request_json"),
    ("response_body", "response_json", "response_chunks"),
)
"""The ways to write one body; an example takes at most one of each line."""


def _request_line(text: str) -> str:
    method, space, target = text.partition(" ")
    if not (space and target.startswith("/")) or " " in target:
        raise ValueError(f'"{text}" is not METHOD /path, such as POST /v1/chat?x=1')
    methods = parse_route(f"{method} /").methods
    if methods is None or "," in method or "WEBSOCKET" in methods:
        raise ValueError(f'"{method}" is not the method of one HTTP request')
    return text


def _header_fields(table: object) -> tuple[tuple[str, str], ...]:
    """A table of texts, or of lists of texts, as pairs: a list is a repeated header."""
    pairs: list[tuple[str, Any]] = [
        (name.lower(), text)
        for name, values in (table.items() if isinstance(table, dict) else [("", None)])
        for text in (values if isinstance(values, list) else [values])
    ]
    if not all(isinstance(text, str) for _, text in pairs):
        raise ValueError('must be a table of texts or lists of texts: { x-account-id = "a1" }')
    return tuple(pairs)


HeaderFields: TypeAlias = Annotated[tuple[tuple[str, str], ...], PlainValidator(_header_fields)]
"""Header fields in order, names in lower case."""


class Expectation(Model):
    """An event of `policy`; what is not said may be anything. `reason` is a part of the event's."""

    policy: Name
    metric: str | None = None
    identity: str | None = None
    quantity: Decimal | None = None
    state: Literal["counted", "inbox", "shadow", "skipped"] = "counted"
    reason: str | None = None


class Example(Model):
    """A request, its response, and all events they must leave; an empty `expect` is none.

    - `request`: `METHOD /path?query`, percent-encoded as a client sends it
    - `request_body`, `response_body`: texts; `request_json`, `response_json`: JSON, written as TOML
    - `response_chunks`: the texts of a stream, by default of server-sent events
    - `aborted`: the response breaks off after what is written here
    - `metadata`: what the app has set for this request
    - `at`: when the request began, which decides whether a token is valid; None is now
    """

    name: Name
    request: Annotated[str, AfterValidator(_request_line)]
    request_headers: HeaderFields = ()
    request_body: str | None = None
    request_json: Any = None
    response_status: Annotated[int, Field(ge=100, le=599)] = 200
    response_headers: HeaderFields = ()
    response_body: str | None = None
    response_json: Any = None
    response_chunks: tuple[str, ...] | None = None
    aborted: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)
    at: AwareDatetime | None = None
    expect: tuple[Expectation, ...]

    @model_validator(mode="after")
    def _one_body_each(self) -> Self:
        for ways in _BODIES:
            written = [name for name in ways if getattr(self, name) is not None]
            if len(written) > 1:
                raise ValueError(f"{' and '.join(written)}: one body is written in one way")
        return self


def differences(example: Example, events: Sequence[UsageEvent]) -> list[str]:
    """One line for each way in which the events are not what the example expects."""
    left = {event.policy: event for event in events}
    lines = []
    for expected in example.expect:
        event = left.pop(expected.policy, None)
        if event is None:
            lines.append(f'policy "{expected.policy}": expected an event, got none')
        else:
            lines += [f'policy "{expected.policy}": {text}' for text in _unlike(expected, event)]
    lines += [f'policy "{name}": expected no event, got {_told(e)}' for name, e in left.items()]
    return lines


def without_example(policies: Iterable[Policy], examples: Sequence[Example]) -> list[str]:
    """The names of the policies that no example expects an event of; one that is off has none."""
    shown = {expected.policy for example in examples for expected in example.expect}
    return [each.name for each in policies if each.mode != "off" and each.name not in shown]


def _unlike(expected: Expectation, event: UsageEvent) -> list[str]:
    """What the event has otherwise. The event's reason is told once, where it explains most."""
    if expected.state != event.state:
        return [f"expected {expected.state}, got {_told(event)}"]
    got = {"metric": event.metric, "identity": event.identity.value, "quantity": event.quantity}
    wrong = [
        f"{name}: expected {getattr(expected, name)}, got {'none' if value is None else value}"
        for name, value in got.items()
        if getattr(expected, name) not in (None, value)
    ]
    if expected.reason is not None and expected.reason not in (event.reason or ""):
        wrong.append(f'reason: expected "{expected.reason}", got "{event.reason or ""}"')
    return wrong


def _told(event: UsageEvent) -> str:
    """The event in a few words: `counted 42 AI_TOKEN of acct_1 (aborted: ...)`."""
    quantity = "?" if event.quantity is None else f"{event.quantity:f}"
    reason = f" ({event.reason})" if event.reason else ""
    return f"{event.state} {quantity} {event.metric} of {event.identity.value or '?'}{reason}"
