"""Mail on its way: what arrives, what is tried again, what is given up, and what is forgotten."""

import logging
import ssl
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import create as create_organization
from usageflow.catalog.secrets import Keyring
from usageflow.db import outbox
from usageflow.db.outbox_tables import MailRow
from usageflow.webhooks import mail, smtp
from usageflow.webhooks.mail import LEASE_S, NO_SERVER
from usageflow.webhooks.sender import mail_sender
from usageflow.webhooks.smtp import Unsent

ACTOR = Actor("owner@acme.example")
PDF = b"%PDF-1.7 \x00\xff"


def pdf(organization_id: str, invoice_id: str) -> tuple[str, bytes] | None:
    """The PDF of an invoice; one cannot be made, one has none."""
    if invoice_id == "inv_bad":
        raise ZeroDivisionError
    return None if invoice_id == "inv_none" else (f"{invoice_id}.pdf", PDF)


class Desk:
    """An organization's mail, and a server to send it by."""

    def __init__(self, office: Any, tls: ssl.SSLContext) -> None:
        self.office = office
        self.tls = tls

    def use(self, port: int, organization_id: str | None = None) -> None:
        """Set the server."""
        with self.office.db.transaction() as tx:
            smtp.put(
                tx,
                organization_id or self.office.organization_id,
                host="localhost",
                port=port,
                security="none",
                sender="Acme Billing <billing@acme.example>",
                keyring=self.office.keyring,
                actor=ACTOR,
            )

    def post(self, number: int = 1, organization_id: str | None = None, **changes: Any) -> None:
        """Something is to be mailed."""
        given: dict[str, Any] = {
            "recipient": "payer@customer.example",
            "subject": f"Invoice {number}",
            "text": "Grüße\nhttps://acme.example/portal/token\n",
        } | changes
        with self.office.db.transaction() as tx:
            outbox.post(tx, organization_id or self.office.organization_id, **given)

    def send(self, keyring: Keyring | None = None) -> int:
        """Send what is due; how many were begun."""
        sender = mail_sender(
            self.office.db,
            keyring or self.office.keyring,
            pdf,
            tls=self.tls,
            chance=lambda: 0.0,
        )
        begun = sender.begin()
        sender.wait(30)
        return begun

    def rows(self) -> list[MailRow]:
        """All mail."""
        with self.office.db.reading() as tx:
            found = list(tx.session.exec(select(MailRow).order_by(col(MailRow.id))))
            tx.session.expunge_all()
            return found


@pytest.fixture
def desk(office: Any, trusting: ssl.SSLContext) -> Desk:
    """The default organization's."""
    return Desk(office, trusting)


def test_a_mail_with_its_invoice(desk: Desk, post_offices: Any) -> None:
    """From, To, a date, a stable Message-ID, the text, and the PDF; its text is forgotten."""
    post_office = post_offices()
    desk.use(post_office.port)
    desk.post(invoice_id="inv_1")
    assert desk.send() == 1
    (got,) = post_office.mails
    assert str(got["From"]) == "Acme Billing <billing@acme.example>"
    assert (got["To"], got["Subject"]) == ("payer@customer.example", "Invoice 1")
    assert got["Date"].datetime == desk.office.clock.now
    assert got["Message-ID"] == f"<usageflow.{desk.office.organization_id}.1@acme.example>"
    assert got["Auto-Submitted"] == "auto-generated"
    text = got.get_body().get_content()
    assert text.splitlines() == ["Grüße", "https://acme.example/portal/token"]
    (attached,) = got.iter_attachments()
    assert (attached.get_filename(), attached.get_content()) == ("inv_1.pdf", PDF)
    assert attached.get_content_type() == "application/pdf"
    (row,) = desk.rows()
    assert (row.state, row.text, row.error, row.sent_at) == (
        *("sent", "", None, desk.office.clock.now),
    )
    assert desk.send() == 0


