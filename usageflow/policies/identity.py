"""Whose a request is: the sources of a policy, compiled to functions of the facts.

A source yields exactly what was sent, normalised only as it declares, or a Reason; it never guesses
between two values, and never makes one up from a boolean or a list. Does not know customers: a
value is not a customer yet.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias, assert_never

from usageflow.policies import request_fields
from usageflow.policies.api_keys import compile_owner
from usageflow.policies.expressions import Expression
from usageflow.policies.facts import Facts, budget_of, request_json
from usageflow.policies.identity_values import checked, normalizer, text_of
from usageflow.policies.models import Policy
from usageflow.policies.reason import Reason
from usageflow.policies.request_fields import Finder
from usageflow.policies.routes import Template
from usageflow.policies.sources import (
    ApiKeySource,
    BodySource,
    CookieSource,
    HeaderSource,
    JwtSource,
    MetadataSource,
    PathSource,
    QuerySource,
    Source,
)
from usageflow.policies.surroundings import Surroundings

if TYPE_CHECKING:
    from usageflow.policies.tokens import TokenVerifier

IdentityReader: TypeAlias = Callable[[Facts, Sequence[str]], str | Reason]
"""Takes the facts and the segments of the matched path."""
Verifiers: TypeAlias = dict[JwtSource, "TokenVerifier"]
"""The verifiers of one policy set: equal sources share what they have verified."""

_BEARER = "bearer "


def compile_identity(
    sources: Sequence[Source],
    template: Template,
    surroundings: Surroundings = Surroundings(),  # noqa: B008 - immutable
    verifiers: Verifiers | None = None,
) -> IdentityReader:
    """The first source that yields a value wins; if none does, one Reason names them all.

    `verifiers` is filled with those that are missing; pass the same one for a whole policy set.
    """
    verifiers = {} if verifiers is None else verifiers
    readers = [compile_source(source, template, surroundings, verifiers) for source in sources]
    if len(readers) == 1:
        return _only(readers[0])

    def read(facts: Facts, segments: Sequence[str]) -> str | Reason:
        reasons = []
        for reader in readers:
            value = reader(facts, segments)
            if not isinstance(value, Reason):
                return value
            reasons.append(value.text)
        return Reason(f"no identity: {'; '.join(reasons)}")

    return read


def surroundings_problems(policy: Policy, surroundings: Surroundings) -> list[str]:
    """What this edge lacks for the policy's sources, such as a secret: one line for each.

    Such a source yields no identity, and the policy stays in force: its requests go to the inbox.
    """
    problems = []
    for number, source in enumerate(policy.identify, start=1):
        problem: object = None
        if isinstance(source, JwtSource):
            problem = _verifier(source, surroundings).problem
        elif isinstance(source, ApiKeySource):
            problem = compile_owner(source, surroundings.environ)
        if isinstance(problem, Reason):
            problems.append(f"identify[{number}]: {problem.text}")
    return problems


def key_servers(policies: Iterable[Policy]) -> frozenset[str]:
    """The URLs whose keys these policies verify tokens with; those that are off need none."""
    return frozenset(
        source.keys
        for policy in policies
        if policy.mode != "off"
        for source in policy.identify
        if isinstance(source, JwtSource) and source.keys is not None
    )


def _only(reader: IdentityReader) -> IdentityReader:
    """The usual case, without a loop."""

    def read(facts: Facts, segments: Sequence[str]) -> str | Reason:
        value = reader(facts, segments)
        return Reason(f"no identity: {value.text}") if isinstance(value, Reason) else value

    return read


def compile_source(
    source: Source, template: Template, surroundings: Surroundings, verifiers: Verifiers
) -> IdentityReader:
    """One source as a function."""
    normal = normalizer(source.normalize)
    match source:
        case HeaderSource():
            return _sent(request_fields.header(source.name), f"header {source.name}", normal)
        case QuerySource():
            return _sent(request_fields.query(source.name), f"query {source.name}", normal)
        case CookieSource():
            return _sent(request_fields.cookie(source.name), f"cookie {source.name}", normal)
        case PathSource():
            return _path(source.name, template, normal)
        case BodySource():
            return _body(source.path, normal)
        case ApiKeySource():
            return _api_key(source, surroundings, normal)
        case JwtSource():
            if source not in verifiers:
                verifiers[source] = _verifier(source, surroundings)
            return _jwt(source, verifiers[source], normal)
        case MetadataSource():
            return _metadata(source, normal)
        case _:
            assert_never(source)


Normal: TypeAlias = Callable[[str], str]


def _sent(find: Finder, label: str, normal: Normal) -> IdentityReader:
    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        value = find(facts)
        return value if isinstance(value, Reason) else checked(normal(value), label)

    return read


def _path(name: str, template: Template, normal: Normal) -> IdentityReader:
    label = f"path {name}"

    def read(_: Facts, segments: Sequence[str]) -> str | Reason:
        return checked(normal(template.value(name, segments)), label)

    return read


def _body(path: str, normal: Normal) -> IdentityReader:
    expression = Expression(path)
    label = f"request body {path}"

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        document = request_json(facts)
        if isinstance(document, Reason):
            return document
        return _known(expression.search(document, budget_of(facts)), label, normal)

    return read


def _known(value: object, label: str, normal: Normal) -> str | Reason:
    """A value of any type as an identity."""
    if isinstance(value, Reason):
        return Reason(f"{label}: {value.text}")
    text = text_of(value, label)
    return text if isinstance(text, Reason) else checked(normal(text), label)


def _api_key(source: ApiKeySource, surroundings: Surroundings, normal: Normal) -> IdentityReader:
    find, label = _place(source.header, source.query, source.cookie)
    scheme = None if source.scheme is None else f"{source.scheme.lower()} "
    owner = compile_owner(source, surroundings.environ)
    if isinstance(owner, Reason):
        return _never(f"{label}: {owner.text}")

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        sent = find(facts)
        if isinstance(sent, Reason):
            return sent
        key = sent if scheme is None else _without(scheme, sent)
        if key is None:
            return Reason(f"{label} does not begin with {source.scheme}")
        found = owner(normal(key))
        return Reason(f"{label}: {found.text}") if isinstance(found, Reason) else found

    return read


def _verifier(source: JwtSource, surroundings: Surroundings) -> "TokenVerifier":
    # PyJWT and cryptography take 0.1 s to load: only who has tokens pays for them.
    from usageflow.policies.tokens import TokenVerifier  # noqa: PLC0415 - see above

    return TokenVerifier(source, surroundings)


def _jwt(source: JwtSource, verifier: "TokenVerifier", normal: Normal) -> IdentityReader:
    header = source.header or ("authorization" if source.cookie is None else None)
    find, label = _place(header, None, source.cookie)

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        sent = find(facts)
        if isinstance(sent, Reason):
            return sent
        token = _without(_BEARER, sent) or sent
        value = verifier.identify(token, facts.started_at_s)
        if isinstance(value, Reason):
            return Reason(f"{label}: {value.text}")
        return checked(normal(value), label)

    return read


def _without(scheme: str, sent: str) -> str | None:
    """What comes after an authentication scheme (RFC 9110, section 11.4); None: it is another."""
    if sent[: len(scheme)].lower() != scheme:
        return None
    return sent[len(scheme) :].strip(" ")


def _metadata(source: MetadataSource, normal: Normal) -> IdentityReader:
    if source.value is not None:
        fixed = source.value
        return lambda *_: fixed
    if source.header is not None:
        return _table(source.header, dict(source.table), normal)
    assert source.name is not None  # noqa: S101 - the model has one of the three
    return _set_by_app(source.name, normal)


def _set_by_app(name: str, normal: Normal) -> IdentityReader:
    label = f"metadata {name}"

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        return _known(facts.metadata(name), label, normal)

    return read


def _table(name: str, table: dict[str, str], normal: Normal) -> IdentityReader:
    find, label = _place(name, None, None)

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        sent = find(facts)
        if isinstance(sent, Reason):
            return sent
        return table.get(normal(sent)) or Reason(f"{label} is in no row of the policy's table")

    return read


def _place(header: str | None, query: str | None, cookie: str | None) -> tuple[Finder, str]:
    """Where a credential is sent, and what that is called; one of the three is given."""
    if header is not None:
        return request_fields.header(header), f"header {header}"
    if query is not None:
        return request_fields.query(query), f"query {query}"
    assert cookie is not None  # noqa: S101 - see above
    return request_fields.cookie(cookie), f"cookie {cookie}"


def _never(text: str) -> IdentityReader:
    reason = Reason(text)
    return lambda *_: reason
