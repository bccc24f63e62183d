"""What is told of a request that cannot be understood: what is wrong, and what to do."""

from typing import Any

import httpx
import pytest

LOGIN = "/api/v1/auth/login"
JSON = {"content-type": "application/json"}
OBJECT = "must be a JSON object, sent with the header content-type: application/json"


def mistakes(response: httpx.Response) -> dict[str, str]:
    """Of an answer of 422, what is wrong with each field."""
    assert response.status_code == 422
    return {one["field"]: one["message"] for one in response.json()["error"]["fields"]}


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"content": b'{"email": "ada@example.com"}'},
        {"content": b"[]", "headers": JSON},
        {"content": b"null", "headers": JSON},
    ],
)
def test_a_body_that_is_no_json_object_is_told_how_to_be_one(
    api: httpx.Client, sent: dict[str, Any]
) -> None:
    """Most often curl was not told that it is JSON."""
    assert mistakes(api.post(LOGIN, **sent)) == {"body": OBJECT}


def test_every_field_that_is_wrong_is_named(api: httpx.Client) -> None:
    """What is missing, and what is not known."""
    assert mistakes(api.post(LOGIN, json={"mail": "ada@example.com", "password": "x"})) == {
        "email": "is missing",
        "mail": "is no field of this request",
    }


def test_an_address_that_is_not_there_says_where_they_are_listed(api: httpx.Client) -> None:
    """And a method that an address does not take which ones it does."""
    nowhere = api.get("/api/v1/plan").json()["error"]
    assert nowhere == {
        "code": "not_found",
        "message": "there is no such address; /docs shows all",
    }
    refused = api.get(LOGIN)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["error"] == {
        "code": "method_not_allowed",
        "message": "this address does not take GET; /docs shows what it takes",
    }