@pytest.mark.parametrize("invoice_id", ["inv_none", "inv_bad", None])
def test_without_a_pdf_the_mail_goes_nevertheless(
    desk: Desk, post_offices: Any, invoice_id: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether there is none or it cannot be made, which is told."""
    post_office = post_offices()
    desk.use(post_office.port)
    desk.post(invoice_id=invoice_id)
    desk.send()
    (got,) = post_office.mails
    assert list(got.iter_attachments()) == []
    told = "the PDF of inv_bad could not be made; its mail goes without"
    assert (told in caplog.messages) == (invoice_id == "inv_bad")


def test_without_a_server_it_has_failed(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """With a reason; the log has neither the text nor the address."""
    desk.post()
    with caplog.at_level(logging.DEBUG):
        desk.send()
    (row,) = desk.rows()
    assert (row.state, row.error, row.text) == ("failed", NO_SERVER, "")
    assert NO_SERVER in caplog.text
    assert "token" not in caplog.text
    assert "payer" not in caplog.text


def test_it_is_tried_again_for_a_day(desk: Desk, post_offices: Any) -> None:
    """After growing pauses, with the same Message-ID; then it has failed with the last reason."""
    post_office = post_offices(replies={"RCPT": "450 busy"})
    desk.use(post_office.port)
    desk.post()
    began = desk.office.clock.now
    pauses = []
    while True:
        desk.send()
        (row,) = desk.rows()
        if row.state != "waiting":
            break
        pauses.append((row.next_at - desk.office.clock.now) / timedelta(minutes=1))
        desk.office.clock.now = row.next_at
    assert pauses[:6] == [1, 5, 15, 60, 240, 240]
    assert (row.state, row.error, row.text) == ("failed", "450 busy", "")
    assert desk.office.clock.now == began + timedelta(days=1)


def test_what_is_refused_for_good_is_not_tried_again(desk: Desk, post_offices: Any) -> None:
    """There is no such recipient."""
    post_office = post_offices(replies={"RCPT": "550 no such user"})
    desk.use(post_office.port)
    desk.post()
    desk.send()
    (row,) = desk.rows()
    assert (row.state, row.error, row.attempts) == ("failed", "550 no such user", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipient": "a@b.example, c@d.example"},
        {"recipient": "nobody"},
        {"recipient": ""},
        {"recipient": "(@b.example"},
        {"recipient": "a@b.example\r\nBcc: c@d.example"},
        {"subject": "Hello\r\nBcc: c@d.example"},
    ],
    ids=range(6),
)
def test_what_cannot_be_mailed(desk: Desk, post_offices: Any, changes: dict[str, Any]) -> None:
    """Two addresses, none, or a header in disguise: it fails, and nothing is sent."""
    post_office = post_offices()
    desk.use(post_office.port)
    desk.post(**changes)
    desk.send()
    (row,) = desk.rows()
    assert row.state == "failed"
    assert str(row.error).startswith("this cannot be mailed: ")
    assert post_office.mails == []


def test_one_failure_delays_no_other_mail(desk: Desk, post_offices: Any) -> None:
    """What the server refuses is about one recipient; the next mail goes."""
    post_office = post_offices(replies={"DATA": "451 later"})
    desk.use(post_office.port)
    for number in range(6):
        desk.post(number)
    desk.send()
    assert [row.attempts for row in desk.rows()] == [1] * 6


def test_a_dead_server_is_not_asked_for_each_mail(desk: Desk, post_offices: Any) -> None:
    """The organization's other mails wait as well, and those of another organization go."""
    post_office = post_offices()
    with desk.office.db.transaction() as tx:
        other = create_organization(tx, "other", actor="test")
    desk.use(1)
    desk.use(post_office.port, other)
    for number in range(20):
        desk.post(number)
    desk.post(99, other)
    desk.send()
    *ours, theirs = desk.rows()
    assert theirs.state == "sent"
    assert 1 <= sum(row.attempts for row in ours) <= 8
    assert {row.next_at for row in ours} == {desk.office.clock.now + timedelta(minutes=1)}


def test_a_lease_is_for_one_sender(desk: Desk) -> None:
    """Who dies in the middle is followed by another; the word of the dead does not count."""
    desk.post()
    db, clock = desk.office.db, desk.office.clock
    with db.transaction() as tx:
        (first,) = mail.claim(tx, 9)
    with db.transaction() as tx:
        assert mail.claim(tx, 9) == []
    clock.forward(seconds=LEASE_S)
    with db.transaction() as tx:
        (second,) = mail.claim(tx, 9)
    message_ids = {
        mail.message(letter, "a@acme.example")["Message-ID"] for letter in (first, second)
    }
    assert len(message_ids) == 1
    with db.transaction() as tx:
        assert not mail.settle(tx, first, Unsent("late", final=True), chance=0.0)
        assert mail.settle(tx, second, None, chance=0.0)
        assert not mail.settle(tx, second, None, chance=0.0)
    (row,) = desk.rows()
    assert (row.state, row.attempts) == ("sent", 2)


def test_a_password_without_its_key_waits(desk: Desk, post_offices: Any) -> None:
    """Until the key is there again."""
    post_office = post_offices(security="starttls", login=("acme", "secret"))
    with desk.office.db.transaction() as tx:
        smtp.put(
            tx,
            desk.office.organization_id,
            host="localhost",
            port=post_office.port,
            security="starttls",
            sender="billing@acme.example",
            username="acme",
            password="secret",
            keyring=desk.office.keyring,
            actor=ACTOR,
        )
    desk.post()
    desk.send(Keyring([b"x" * 32]))
    (row,) = desk.rows()
    assert row.state == "waiting"
    assert "which is not in USAGEFLOW_ENCRYPTION_KEYS" in str(row.error)
    desk.office.clock.now = row.next_at
    desk.send()
    assert len(post_office.mails) == 1


def test_a_trial(desk: Desk, post_offices: Any) -> None:
    """It tells that mail can be sent, each time as another message; no row tells of it."""
    post_office = post_offices()
    desk.use(post_office.port)
    with desk.office.db.reading() as tx:
        row = smtp.read(tx, desk.office.organization_id)
        assert row is not None
        server = smtp.Server.of(row)
    for _ in range(2):
        letter = mail.trial("org", "me@acme.example", server, at=desk.office.clock.now)
        sent = mail.send(letter, keyring=desk.office.keyring, attachment=pdf, tls=desk.tls)
        assert sent is None
    first, second = post_office.mails
    assert (first["To"], first["Subject"]) == ("me@acme.example", "UsageFlow can send mail")
    assert first["Message-ID"] != second["Message-ID"]
    assert desk.rows() == []
