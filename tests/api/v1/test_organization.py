"""/api/v1/organization: what it is called, and what it bills by."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import msgspec

SignIn = Callable[..., httpx.Client]
PATH = "/api/v1/organization"


def test_an_organization_is_read_and_changed(sign_in: SignIn) -> None:
    """The name, and what is given of the settings; the rest stays."""
    admin = sign_in("ADMIN")
    before = sign_in("VIEWER").get(PATH).json()
    assert (before["key"], before["name"]) == ("default", "default")
    assert (before["currency"], before["time_zone"], before["grace_s"]) == ("USD", "UTC", 3600)
    changes: dict[str, Any] = {
        "name": "Acme & Sons",
        "currency": "EUR",
        "suspend_after_days": None,
        "issuer": {"name": "Acme GmbH", "address": ["Main St 1", "Berlin"]},
    }
    admin.patch(PATH, json=changes)
    raw = b'{"tax_percent": 19.50, "issuer": {"tax_id": "DE1"}}'
    changed = admin.patch(PATH, content=raw, headers={"content-type": "application/json"})
    assert changed.status_code == 200, changed.text
    assert changed.text == admin.get(PATH).text
    after = msgspec.json.Decoder(float_hook=Decimal).decode(changed.content)
    assert after == before | changes | {
        "tax_percent": Decimal("19.50"),
        "issuer": {
            "name": "Acme GmbH",
            "address": ["Main St 1", "Berlin"],
            "email": "",
            "tax_id": "DE1",
            "note": "",
        },
    }
    assert b"19.5" in changed.content


def test_what_an_organization_cannot_be(sign_in: SignIn) -> None:
    """The field is named, nothing changes, not even the name that came along."""
    owner = sign_in("OWNER")
    before = owner.get(PATH).text
    cases: list[tuple[dict[str, Any], str]] = [
        ({"currency": "XXX"}, "currency"),
        ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"grace_s": -1}, "grace_s"),
        ({"tax_percent": "101"}, "tax_percent"),
        ({"issuer": {"email": "nobody"}}, "issuer.email"),
        ({"issuer": {"logo": "x"}}, "issuer.logo"),
        ({"key": "acme"}, "key"),
    ]
    for changes, field in cases:
        response = owner.patch(PATH, json={"name": "Acme", **changes})
        assert response.status_code == 422
        assert response.json()["error"]["fields"][0]["field"] == field
    assert owner.get(PATH).text == before


def test_who_may_change_it(sign_in: SignIn) -> None:
    """Not a developer; and each their own alone."""
    assert sign_in("DEVELOPER").patch(PATH, json={"name": "Acme"}).status_code == 403
    other = sign_in("OWNER", organization="other")
    assert other.patch(PATH, json={"name": "Other"}).json()["key"] == "other"
    assert sign_in("OWNER").get(PATH).json()["name"] == "default"
