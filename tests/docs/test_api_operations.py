"""The page about policies, the inbox and Stripe over HTTP: its tables are what there is."""

import re
from pathlib import Path
from typing import Any

import pytest

from usageflow.api import create_api
from usageflow.config import Settings
from usageflow.db.session import Database

PAGE = Path(__file__).parents[2] / "docs" / "api-operations.md"
TAGS = {"policies", "endpoints", "inbox", "stripe"}
ROW = re.compile(r"^\| `([A-Z]+) (/\S+)` \| `([a-z.]+)` \|", re.MULTILINE)


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """The OpenAPI document of a server."""
    database = Database.open(f"sqlite:///{tmp_path / 'usageflow.db'}")
    found: dict[str, Any] = create_api(database, Settings()).openapi()
    database.close()
    return found


def test_every_route_is_on_the_page(document: dict[str, Any]) -> None:
    """With its permission, and no other route."""
    told = {
        (method.upper(), path.removeprefix("/api/v1"), operation["x-permission"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if TAGS.intersection(operation.get("tags", ()))
    }
    assert set(ROW.findall(PAGE.read_text(encoding="utf-8"))) == told
