"""The search language and its pages; what customers do with it is in their own tests."""

from typing import Any

import pytest

from usageflow.stripe.emulator import search
from usageflow.stripe.emulator.search import Query

FIELDS = ("email", "name")


def found(text: str, fields: dict[str, Any], **metadata: str) -> bool:
    """Whether an object with these values is found."""
    query = search.parsed(text, FIELDS)
    assert isinstance(query, Query)
    return query.matches({"email": None, "name": None, **fields}, metadata)


def test_fields_and_metadata_are_different_things() -> None:
    """A field is compared with the field, metadata with the metadata of that key."""
    assert found('email:"A@example.org"', {"email": "a@example.org"})
    assert not found('email:"a@example.org"', {}, email="a@example.org")
    assert found('metadata["email"]:"a@example.org"', {}, email="a@example.org")
    assert found('-name:"Bo" AND email:null', {"name": "Ada"})


def test_an_unknown_field_is_refused() -> None:
    """Which fields can be searched is part of the language of each noun."""
    refusal = search.parsed('phone:"1"', FIELDS)
    assert not isinstance(refusal, Query)
    assert "`phone`" in refusal.body["error"]["message"]


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"page": "x"}])
def test_a_wrong_page_is_refused(params: dict[str, Any]) -> None:
    """A limit outside 1 to 100 and a page that nobody gave are 400s that name the parameter."""
    reply = search.result([], params, "/v1/customers/search")
    assert (reply.status, reply.body["error"]["param"]) == (400, next(iter(params)))


def test_pages_follow_each_other() -> None:
    """Each hit is on one page; the last has no next."""
    hits = [{"id": str(number)} for number in range(5)]
    first = search.result(hits, {"limit": 3}, "/x").body
    assert (first["data"], first["has_more"], first["next_page"]) == (hits[:3], True, "3")
    second = search.result(hits, {"limit": 3, "page": "3"}, "/x").body
    assert (second["data"], second["has_more"], second["next_page"]) == (hits[3:], False, None)
