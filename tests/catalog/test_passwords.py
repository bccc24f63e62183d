"""Passwords: what one must be, and that what is kept can be checked against it."""

import hashlib
import re
from base64 import b64decode

import pytest

from usageflow.catalog.passwords import PASSWORD_CHARS_MAX, hashed, password_problem


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("x" * 11, "At least 12 characters, please."),
        ("x" * 12, None),
        ("e\u0301" * 11, "At least 12 characters, please."),
        ("e\u0301" * 12, None),
        ("four small dry words", None),
        ("x" * PASSWORD_CHARS_MAX, None),
        ("x" * (PASSWORD_CHARS_MAX + 1), "At most 1024 characters, please."),
        ("", "At least 12 characters, please."),
    ],
)
def test_length_is_all_that_counts(password: str, problem: str | None) -> None:
    """In characters as a person counts them; any may be used."""
    assert password_problem(password) == problem


def test_what_is_kept_names_how_it_was_made() -> None:
    """Function, costs and salt are in it, so the password can be checked when they have changed."""
    kept = hashed("correct horse battery")
    form = re.fullmatch(r"\$scrypt\$ln=15,r=8,p=1\$([\w+/]{22})\$([\w+/]{43})", kept)
    assert form is not None
    again = hashlib.scrypt(
        b"correct horse battery",
        salt=b64decode(form[1] + "=="),
        n=2**15,
        r=8,
        p=1,
        maxmem=2**26,
        dklen=32,
    )
    assert again == b64decode(form[2] + "=")


def test_the_same_password_is_kept_differently() -> None:
    """Each has its own salt; nobody sees who shares one."""
    assert hashed("correct horse battery") != hashed("correct horse battery")


def test_a_password_may_be_typed_in_two_ways() -> None:
    """An accent as a character of its own or not: keyboards differ."""
    kept = hashed("e\u0301" * 12)
    *_, salt, digest = kept.split("$")
    composed = hashlib.scrypt(
        ("\u00e9" * 12).encode(),
        salt=b64decode(salt + "=="),
        n=2**15,
        r=8,
        p=1,
        maxmem=2**26,
        dklen=32,
    )
    assert composed == b64decode(digest + "=")
