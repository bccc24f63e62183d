"""The audit log: who changed what, when, and what it was before. Rows are never changed."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from usageflow.db.session import Tx
from usageflow.db.tables import AuditRow

CLI: Final = "command line"
"""The actor of what is done by a command: whoever may use the database."""
SYSTEM: Final = "system"
"""The actor of what UsageFlow does by itself."""


def record(
    tx: Tx,
    organization_id: str,
    *,
    actor: str,
    action: str,
    subject: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Note a change, in its transaction. `before` and `after` become JSON; no secrets in them."""
    tx.session.add(
        AuditRow(
            organization_id=organization_id,
            at=tx.now,
            actor=actor,
            action=action,
            subject=subject,
            before=_json(before),
            after=_json(after),
        )
    )


def _json(values: Mapping[str, Any] | None) -> str | None:
    if values is None:
        return None
    return msgspec.json.Encoder(decimal_format="number").encode(values).decode()
