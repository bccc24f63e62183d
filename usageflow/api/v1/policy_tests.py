"""/api/v1/policies/test: what policies make of a request, before anybody is billed by them.

Nothing is recorded, and no key server is asked. The variables that policies name for their secrets
come with the request: the server's own are nobody's business.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Response
from pydantic import Field, StringConstraints, ValidationError

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Instant, Number, answer
from usageflow.api.policy_bodies import PolicyText, read_file, refuse
from usageflow.api.rest import v1_router
from usageflow.catalog.policies import current
from usageflow.db.session import Tx
from usageflow.events import UsageEvent
from usageflow.middleware.rehearsal import rehearse
from usageflow.policies import PolicyFile, PolicySet, parse_document
from usageflow.policies.examples import Example, differences
from usageflow.policies.problems import explain
from usageflow.policies.surroundings import Surroundings

router = v1_router("policies")

EXAMPLES_MAX: Final = 200
FIELDS_MAX: Final = 100
"""Headers, metadata and variables of a request."""
CHUNKS_MAX: Final = 1_000

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Fields = Annotated[dict[str, str | list[str]], Field(max_length=FIELDS_MAX)]


class TriedRequest(Body):
    """An exchange, in the words of examples in a policy file (docs/policy-tests.md)."""

    request: Annotated[str, StringConstraints(max_length=8_192)] = Field(
        description="METHOD /path?query", examples=["POST /v1/chat"]
    )
    request_headers: Fields = Field(default_factory=dict)
    request_body: Text | None = None
    request_json: Any = None
    response_status: Annotated[int, Field(ge=100, le=599)] = 200
    response_headers: Fields = Field(default_factory=dict)
    response_body: Text | None = None
    response_json: Any = None
    response_chunks: Annotated[list[Text], Field(max_length=CHUNKS_MAX)] | None = None
    aborted: bool = False
    metadata: Annotated[dict[str, Any], Field(max_length=FIELDS_MAX)] = Field(default_factory=dict)
    at: Instant | None = None


class PolicyTest(Body):
    """What to try, and on which policies: those of a file, or else those in use."""

    toml: PolicyText | None = None
    request: TriedRequest | None = None
    environ: Annotated[dict[str, Text], Field(max_length=FIELDS_MAX)] = Field(
        default_factory=dict, description="Variables that policies name as env:NAME, for this test"
    )


class TriedEvent(Answer):
    """An event that the request would leave. `identity` and `quantity` are null if unknown."""

    policy: str
    metric: str
    field: str
    identity: str | None
    quantity: Number | None
    event_name: str | None
    state: Literal["counted", "inbox", "shadow", "skipped", "gap"]
    reason: str | None


class TriedExample(Answer):
    """An example of the file, and in which ways its events are not what it expects: none, it is
    as it should be.
    """

    name: str
    differences: list[str]


class PolicyTestOut(Answer):
    """What the policies made of it; no event: none of them counts such a request."""

    events: list[TriedEvent]
    examples: list[TriedExample]


@router.post("/policies/test", response_model=PolicyTestOut)
def try_policies(
    body: PolicyTest, access: Annotated[Access, needs("policies.write")], rest: RestDep
) -> Response:
    """Try a request, and the examples of the file."""
    tried = None if body.request is None else _example(body.request)
    with rest.db.reading() as tx:
        file = read_file(body.toml) if body.toml is not None else _in_use(tx, access)
        now = tx.now
    if len(file.examples) > EXAMPLES_MAX:
        refuse([("toml", f"has more than {EXAMPLES_MAX} examples; try them in parts")])
    policies = PolicySet.build(file.policies, Surroundings(environ=body.environ))
    events = [] if tried is None else rehearse(policies, tried, now=now)
    examples = [
        TriedExample(name=one.name, differences=differences(one, rehearse(policies, one, now=now)))
        for one in file.examples
    ]
    return answer(PolicyTestOut(events=[_event(one) for one in events], examples=examples))


def _in_use(tx: Tx, access: Access) -> PolicyFile:
    """As a file: what this release cannot read is left out, as edges do."""
    items = [
        {"version": version, "policy": msgspec.Raw(document.encode())}
        for document, version in current(tx, access.organization_id).items
    ]
    found = parse_document(msgspec.json.encode({"policies": items}))
    return PolicyFile(found.policies, found.problems)


def _example(request: TriedRequest) -> Example:
    """The exchange as an example that expects nothing. Raises RequestRefused, 422."""
    try:
        return Example.model_validate({**request.model_dump(), "name": "request", "expect": ()})
    except ValidationError as error:
        refuse([(f"request.{key}", text) for key, text in explain(error, Example)])


def _event(event: UsageEvent) -> TriedEvent:
    return TriedEvent(
        policy=event.policy,
        metric=event.metric,
        field=event.identity.field,
        identity=event.identity.value,
        quantity=event.quantity,
        event_name=event.event_name,
        state=event.state,
        reason=event.reason,
    )
