"""Passwords: what one must be, and that what is kept can be checked against it."""

import re
from threading import Thread

import pytest

from usageflow.catalog import passwords
from usageflow.catalog.passwords import (
    PASSWORD_CHARS_MAX,
    hashed,
    matches,
    outdated,
    password_problem,
)

FIRST = "$scrypt$ln=15,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$"
SCRYPT = f"{FIRST}xy6UCICz8Vv/P6JqOkkUD4DOmhxN0tXSe6sQAUBxupQ"
"""`correct horse battery`, as the first version kept it."""


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
    """Function, costs and salt are in it; each has its own salt, so nobody sees who shares one."""
    first, second = hashed("correct horse battery"), hashed("correct horse battery")
    assert first != second
    for kept in (first, second):
        assert re.fullmatch(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$[\w+/]{22}\$[\w+/]{43}", kept)
        assert matches("correct horse battery", kept)
        assert not matches("correct horse batterx", kept)
        assert not outdated(kept)


def test_a_password_may_be_typed_in_two_ways() -> None:
    """An accent as a character of its own or not: keyboards differ. Any text can be compared."""
    kept = hashed("e\u0301" * 12)
    assert matches("\u00e9" * 12, kept)
    assert not matches("\ud800" * 12, kept)


def test_the_first_version_s_are_still_known() -> None:
    """Until their owner signs in, when they are kept anew; so are those of other costs."""
    assert matches("correct horse battery", SCRYPT)
    assert not matches("correct horse batterx", SCRYPT)
    assert outdated(SCRYPT)
    assert outdated(hashed("correct horse battery").replace("m=19456", "m=9728"))


@pytest.mark.parametrize("kept", [None, "", "$none$", "$argon2id$", FIRST])
def test_what_is_no_password_matches_none(kept: str | None) -> None:
    """Not even the empty one; nobody's is refused like a wrong one."""
    assert not matches("", kept)
    assert not matches("correct horse battery", kept)


def test_nobody_s_takes_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an answer does not tell who has an account."""
    verified = []
    hasher = passwords._HASHER

    class Watched:
        def verify(self, kept: str, password: bytes) -> bool:
            verified.append(kept.rpartition("$")[0].rpartition("$")[0])
            return hasher.verify(kept, password)

        def hash(self, password: str) -> str:
            return hasher.hash(password)

    monkeypatch.setattr(passwords, "_HASHER", Watched())
    assert not matches("correct horse battery", None)
    assert not matches("correct horse battery", hasher.hash("another"))
    assert verified == ["$argon2id$v=19$m=19456,t=2,p=1"] * 2


def test_a_crowd_takes_turns() -> None:
    """More at once than there are turns, and each gets its answer."""
    kept = hashed("correct horse battery")
    answers: list[bool] = []
    threads = [
        Thread(target=lambda: answers.append(matches("correct horse battery", kept)))
        for _ in range(2 * passwords.AT_ONCE_MAX)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8
