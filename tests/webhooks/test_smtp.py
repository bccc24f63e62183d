"""SMTP servers, real ones: what is stored of them, and what they say to a message."""

import ssl
from email.message import EmailMessage
from typing import Any

import pytest
from sqlmodel import col, select

from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import create as create_organization
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import NO_KEY, Keyring, Place
from usageflow.db.outbox_tables import SmtpRow
from usageflow.db.tables import AuditRow
from usageflow.webhooks import smtp
from usageflow.webhooks.smtp import NOT_ASCII, Server, Unsent

ACTOR = Actor("owner@acme.example")
SERVER: dict[str, Any] = {
    "host": "mail.acme.example",
    "port": 587,
    "security": "starttls",
    "sender": "Acme <billing@acme.example>",
    "username": "acme",
    "password": "keepthistoyourself",
}


def put(office: Any, **changes: Any) -> SmtpRow | Refused:
    """Store a server."""
    given = SERVER | {"keyring": office.keyring, "actor": ACTOR} | changes
    with office.db.transaction() as tx:
        row = smtp.put(tx, office.organization_id, **given)
        if isinstance(row, SmtpRow):
            tx.session.refresh(row)
            tx.session.expunge(row)
        return row


def test_a_server_is_stored_its_password_sealed(office: Any) -> None:
    """It opens for its row alone; the audit log shows everything but it."""
    row = put(office)
    assert isinstance(row, SmtpRow)
    assert office.keyring.open(row.secret, Place.of(row)) == SERVER["password"]
    with office.db.reading() as tx:
        (entry,) = tx.session.exec(select(AuditRow))
        assert (entry.action, entry.subject) == ("smtp.set", row.id)
        assert '"port":587' in str(entry.after)
        assert SERVER["password"] not in str(entry.after)
        stored = smtp.read(tx, office.organization_id)
        assert stored is not None
        assert smtp.told(stored) == {n: v for n, v in SERVER.items() if n != "password"}


def test_the_password_stays_where_it_was(office: Any) -> None:
    """Without a new one it is kept for the same server and user, and for nothing else."""
    first = put(office)
    second = put(office, password=None, sender="other@acme.example")
    assert isinstance(first, SmtpRow)
    assert isinstance(second, SmtpRow)
    assert (second.id, second.secret, second.sender) == (
        *(first.id, first.secret, "other@acme.example"),
    )
    for change in ({"host": "evil.example"}, {"port": 25}, {"security": "tls"}, {"username": "x"}):
        refused = put(office, password=None, **change)
        assert isinstance(refused, Refused)
        assert refused.field == "password"
    without = put(office, username=None, password=None, security="none", port=25)
    assert isinstance(without, SmtpRow)
    assert (without.username, without.secret) == (None, None)


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    [
        ({"host": ""}, "host", "must be the name or address of a server"),
        ({"host": "a b"}, "host", "must be the name or address of a server"),
        ({"sender": "acme"}, "sender", "must be an address, such as "),
        ({"sender": "a@b, c@d"}, "sender", "must be an address, such as "),
        ({"sender": "A\r\nBcc: x@y <a@b>"}, "sender", "must be an address, such as "),
        ({"username": None}, "username", "a password needs a user"),
        ({"security": "none"}, "security", "a password is not sent in the clear"),
        ({"keyring": Keyring([])}, None, NO_KEY),
    ],
    ids=range(8),
)
def test_what_cannot_be_a_server(
    office: Any, wrong: dict[str, Any], field: str | None, message: str
) -> None:
    """The reason names the field, and nothing is stored."""
    refused = put(office, **wrong)
    assert isinstance(refused, Refused)
    assert refused.field == field
    assert refused.message.startswith(message)
    with office.db.reading() as tx:
        assert smtp.read(tx, office.organization_id) is None


def test_forgetting_it(office: Any) -> None:
    """Of one organization alone."""
    put(office)
    with office.db.transaction() as tx:
        other = create_organization(tx, "other", actor="test")
        assert smtp.read(tx, other) is None
        assert not smtp.delete(tx, other, actor=ACTOR)
        assert smtp.delete(tx, office.organization_id, actor=ACTOR)
        assert not smtp.delete(tx, office.organization_id, actor=ACTOR)
        last = tx.session.exec(select(AuditRow).order_by(col(AuditRow.seq).desc())).first()
        assert last is not None
        assert (last.action, last.after) == ("smtp.delete", None)


