"""/api/v1/smtp: by which server mail is sent; a test of it; and what became of the mail."""

import ssl
from datetime import datetime
from typing import Annotated, Literal, cast

from fastapi import Response
from pydantic import Field

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Email, Id, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring
from usageflow.db.outbox_tables import MailRow, SmtpRow
from usageflow.webhooks import mail, smtp
from usageflow.webhooks.smtp import Security, Server

router = v1_router("mail")

State = Literal["waiting", "sent", "failed"]
NONE: Refused = Refused("not_found", "no SMTP server is set")


class SmtpBody(Body):
    """A server to send by. Without a password, that of the same server and user is kept."""

    host: Id
    port: Annotated[int, Field(ge=1, le=65_535)]
    security: Security = "starttls"
    sender: Id
    username: Id | None = None
    password: Id | None = None


class SmtpTest(Body):
    """Where to send a test."""

    recipient: Email


class SmtpOut(Answer):
    """The server; whether there is a password is all that is told of it."""

    host: str
    port: int
    security: Security
    sender: str
    username: str | None
    has_password: bool
    updated_at: datetime


class SentOut(Answer):
    """Whether the server took the test, or why not."""

    sent: bool
    error: str | None


class MailOut(Answer):
    """A mail, without its text."""

    id: int
    recipient: str
    subject: str
    invoice_id: str | None
    state: State
    attempts: int
    error: str | None
    next_at: datetime | None
    created_at: datetime
    sent_at: datetime | None


@router.get("/smtp", response_model=SmtpOut)
def read_smtp(access: Annotated[Access, needs("organization.write")], rest: RestDep) -> Response:
    """The server that mail is sent by."""
    with rest.db.reading() as tx:
        row = smtp.read(tx, access.organization_id)
        return answer(_smtp(row)) if row is not None else refusal(NONE)


@router.put("/smtp", response_model=SmtpOut)
def put_smtp(
    body: SmtpBody, access: Annotated[Access, needs("organization.write")], rest: RestDep
) -> Response:
    """Send by this server from now on."""
    with rest.db.transaction() as tx:
        row = smtp.put(
            tx,
            access.organization_id,
            host=body.host,
            port=body.port,
            security=body.security,
            sender=body.sender,
            username=body.username,
            password=body.password,
            keyring=Keyring.read(rest.settings.encryption_keys),
            actor=access.actor,
        )
        return refusal(row) if isinstance(row, Refused) else answer(_smtp(row))


@router.delete("/smtp", status_code=204)
def delete_smtp(access: Annotated[Access, needs("organization.write")], rest: RestDep) -> Response:
    """Forget the server; no mail is sent from then on."""
    with rest.db.transaction() as tx:
        if not smtp.delete(tx, access.organization_id, actor=access.actor):
            refusal(NONE)
    return Response(status_code=204)


@router.post("/smtp/test", response_model=SentOut)
def send_test(
    body: SmtpTest, access: Annotated[Access, needs("organization.write")], rest: RestDep
) -> Response:
    """Send a mail at once, and tell what the server said."""
    with rest.db.reading() as tx:
        row = smtp.read(tx, access.organization_id)
        if row is None:
            refusal(NONE)
        letter = mail.trial(access.organization_id, body.recipient, Server.of(row), at=tx.now)
    unsent = mail.send(
        letter,
        keyring=Keyring.read(rest.settings.encryption_keys),
        attachment=lambda *_: None,
        tls=ssl.create_default_context(),
    )
    return answer(SentOut(sent=unsent is None, error=unsent and unsent.reason))


@router.get("/mails", response_model=Listed[MailOut])
def list_mails(
    *,
    access: Annotated[Access, needs("organization.write")],
    rest: RestDep,
    page: PageDep,
    state: State | None = None,
) -> Response:
    """Mail, the newest first."""
    with rest.db.reading() as tx:
        rows, total = mail.listing(
            tx, access.organization_id, state=state, offset=page.offset, limit=page.limit
        )
        return listed([_mail(row) for row in rows], total, page)


def _smtp(row: SmtpRow) -> SmtpOut:
    return SmtpOut(
        host=row.host,
        port=row.port,
        security=cast("Security", row.security),
        sender=row.sender,
        username=row.username,
        has_password=row.secret is not None,
        updated_at=row.updated_at,
    )


def _mail(row: MailRow) -> MailOut:
    return MailOut(
        id=row.id or 0,
        recipient=row.recipient,
        subject=row.subject,
        invoice_id=row.invoice_id,
        state=cast("State", row.state),
        attempts=row.attempts,
        error=row.error,
        next_at=row.next_at if row.state == "waiting" else None,
        created_at=row.created_at,
        sent_at=row.sent_at,
    )
