"""Whose a request is: the sources of a policy, compiled to functions of the facts.

A source yields exactly what was sent, or a Reason; it never guesses between two values, and never
makes one up from a boolean or a list. Does not know customers: a value is not a customer yet.
"""

import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeAlias, assert_never

from usageflow._types import JSON
from usageflow.events import IDENTITY_CHARS_MAX
from usageflow.policies.expressions import Expression
from usageflow.policies.facts import Facts, request_json
from usageflow.policies.query import query_pairs
from usageflow.policies.reason import Reason
from usageflow.policies.routes import Template
from usageflow.policies.sources import BodySource, HeaderSource, PathSource, QuerySource, Source

IdentityReader: TypeAlias = Callable[[Facts, Sequence[str]], str | Reason]
"""Takes the facts and the segments of the matched path."""


def compile_identity(sources: Sequence[Source], template: Template) -> IdentityReader:
    """The first source that yields a value wins; if none does, one Reason names them all."""
    readers = [compile_source(source, template) for source in sources]
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


def _only(reader: IdentityReader) -> IdentityReader:
    """The usual case, without a loop."""

    def read(facts: Facts, segments: Sequence[str]) -> str | Reason:
        value = reader(facts, segments)
        return Reason(f"no identity: {value.text}") if isinstance(value, Reason) else value

    return read


def compile_source(source: Source, template: Template) -> IdentityReader:
    """One source as a function."""
    match source:
        case HeaderSource():
            return _header(source.name)
        case QuerySource():
            return _query(source.name)
        case PathSource():
            return _path(source.name, template)
        case BodySource():
            return _body(source.path)
        case _:
            assert_never(source)


def _header(name: str) -> IdentityReader:
    wanted = name.encode()
    label = f"header {name}"

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        found: bytes | None = None
        for key, value in facts.request_headers:
            if key == wanted:
                if found is not None and value != found:
                    return Reason(f"{label} occurs with different values")
                found = value
        if found is None:
            return Reason(f"{label} is absent")
        return _checked(_decoded(found), label)

    return read


def _decoded(value: bytes) -> str:
    """RFC 9110, section 5.5: bytes beyond ASCII are opaque; most clients mean UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _query(name: str) -> IdentityReader:
    label = f"query {name}"

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        found = {value for key, value in query_pairs(facts.query_string) if key == name}
        if not found:
            return Reason(f"{label} is absent")
        if len(found) > 1:
            return Reason(f"{label} occurs with different values")
        return _checked(found.pop(), label)

    return read


def _path(name: str, template: Template) -> IdentityReader:
    label = f"path {name}"

    def read(_: Facts, segments: Sequence[str]) -> str | Reason:
        return _checked(template.value(name, segments), label)

    return read


def _body(path: str) -> IdentityReader:
    expression = Expression(path)
    label = f"request body {path}"

    def read(facts: Facts, _: Sequence[str]) -> str | Reason:
        document = request_json(facts)
        if isinstance(document, Reason):
            return document
        value = expression.search(document)
        return (
            Reason(f"{label}: {value.text}") if isinstance(value, Reason) else _text(value, label)
        )

    return read


def _text(value: JSON, label: str) -> str | Reason:
    """A JSON text or number as an identity; a number in plain notation, exactly as it was sent."""
    if isinstance(value, str):
        return _checked(value, label)
    if value is None:
        return Reason(f"{label} is missing")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return Reason(f"{label} is neither text nor a number")
    number = Decimal(value)
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or len(digits) + abs(exponent) > IDENTITY_CHARS_MAX:
        return Reason(f"{label} has more than {IDENTITY_CHARS_MAX} digits")
    return f"{number:f}"


def _checked(value: str, label: str) -> str | Reason:
    if not value:
        return Reason(f"{label} is empty")
    if len(value) > IDENTITY_CHARS_MAX:
        return Reason(f"{label} has {len(value)} characters; at most {IDENTITY_CHARS_MAX}")
    if not value.isprintable():  # fast; the categories decide what is harmless white space
        categories = set(map(unicodedata.category, value))
        if "Cs" in categories:
            return Reason(f"{label} is not valid Unicode text")
        if "Cc" in categories:
            return Reason(f"{label} contains control characters")
    return value
