"""What the server does for billing: close, issue, apply payments, remind, and tell others of it.

It has a worker of its own, so that a long close never keeps usage from Stripe. It decides nothing:
what is due is in the rows.
"""

import ssl
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from usageflow.billing import duties
from usageflow.billing.documents import invoice_pdf
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.webhooks.fan_out import fan_out_due
from usageflow.webhooks.posting import Poster
from usageflow.webhooks.sender import mail_sender, webhook_sender
from usageflow.worker import Duty, Worker

CLOSE_S: Final = 5.0
"""How soon after its end a period is closed, and after its time of grace a draft issued."""
PAYMENTS_S: Final = 1.0
"""How soon word of a payment has its effect."""
DUNNING_S: Final = 60.0
"""How often it is seen who does not pay; what follows is a matter of days."""
ENDED_S: Final = 3_600.0
"""How often subscriptions that have ended are looked at for usage that came late."""
TELL_S: Final = 1.0
"""How soon what happened is on its way to webhooks and mailboxes."""
STOP_S: Final = 5.0
"""Longest wait of a stop for a batch in progress, which is undone if it takes longer."""


class Billing:
    """Billing of one database, from entering to leaving. `wake` says that something may be due."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._opened = ExitStack()
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        """Begin. Raises ConfigurationError for keys that are none."""
        db, settings = self._db, self._settings
        keyring = Keyring.read(settings.encryption_keys)
        tls = ssl.create_default_context()
        poster = Poster(private=settings.webhooks_private == "on", tls=tls)
        webhooks = webhook_sender(db, keyring, poster)
        mail = mail_sender(db, keyring, pdf_of(db), tls=tls)
        self._opened.callback(webhooks.close)
        self._opened.callback(mail.close)
        self._worker = Worker(
            [
                _of("billing periods", duties.close_due, db, CLOSE_S),
                _of("drafts of invoices", duties.finalize_due, db, CLOSE_S),
                _of("payments", duties.apply_payments, db, PAYMENTS_S),
                Duty("dunning", lambda: _once(duties.mind_dunning(db)), DUNNING_S),
                Duty("late usage of what has ended", lambda: _once(duties.bill_ended(db)), ENDED_S),
                _of("events for webhooks", fan_out_due, db, TELL_S),
                Duty("webhooks", webhooks.begin, TELL_S),
                Duty("mail", mail.begin, TELL_S),
            ],
            stop_s_max=STOP_S,
        )
        self._opened.enter_context(self._worker)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what is being done, for a bounded time."""
        self._opened.close()

    def wake(self) -> None:
        """There may be something to close or to tell. For any thread."""
        if self._worker is not None:
            self._worker.wake()


def pdf_of(db: Database) -> Callable[[str, str], tuple[str, bytes] | None]:
    """What makes an invoice's PDF to go with a mail; None for one that cannot be made."""

    def made(organization_id: str, invoice_id: str) -> tuple[str, bytes] | None:
        with db.reading() as tx:
            found = invoice_pdf(tx, organization_id, invoice_id)
        return None if isinstance(found, Refused) else found

    return made


def _of(name: str, do: Callable[[Database], int], db: Database, interval_s: float) -> Duty:
    return Duty(name, lambda: do(db), interval_s)


def _once(_: int) -> int:
    """However much was done, it is not due again at once."""
    return 0
