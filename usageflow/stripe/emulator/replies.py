"""Replies in Stripe's shape: the object itself, or `{"error": {type, code?, message, param?}}`.

Every handler of the emulator returns a `Reply`; nothing here knows HTTP beyond status and headers.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What the emulator answers: a status, a JSON object and extra headers."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def ok(body: dict[str, Any]) -> Reply:
    """The call took effect."""
    return Reply(200, body)


def error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    doc_url: str | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """A refusal. What is absent is left out, as Stripe leaves them out."""
    fields = {"type": kind, "code": code, "message": message, "param": param, "doc_url": doc_url}
    body = {"error": {name: value for name, value in fields.items() if value is not None}}
    return Reply(status, body, headers or {})


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> Reply:
    """400: the request cannot be right, whoever sends it again."""
    return error(400, message, param=param, code=code)


def missing(noun: str, object_id: str) -> Reply:
    """404 with Stripe's code `resource_missing`."""
    return error(404, f"No such {noun}: '{object_id}'", code="resource_missing", param="id")
