"""Policies as a request has them: the text of a policy file, or a list of JSON objects.

Every mistake is told, with its place, and nothing is taken of what has one.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple, NoReturn

from pydantic import Field, StringConstraints, ValidationError

from usageflow.api.exact_json import Body
from usageflow.errors import PolicyFileError, RequestRefused
from usageflow.policies import Metric, Policy, PolicyFile, parse_file
from usageflow.policies.claims import Claims
from usageflow.policies.problems import explain

SOURCE: Final = "toml"
"""What a policy file is called in messages: the field it is sent in."""
TEXT_CHARS_MAX: Final = 1_000_000
"""Longest policy file; a body has 1 MiB at most, unless the server is told otherwise."""
POLICIES_MAX: Final = 1_000
"""Policies in one body: several for each endpoint of a large API."""
PROBLEMS_MAX: Final = 100
"""Mistakes that one answer tells: more than anybody mends at once."""

PolicyText = Annotated[str, StringConstraints(max_length=TEXT_CHARS_MAX)]
Problem = tuple[str, str]
"""Where, and what is wrong there."""


class PolicySetBody(Body):
    """All policies, written in one of two ways."""

    toml: PolicyText | None = Field(default=None, description="A policy file")
    policies: Annotated[list[dict[str, Any]], Field(max_length=POLICIES_MAX)] | None = Field(
        default=None, description="The same as JSON: what GET has as `policy`"
    )


class Wanted(NamedTuple):
    """Policies without a mistake, and the metrics that are declared with them."""

    policies: Sequence[Policy]
    metrics: Sequence[Metric]


def wanted(body: PolicySetBody) -> Wanted:
    """What the body says. Raises RequestRefused, 422, with every mistake and its place."""
    if body.toml is not None and body.policies is None:
        file = read_file(body.toml)
        return Wanted([policy for policy, _ in file.policies], file.metrics)
    if body.policies is not None and body.toml is None:
        return Wanted(_read_list(body.policies), ())
    return refuse([(SOURCE, "send toml or policies, one of the two")])


def read_file(text: str) -> PolicyFile:
    """A policy file without a mistake. Raises RequestRefused, 422, with every mistake."""
    try:
        file = parse_file(text, SOURCE)
    except PolicyFileError as error:
        refuse([_placed(line) for line in error.problems])
    if file.problems:
        refuse([_placed(line) for line in file.problems])
    return file


def refuse(problems: Sequence[Problem]) -> NoReturn:
    """Raises RequestRefused, 422, with what is wrong and where."""
    message = ": ".join(problems[0])
    raise RequestRefused(422, "invalid", message, fields=problems[:PROBLEMS_MAX])


def _read_list(documents: Sequence[dict[str, Any]]) -> list[Policy]:
    policies, claims = [], Claims()
    problems: list[Problem] = []
    for number, document in enumerate(documents):
        place = f"policies.{number}"
        try:
            policy = Policy.model_validate(document)
        except ValidationError as error:
            problems += [(place, text) for _, text in explain(error, Policy)]
            continue
        if claimed := claims.make(policy):
            problems.append((place, ": ".join(claimed)))
        policies.append(policy)
    if problems:
        refuse(problems)
    return policies


def _placed(line: str) -> Problem:
    """`toml:3: policy "chat" (#1): ...` as the place and what is wrong there."""
    place, _, text = line.partition(": ")
    return place, text
