"""Mail on its way: which to send now, what it looks like, and what follows from the outcome.

A mail is leased for an attempt, as deliveries are; who dies in the middle sends it again, with the
same Message-ID. Its text is forgotten when it is over: a link in it may be the only copy of its
token. Sending is `sender`'s, the server `smtp`'s.
"""

import logging
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Final, NamedTuple, TypeAlias

from sqlalchemy import func, or_, update
from sqlmodel import col, select

from usageflow.catalog.secrets import Keyring
from usageflow.db.columns import table
from usageflow.db.ids import new_id
from usageflow.db.outbox_tables import MailRow
from usageflow.db.session import Tx
from usageflow.webhooks import retries, smtp
from usageflow.webhooks.smtp import Server, Unsent

LEASE_S: Final = 300.0
"""How long a mail is one sender's: a conversation of ten words, each of them slow, is over then."""
NO_SERVER: Final = "no SMTP server is set"

Attachment: TypeAlias = Callable[[str, str], tuple[str, bytes] | None]
"""Organization and invoice to the name and content of its PDF."""

logger = logging.getLogger("usageflow.webhooks")


class Letter(NamedTuple):
    """One attempt to make."""

    lease: str
    organization_id: str
    mail_id: int
    at: datetime
    recipient: str
    subject: str
    text: str
    invoice_id: str | None
    server: Server | None


def listing(
    tx: Tx, organization_id: str, *, state: str | None = None, offset: int, limit: int
) -> tuple[list[MailRow], int]:
    """Mail, the newest first, and how much there is in all."""
    wanted = [col(MailRow.organization_id) == organization_id]
    if state is not None:
        wanted.append(col(MailRow.state) == state)
    rows = tx.session.exec(
        select(MailRow).where(*wanted).order_by(col(MailRow.id).desc()).offset(offset).limit(limit)
    )
    total = tx.session.exec(select(func.count()).select_from(MailRow).where(*wanted))
    return list(rows), total.one()


def claim(tx: Tx, limit: int, *, lease_s: float = LEASE_S) -> list[Letter]:
    """The mails to send now, at most `limit`, those that are due longest first."""
    mails = tx.session.exec(
        select(MailRow)
        .where(MailRow.state == "waiting", MailRow.next_at <= tx.now)
        .where(or_(col(MailRow.leased_until).is_(None), col(MailRow.leased_until) <= tx.now))
        .order_by(col(MailRow.next_at), col(MailRow.id))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_claimed(tx, mail, lease_s) for mail in mails]


def settle(tx: Tx, letter: Letter, unsent: Unsent | None, *, chance: float) -> bool:
    """Note what came of an attempt. False if its lease was lost: then another attempt decides."""
    mail = tx.session.exec(
        select(MailRow)
        .where(MailRow.organization_id == letter.organization_id, MailRow.id == letter.mail_id)
        .with_for_update()
    ).one()
    if mail.lease_owner != letter.lease:
        return False
    mail.lease_owner = mail.leased_until = None
    mail.error = None if unsent is None else unsent.reason
    if unsent is None:
        mail.state, mail.sent_at, mail.text = "sent", tx.now, ""
        return True
    next_at = retries.MAIL.next_at(mail.attempts, mail.created_at, tx.now, chance)
    if unsent.final or next_at is None:
        mail.state, mail.text = "failed", ""
        logger.warning(
            "mail %s of organization %s was not sent: %s",
            mail.id,
            mail.organization_id,
            unsent.reason,
        )
    else:
        mail.next_at = next_at
        if not unsent.reached:
            _postpone(tx, mail)
    return True


def send(
    letter: Letter, *, keyring: Keyring, attachment: Attachment, tls: ssl.SSLContext
) -> Unsent | None:
    """Send one mail, once; without the PDF if that cannot be made."""
    if letter.server is None:
        return Unsent(NO_SERVER, final=True)
    try:
        mail = message(letter, letter.server.sender)
    except ValueError as error:
        return Unsent(f"this cannot be mailed: {error}", final=True, reached=True)
    if (pdf := _attached(letter, attachment)) is not None:
        name, content = pdf
        mail.add_attachment(content, maintype="application", subtype="pdf", filename=name)
    return smtp.send(letter.server, mail, keyring=keyring, tls=tls)


def message(letter: Letter, sender: str) -> EmailMessage:
    """The mail as it is sent, without its PDF; the same Message-ID at every attempt.

    Raises ValueError if the recipient or the subject cannot be one.
    """
    if not smtp.is_address(letter.recipient):
        raise ValueError("the recipient is no address")
    mail = EmailMessage()
    name, address = parseaddr(sender)
    mail["From"] = Address(name, addr_spec=address)
    mail["To"] = letter.recipient
    mail["Subject"] = letter.subject
    mail["Date"] = format_datetime(letter.at)
    key = f"{letter.organization_id}.{letter.mail_id or letter.lease}"
    mail["Message-ID"] = f"<usageflow.{key}@{smtp.domain(sender)}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(letter.text)
    return mail


def trial(organization_id: str, recipient: str, server: Server | None, *, at: datetime) -> Letter:
    """A mail that says that mail can be sent. No row tells of it."""
    return Letter(
        lease=new_id("trial"),
        organization_id=organization_id,
        mail_id=0,
        at=at,
        recipient=recipient,
        subject="UsageFlow can send mail",
        text="This is a test: the SMTP settings of your organization work.\n",
        invoice_id=None,
        server=server,
    )


def _attached(letter: Letter, attachment: Attachment) -> tuple[str, bytes] | None:
    if letter.invoice_id is None:
        return None
    try:
        return attachment(letter.organization_id, letter.invoice_id)
    except Exception:
        logger.exception(
            "the PDF of %s could not be made; its mail goes without", letter.invoice_id
        )
        return None


def _claimed(tx: Tx, mail: MailRow, lease_s: float) -> Letter:
    mail.attempts += 1
    mail.lease_owner = new_id("lease")
    mail.leased_until = tx.now + timedelta(seconds=lease_s)
    row = smtp.read(tx, mail.organization_id)
    return Letter(
        lease=mail.lease_owner,
        organization_id=mail.organization_id,
        mail_id=mail.id or 0,
        at=tx.now,
        recipient=mail.recipient,
        subject=mail.subject,
        text=mail.text,
        invoice_id=mail.invoice_id,
        server=None if row is None else Server.of(row),
    )


def _postpone(tx: Tx, mail: MailRow) -> None:
    """The server cannot be talked to: the organization's other mails need not find that out, each
    in the time of a mail of somebody else.
    """
    mails = table(MailRow)
    others = (
        select(col(MailRow.id))
        .where(MailRow.organization_id == mail.organization_id, MailRow.state == "waiting")
        .where(MailRow.next_at < mail.next_at, col(MailRow.leased_until).is_(None))
        .with_for_update(skip_locked=True)
    )
    tx.session.execute(update(mails).where(mails.c.id.in_(others)).values(next_at=mail.next_at))
