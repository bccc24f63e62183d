"""Probes, the front page, and the one shape of everything that goes wrong."""

from typing import Any

import httpx
import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

import usageflow
from usageflow.db.session import Database
from usageflow.errors import DatabaseError


def error_of(response: httpx.Response) -> Any:
    """Code and message of an error answer; fails for any other shape."""
    assert response.headers["content-type"] == "application/json"
    (name, error), *others = response.json().items()
    assert (name, others, set(error)) == ("error", [], {"code", "message"})
    return error


def test_the_front_page_names_product_and_links(api: httpx.Client) -> None:
    """A browser at the server's URL learns what it has found; every GET link works."""
    page = api.get("/").json()
    assert (page["product"], page["version"]) == ("UsageFlow", usageflow.__version__)
    for name in ("health", "readiness"):
        assert api.get(page["links"][name]).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/healthz/", "/api/edge"])
def test_unknown_paths_are_json(api: httpx.Client, path: str) -> None:
    """404 in our shape, never a redirect to something similar."""
    response = api.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


def test_wrong_methods_are_json_and_name_the_right_ones(api: httpx.Client) -> None:
    """405 with Allow."""
    response = api.get("/api/edge/events")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert error_of(response)["code"] == "method_not_allowed"


def test_probes_tell_process_from_database(
    api: httpx.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the database gone the process is alive but not ready."""
    assert api.get("/readyz").json() == {"status": "ok"}

    def gone() -> None:
        raise DatabaseError("the disk is gone")

    monkeypatch.setattr(database, "reading", gone)
    assert api.get("/healthz").json() == {"status": "ok"}
    response = api.get("/readyz")
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(
    "error", [DatabaseError("usageflow.db: disk I/O error"), PoolTimeoutError("no connection")]
)
def test_database_trouble_is_503_and_told_in_the_log(
    api: httpx.Client,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """The client learns that it may try again, the operator what it was."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(database, "reading", fail)
    response = api.get("/readyz")
    assert error_of(response)["code"] == "database_unavailable"
    assert str(error) not in response.text
    assert str(error) in caplog.text


def test_a_fault_of_ours_is_500_without_a_traceback(
    api: httpx.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happened is for the log; the client gets the shape it knows."""

    def fail() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(database, "reading", fail)
    response = api.get("/readyz")
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal_error"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
