"""The API does what its OpenAPI document says, whatever it is sent (schemathesis, over TCP)."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from usageflow.addresses import bound_socket
from usageflow.api import create_api
from usageflow.catalog import organizations, sessions
from usageflow.config import Settings
from usageflow.db.ids import new_id
from usageflow.db.session import Database
from usageflow.db.tables import MemberRow, PersonRow

EXAMPLES = 400 if os.environ.get("USAGEFLOW_TORTURE") else 12
"""Requests made up for each operation."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
LEFT_OUT = {"/api/v1/auth/logout", "/api/v1/auth/refresh", "/api/v1/auth/password"}
"""What would end the session that all the others use."""


class Served(NamedTuple):
    """A server on loopback and the session of its owner."""

    url: str
    token: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, sqlite_template: bytes) -> Iterator[Served]:
    """The API under uvicorn, over one SQLite file."""
    path = tmp_path_factory.mktemp("schema") / "usageflow.db"
    path.write_bytes(sqlite_template)
    ours = Settings(
        encryption_keys="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        api_requests_per_min=1_000_000,
    )
    with closing(Database.open(f"sqlite:///{path}")) as db:
        token = _owner(db)
        listener = bound_socket("127.0.0.1", 0, option="port")
        config = uvicorn.Config(
            create_api(db, ours), http="httptools", log_config=None, lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        listener.listen()  # at once: what comes before the server runs waits
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", token)
        server.should_exit = True
        thread.join(10)
        listener.close()


def _owner(db: Database) -> str:
    with db.transaction() as tx:
        organization_id = organizations.default_organization(tx)
        person = PersonRow(
            id=new_id("person"), email="o@example.com", password_hash="$none$", created_at=tx.now
        )
        tx.session.add(person)
        tx.session.flush()
        tx.session.add(
            MemberRow(
                id=new_id("member"),
                organization_id=organization_id,
                person_id=person.id,
                role="OWNER",
                created_at=tx.now,
            )
        )
        tx.session.flush()
        return sessions.begin(tx, person.id, organization_id).access_token


def test_no_answer_is_a_surprise(served: Served) -> None:
    """No 5xx, and no status or body that the document does not have, for any request."""
    schema = schemathesis.openapi.from_url(f"{served.url}/api/v1/openapi.json")
    tried = 0
    problems: list[str] = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path in LEFT_OUT:
            continue
        tried += 1
        try:
            _try(operation, served)
        except BaseException as problem:  # noqa: BLE001 - all operations are tried, then told
            problems.append(f"{operation.method.upper()} {operation.path}: {_told(problem)}")
    assert not problems, "\n\n".join(problems)
    assert tried > 50


def _try(operation: Any, served: Served) -> None:
    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy())
    def fits(case: Any) -> None:
        response = case.call(cookies={"access_token": served.token})
        case.validate_response(response, checks=CHECKS)

    fits()


def _told(problem: BaseException) -> str:
    parts = getattr(problem, "exceptions", [problem])
    return "\n".join(str(part)[:1_500] for part in parts)
