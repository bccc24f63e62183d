"""Conditions of a policy beside its route: the host, headers and query parameters of the request.

A condition narrows what a policy matches; it never identifies anybody. Where occurrences of one
header or parameter disagree, whether it is met is unclear, and the policy set decides. Pure.
"""

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, ValidationInfo

from usageflow._types import Headers
from usageflow.policies.query import query_pairs
from usageflow.policies.reason import Reason
from usageflow.policies.shapes import NAME_CHARS_MAX

FIELDS_MAX: Final = 20
"""Headers, or parameters, one policy may ask for; each is sought in every request it concerns."""
VALUES_MAX: Final = 100
"""Values, or hosts, of one condition; they are kept in memory and sent to every edge."""
PRESENT: Final = "*"
"""The value that any value meets."""

_LABELS = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]*")

Fields: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""Names with the values that meet the condition, sorted: a table could not be hashed."""
Condition: TypeAlias = Callable[[Headers, bytes], bool | None]
"""Asks the request's headers and query string; None: it cannot be told whether it is met."""


def compile_conditions(hosts: tuple[str, ...], header: Fields, query: Fields) -> Condition | None:
    """One question for all conditions; None if there are none. All must be met."""
    questions = [_header_condition(name, values) for name, values in header]
    if hosts:
        questions.append(_host_condition(hosts))
    if query:
        questions.append(_query_condition(query))
    if len(questions) <= 1:
        return questions[0] if questions else None

    def met(headers: Headers, query_string: bytes) -> bool | None:
        answers = [question(headers, query_string) for question in questions]
        return False if False in answers else None if None in answers else True

    return met


def specificity(hosts: tuple[str, ...], header: Fields, query: Fields) -> int:
    """How many conditions there are: of policies for one template, more are asked first."""
    return bool(hosts) + len(header) + len(query)


def _host_condition(hosts: tuple[str, ...]) -> Condition:
    names = frozenset(hosts)
    below = tuple(host[1:] for host in hosts if host.startswith("*."))

    def met(headers: Headers, _: bytes) -> bool | None:
        return _agreed(
            name in names or name.endswith(below)
            for name in (_host_name(v.decode("latin-1")) for k, v in headers if k == b"host")
        )

    return met


def _agreed(answers: Iterable[bool]) -> bool | None:
    """What all occurrences say; None if they say different things, False if there are none."""
    said = set(answers)
    return None if len(said) > 1 else True in said


def _host_name(value: str) -> str:
    """The host without its port, in one spelling (RFC 9110, section 4.2.3; RFC 3986, 3.2.2)."""
    name = value.strip().lower()
    if name.startswith("["):
        return _address(name[1:].partition("]")[0]) or name
    return name.partition(":")[0].removesuffix(".")


def _address(text: str) -> str | None:
    try:
        return ip_address(text).compressed
    except ValueError:
        return None


def _header_condition(name: str, values: tuple[str, ...]) -> Condition:
    wanted = name.encode()
    accepted = frozenset(value.encode() for value in values)
    present = PRESENT in values

    def met(headers: Headers, _: bytes) -> bool | None:
        return _agreed(
            present or value.strip(b" \t") in accepted for key, value in headers if key == wanted
        )

    return met


def _query_condition(query: Fields) -> Condition:
    def met(_: Headers, query_string: bytes) -> bool | None:
        found = query_pairs(query_string)
        if isinstance(found, Reason):
            return None  # it is not read, and its length must not be a way past a policy
        answers = [
            _agreed(PRESENT in values or value in values for key, value in found if key == name)
            for name, values in query
        ]
        return False if False in answers else None if None in answers else True

    return met


def _hosts(value: object) -> tuple[str, ...]:
    return tuple(sorted({_host(text) for text in _texts(value)}))


def _host(text: str) -> str:
    name = text.lower().removesuffix(".")
    address = _address(name.removeprefix("[").removesuffix("]"))
    if address is None and not _LABELS.fullmatch(name):
        raise ValueError(
            f"{text!r} is not a host: write a name without scheme and port, such as "
            "api.example.com or *.example.com"
        )
    return address or name


def _fields(value: object, info: ValidationInfo) -> Fields:
    """The table in one order and spelling, so that equal conditions are equal."""
    if not isinstance(value, dict):
        raise ValueError('must be a table such as { name = "value" }')  # noqa: TRY004 - pydantic's
    if len(value) > FIELDS_MAX:
        raise ValueError(f"has {len(value)} entries; at most {FIELDS_MAX} are allowed")
    in_header = info.field_name == "header"
    check = _check_header if in_header else _check_parameter
    fields: dict[str, tuple[str, ...]] = {}
    for said, values in value.items():
        name = said.lower() if in_header else said
        try:
            texts = _texts(values)
            check(name, texts)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if name in fields:
            raise ValueError(f"{name}: occurs twice; upper and lower case do not count")
        fields[name] = tuple(sorted(set(texts)))
    return tuple(sorted(fields.items()))


def _check_header(name: str, values: tuple[str, ...]) -> None:
    if not _HEADER.fullmatch(name):
        raise ValueError("is not the name of a header")
    for value in values:
        if not (value.isascii() and value.isprintable()):
            raise ValueError("a value holds printable ASCII only")
        if value != value.strip():
            raise ValueError("a value holds no white space around it")
    _check_parameter(name, values)


def _check_parameter(name: str, values: tuple[str, ...]) -> None:
    if not values:
        raise ValueError('has no value; write "*" for any')
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise ValueError(f"a name has 1 to {NAME_CHARS_MAX} characters")


def _texts(value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError("must be a text or a list of texts")
    if len(texts) > VALUES_MAX:
        raise ValueError(f"has {len(texts)} entries; at most {VALUES_MAX} are allowed")
    return tuple(texts)


Hosts: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
"""Host names in lower case; `*.example.com` is any name below it."""
FieldConditions: TypeAlias = Annotated[Fields, PlainValidator(_fields), PlainSerializer(dict)]
"""A table of names with the values that meet the condition; names of headers in lower case."""
