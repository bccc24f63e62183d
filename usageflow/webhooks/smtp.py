"""By which server an organization's mail is sent, and sending one message by it.

The password is sealed at rest and never shown. Which mail is sent, and when, is `mail`'s.
"""

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any, Final, Literal, NamedTuple, Self

from sqlmodel import select

from usageflow.catalog import audit
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring, Place
from usageflow.catalog.turns import take_turn
from usageflow.db.ids import new_id
from usageflow.db.outbox_tables import SmtpRow
from usageflow.db.session import Tx
from usageflow.errors import ConfigurationError
from usageflow.webhooks.posting import printable

TIMEOUT_S: Final = 20.0
"""Longest wait for each word of the server."""
REASON_CHARS_MAX: Final = 300
NOT_ASCII: Final = "the host is no name of a server, or its user or password is not ASCII"

Security = Literal["starttls", "tls", "none"]

_PERMANENT: Final = 500
"""Replies from here on say that the same would fail again (RFC 5321, section 4.2.1)."""
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_ADDRESS: Final = re.compile(r'[^\s@,:;<>()\[\]"\\]+@[^\s@,:;<>()\[\]"\\]+')
"""Without quotes and comments, which mail servers permit and hardly anybody has."""


class Server(NamedTuple):
    """A server to send by. The password is sealed for its place until it is used."""

    host: str
    port: int
    security: str
    sender: str
    username: str | None
    secret: str | None
    place: Place

    @classmethod
    def of(cls, row: SmtpRow) -> Self:
        """The server as it is stored, for use after the transaction."""
        place = Place.of(row)
        return cls(row.host, row.port, row.security, row.sender, row.username, row.secret, place)


@dataclass(frozen=True, slots=True)
class Unsent:
    """Why a message was not taken. `final`: the next try would end the same.

    `reached`: the server can be talked to, so it is about this message alone.
    """

    reason: str
    final: bool = False
    reached: bool = False


def read(tx: Tx, organization_id: str) -> SmtpRow | None:
    """The organization's server, if one is set."""
    query = select(SmtpRow).where(SmtpRow.organization_id == organization_id)
    return tx.session.exec(query).first()


def put(
    tx: Tx,
    organization_id: str,
    *,
    host: str,
    port: int,
    security: Security,
    sender: str,
    username: str | None = None,
    password: str | None = None,
    keyring: Keyring,
    actor: Actor,
) -> SmtpRow | Refused:
    """Send by this server from now on. Without a password the one before is kept.

    But only for the same user, server and security: nobody who may not read it can have it sent
    elsewhere.
    """
    take_turn(tx, organization_id)
    row = read(tx, organization_id)
    before = None if row is None else told(row)
    if (refused := _refused(host, security, sender, username, password)) is not None:
        return refused
    kept = _kept(row, (host, port, security, username)) if password is None else None
    if username is not None and password is None and kept is None:
        return Refused("invalid", "the password is needed for this user and server", "password")
    if row is None:
        row = SmtpRow(
            id=new_id("smtp"),
            organization_id=organization_id,
            host=host,
            port=port,
            security=security,
            sender=sender,
            updated_at=tx.now,
        )
    row.host, row.port, row.security, row.sender = host, port, security, sender
    row.username, row.secret, row.updated_at = username, kept, tx.now
    if password is not None:
        try:
            row.secret = keyring.seal(password, Place.of(row))
        except ConfigurationError as error:
            return Refused("conflict", str(error))
    tx.session.add(row)
    tx.session.flush()
    audit.record(
        tx,
        organization_id,
        actor=actor,
        action="smtp.set",
        subject=row.id,
        before=before,
        after=told(row),
    )
    return row


def delete(tx: Tx, organization_id: str, *, actor: Actor) -> bool:
    """Forget the server; False if none was set."""
    take_turn(tx, organization_id)
    row = read(tx, organization_id)
    if row is None:
        return False
    before = told(row)
    tx.session.delete(row)
    tx.session.flush()
    audit.record(
        tx, organization_id, actor=actor, action="smtp.delete", subject=row.id, before=before
    )
    return True


def told(row: SmtpRow) -> dict[str, Any]:
    """What may be shown of it."""
    return {
        "host": row.host,
        "port": row.port,
        "security": row.security,
        "sender": row.sender,
        "username": row.username,
    }


def send(
    by: Server, message: EmailMessage, *, keyring: Keyring, tls: ssl.SSLContext
) -> Unsent | None:
    """Send one message, once; None when the server has taken it."""
    try:
        with _connected(by, keyring, tls) as connection:
            connection.send_message(message)
    except ConfigurationError as error:
        return Unsent(str(error))
    except smtplib.SMTPRecipientsRefused as error:
        code, text = next(iter(error.recipients.values()))
        return Unsent(_reason(code, text), final=code >= _PERMANENT, reached=True)
    except smtplib.SMTPDataError as error:
        final = error.smtp_code >= _PERMANENT
        return Unsent(_reason(error.smtp_code, error.smtp_error), final=final, reached=True)
    except smtplib.SMTPResponseException as error:
        return Unsent(_reason(error.smtp_code, error.smtp_error))
    except UnicodeError:  # its own words may quote the password
        return Unsent(NOT_ASCII)
    except (smtplib.SMTPException, OSError) as error:
        return Unsent(printable(str(error) or type(error).__name__)[:REASON_CHARS_MAX])
    return None


def is_address(text: str) -> bool:
    """Whether it is one address to mail to, and nothing beside it."""
    return text.isprintable() and _ADDRESS.fullmatch(text) is not None


def domain(sender: str) -> str:
    """The domain of the address that mail comes from."""
    return parseaddr(sender)[1].rpartition("@")[2]


@contextmanager
def _connected(by: Server, keyring: Keyring, tls: ssl.SSLContext) -> Iterator[smtplib.SMTP]:
    """A conversation in which a message may be given. Certificates are verified by `tls`."""
    password = None if by.secret is None else keyring.open(by.secret, by.place)
    name = domain(by.sender)
    connection: smtplib.SMTP = (
        smtplib.SMTP_SSL(by.host, by.port, name, timeout=TIMEOUT_S, context=tls)
        if by.security == "tls"
        else smtplib.SMTP(by.host, by.port, name, timeout=TIMEOUT_S)
    )
    try:
        if by.security == "starttls":
            connection.starttls(context=tls)
        if by.username is not None and password is not None:
            connection.login(by.username, password)
        yield connection
        with suppress(smtplib.SMTPException, OSError):  # taken is taken, whatever it says now
            connection.quit()
    finally:
        connection.close()


def _refused(
    host: str, security: str, sender: str, username: str | None, password: str | None
) -> Refused | None:
    if not _HOST.fullmatch(host):
        return Refused("invalid", "must be the name or address of a server", "host")
    visible = sender.isascii() and sender.isprintable()
    if not visible or "," in sender or not is_address(parseaddr(sender)[1]):
        return Refused(
            "invalid", "must be an address, such as Acme <billing@acme.example>", "sender"
        )
    if password is not None and username is None:
        return Refused("invalid", "a password needs a user", "username")
    if username is not None and security == "none":
        message = "a password is not sent in the clear: use starttls or tls"
        return Refused("invalid", message, "security")
    return None


def _kept(row: SmtpRow | None, now: tuple[str, int, str, str | None]) -> str | None:
    """The sealed password there is, if it stays with the same server, security and user."""
    if row is None or (row.host, row.port, row.security, row.username) != now:
        return None
    return row.secret


def _reason(code: int, text: bytes | str) -> str:
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    return printable(f"{code} {' '.join(words.split())}")[:REASON_CHARS_MAX]
