"""Every route for every role and scope: made from our own OpenAPI document."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from usageflow.catalog.permissions import of_role, of_scopes

if TYPE_CHECKING:
    from tests.api.v1.conftest import Calls

ROLES = ("OWNER", "ADMIN", "DEVELOPER", "VIEWER")
NO_CREDENTIALS = 401


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: bytes) -> str:
    """What a role may is decided before any database is asked, so one of them will do."""
    path = tmp_path / "usageflow.db"
    path.write_bytes(sqlite_template)
    return f"sqlite:///{path}"


def test_nobody_comes_in_without_credentials(rest: httpx.Client, calls: "Calls") -> None:
    """Every operation that needs a permission, or somebody at all, is closed to strangers."""
    ids = dict.fromkeys(calls.names(), "x")
    closed = [
        (method, path)
        for method, path, told in calls.operations()
        if "x-permission" in told and told["x-permission"] is not None
    ]
    assert len(closed) > 50
    for method, path in closed:
        response = calls.ask(rest, method, path, ids)
        assert response.status_code == NO_CREDENTIALS, (method, path)
        assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_what_it_may(
    sign_in: Callable[..., httpx.Client], calls: "Calls", role: str
) -> None:
    """An operation is forbidden to a role exactly if the role lacks its permission."""
    client = sign_in(role)
    ids = dict.fromkeys(calls.names(), "none-such")
    for method, path, told in calls.operations():
        permission = told.get("x-permission")
        if permission is None or "/auth/" in path:
            continue
        response = calls.ask(client, method, path, ids)
        forbidden = permission != "" and permission not in of_role(role)
        refused = response.status_code == httpx.codes.FORBIDDEN and "permission" in response.text
        assert refused == forbidden, (method, path, response.text)
        assert response.status_code < httpx.codes.INTERNAL_SERVER_ERROR, (method, path)


@pytest.mark.parametrize("scope", ["usage.write", "usage.read", "billing.read", "billing.write"])
def test_a_key_may_what_its_scopes_permit(
    rest: httpx.Client, key: Callable[..., str], calls: "Calls", scope: str
) -> None:
    """An operation is forbidden to a key exactly if none of its scopes permits it."""
    rest.headers["x-api-key"] = key(scope)
    ids = dict.fromkeys(calls.names(), "none-such")
    for method, path, told in calls.operations():
        permission = told.get("x-permission")
        if not permission:
            continue
        response = calls.ask(rest, method, path, ids)
        refused = response.status_code == httpx.codes.FORBIDDEN and "permission" in response.text
        assert refused == (permission not in of_scopes([scope])), (method, path, response.text)
