"""What a quantity may take: the parts of its document, and the check of its text.

Checks at save time what would fail for every request. Evaluates nothing.
"""

from typing import Final

from usageflow.policies.expressions import Expression
from usageflow.policies.suggestions import did_you_mean

PARTS: Final = {
    "request": ("method", "path", "headers", "query", "params", "body", "bytes"),
    "response": ("status", "headers", "body", "bytes", "duration_ms"),
    "websocket": (
        "messages",
        "messages_in",
        "messages_out",
        "bytes",
        "bytes_in",
        "bytes_out",
        "seconds",
        "received",
        "sent",
    ),
}
"""What a quantity expression may take, by section of the document it is evaluated on."""


def quantity_expression(text: str) -> str:
    """`text`, if it is an expression over the document; raises ValueError with what is wrong."""
    for section, part in Expression(text).mentions:
        _check_mention(section, part)
    return text


def _check_mention(section: str | None, part: str | None) -> None:
    if section is None:
        return
    if section not in PARTS:
        raise ValueError(f'"{section}" is none of {", ".join(PARTS)}{did_you_mean(section, PARTS)}')
    if part is not None and part not in PARTS[section]:
        raise ValueError(
            f"{section}.{part} does not exist; {section} has {', '.join(PARTS[section])}"
        )
