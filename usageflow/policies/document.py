"""The JSON document of policies: what the server sends to an edge and the edge keeps on disk.

    {"policies": [{"version": "3", "policy": {"name": "chat", ...}}]}

Numbers are exact in both directions. Knows no transport and no file.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from pydantic import ValidationError

from usageflow._types import JSON
from usageflow.errors import PolicyFileError
from usageflow.policies.json_text import decode_json
from usageflow.policies.models import Policy
from usageflow.policies.problems import explain, title
from usageflow.policies.reason import Reason

VERSION_CHARS_MAX: Final = 100
"""Longest version of a policy; it is recorded in each event."""

_encoder = msgspec.json.Encoder(decimal_format="number", order="sorted")


class PolicyDocument(NamedTuple):
    """The valid policies with their versions, and one line for each that was left out."""

    policies: tuple[tuple[Policy, str], ...]
    problems: tuple[str, ...]


def canonical(policy: Policy) -> bytes:
    """The one JSON text of this policy; what equals its default is left out."""
    return _encoder.encode(policy.model_dump(by_alias=True, exclude_defaults=True))


def to_json(policies: Iterable[tuple[Policy, str]]) -> bytes:
    """The document for these policies with their versions."""
    items = [
        {"version": version, "policy": msgspec.Raw(canonical(policy))}
        for policy, version in policies
    ]
    return _encoder.encode({"policies": items})


def from_json(data: bytes, source: str = "policies") -> PolicyDocument:
    """Read a document. A policy that this release cannot read is left out and reported.

    Raises PolicyFileError if it is no policy document at all.
    """
    document = decode_json(data, "the document")
    if isinstance(document, Reason):
        raise PolicyFileError(source, [f"{source}: {document.text}"])
    items = document.get("policies") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise PolicyFileError(source, [f'{source}: not a policy document: no list "policies"'])
    policies: list[tuple[Policy, str]] = []
    problems: list[str] = []
    for number, item in enumerate(items, start=1):
        read = _read(item)
        if isinstance(read, tuple):
            policies.append(read)
        else:
            problems += [f"{source}: {_title(item, number)}: {problem}" for problem in read]
    return PolicyDocument(tuple(policies), tuple(problems))


def _read(item: JSON) -> tuple[Policy, str] | list[str]:
    if not isinstance(item, dict) or not isinstance(item.get("policy"), dict):
        return ['not an object with "version" and "policy"']
    version = item.get("version")
    if not isinstance(version, str) or not 1 <= len(version) <= VERSION_CHARS_MAX:
        return [f"version: must be a text of 1 to {VERSION_CHARS_MAX} characters"]
    try:
        return Policy.model_validate(item["policy"]), version
    except ValidationError as error:
        return [text for _, text in explain(error, Policy)]


def _title(item: JSON, number: int) -> str:
    return title(item.get("policy") if isinstance(item, dict) else None, number)