def letter() -> EmailMessage:
    """A mail."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@acme.example", "b@b.example", "Hello"
    mail.set_content("Grüße\n")
    return mail


def place() -> Place:
    """Where a password is sealed for."""
    return Place("smtp.secret", "org", "smtp_1")


def server(post_office: Any, keyring: Keyring, **changes: Any) -> Server:
    """A server on this machine, its password sealed."""
    password = changes.pop("password", None)
    secret = None if password is None else keyring.seal(password, place())
    given = {"port": post_office.port, "security": "none", "username": None} | changes
    return Server(host="localhost", sender="a@acme.example", secret=secret, place=place(), **given)


def sent(by: Server, keyring: Keyring, tls: ssl.SSLContext) -> Unsent | None:
    """What comes of a mail."""
    return smtp.send(by, letter(), keyring=keyring, tls=tls)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_under_tls_with_a_password(
    post_offices: Any, keyring: Keyring, trusting: ssl.SSLContext, security: str
) -> None:
    """The certificate is verified before the password is sent."""
    post_office = post_offices(security=security, login=("acme", "secret"))
    by = server(post_office, keyring, security=security, username="acme", password="secret")
    assert sent(by, keyring, trusting) is None
    (mail,) = post_office.mails
    assert (mail["To"], mail["Subject"]) == ("b@b.example", "Hello")
    refused = sent(by, keyring, ssl.create_default_context())
    assert refused is not None
    assert "CERTIFICATE_VERIFY_FAILED" in refused.reason
    assert not refused.final
    assert len(post_office.logins) == 1


def test_a_server_without_starttls_is_told_nothing(
    post_offices: Any, keyring: Keyring, trusting: ssl.SSLContext
) -> None:
    """Who strips it from the greeting gets neither password nor mail."""
    post_office = post_offices()
    by = server(post_office, keyring, security="starttls", username="acme", password="secret")
    refused = sent(by, keyring, trusting)
    assert refused == Unsent("STARTTLS extension not supported by server.")
    assert (post_office.mails, post_office.logins) == ([], [])


def test_a_wrong_password_is_tried_again(
    post_offices: Any, keyring: Keyring, trusting: ssl.SSLContext
) -> None:
    """A person may mend it in time."""
    post_office = post_offices(security="tls", login=("acme", "secret"))
    by = server(post_office, keyring, security="tls", username="acme", password="wrong")
    refused = sent(by, keyring, trusting)
    assert refused is not None
    assert refused.reason.startswith("535 5.7.8 Authentication credentials invalid")
    assert (refused.final, refused.reached) == (False, False)


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"RCPT": "550 no one"}, Unsent("550 no one", final=True, reached=True)),
        ({"RCPT": "450 busy"}, Unsent("450 busy", final=False, reached=True)),
        ({"DATA": "554 spam"}, Unsent("554 spam", final=True, reached=True)),
        ({"DATA": "451 later"}, Unsent("451 later", final=False, reached=True)),
        ({"MAIL": "553 not from there"}, Unsent("553 not from there")),
    ],
    ids=["no user", "busy", "spam", "later", "sender"],
)
def test_what_a_server_says(
    post_offices: Any,
    keyring: Keyring,
    trusting: ssl.SSLContext,
    replies: dict[str, str],
    expected: Unsent,
) -> None:
    """What is about this message for good is final, everything else is tried again."""
    post_office = post_offices(replies=replies)
    assert sent(server(post_office, keyring), keyring, trusting) == expected


def test_no_server_there(keyring: Keyring, trusting: ssl.SSLContext, post_offices: Any) -> None:
    """The reason is the system's."""
    by = server(post_offices(), keyring, port=1)
    assert sent(by, keyring, trusting) == Unsent("[Errno 111] Connection refused")


def test_a_password_that_cannot_be_opened(
    post_offices: Any, keyring: Keyring, trusting: ssl.SSLContext
) -> None:
    """Nothing is said to the server, and the reason names the key."""
    by = server(post_offices(), keyring, username="acme", password="secret")
    refused = sent(by, Keyring([b"x" * 32]), trusting)
    assert refused is not None
    assert "which is not in USAGEFLOW_ENCRYPTION_KEYS" in refused.reason


@pytest.mark.parametrize(
    "change", [{"host": "a..b"}, {"password": "schlüssel"}], ids=["host", "key"]
)
def test_what_no_server_can_be_told(
    post_offices: Any, keyring: Keyring, trusting: ssl.SSLContext, change: dict[str, str]
) -> None:
    """A host that is no name, a password that is not ASCII: it is said, without quoting either."""
    post_office = post_offices(security="tls", login=("acme", "secret"))
    given = {"security": "tls", "username": "acme", "password": "secret"} | change
    host = given.pop("host", "localhost")
    by = server(post_office, keyring, **given)._replace(host=host)
    assert sent(by, keyring, trusting) == Unsent(NOT_ASCII)


def test_taken_is_taken(post_offices: Any, keyring: Keyring, trusting: ssl.SSLContext) -> None:
    """Even if the server goes without waiting for our good-bye."""
    post_office = post_offices(replies={"QUIT": "gone"})
    assert sent(server(post_office, keyring), keyring, trusting) is None
    assert len(post_office.mails) == 1
