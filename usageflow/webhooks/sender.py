"""The shell of telling: threads that claim, send and settle, while the worker does other things.

Safe to kill at any moment: what was claimed and not settled is claimed again when its lease has
ended, by whoever lives. What is sent, and what follows, is `deliveries`'s and `mail`'s.
"""

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from usageflow.catalog.secrets import Keyring
from usageflow.db.session import Database, Tx
from usageflow.errors import DatabaseError
from usageflow.webhooks import deliveries, mail
from usageflow.webhooks.deliveries import Claim
from usageflow.webhooks.mail import Attachment, Letter
from usageflow.webhooks.posting import Outcome, Poster
from usageflow.webhooks.smtp import Unsent

WEBHOOKS_MAX: Final = 16
"""Endpoints sent to at once: slow ones keep that many threads waiting, and no database."""
MAILS_MAX: Final = 4
"""Mails sent at once."""
CLOSE_S: Final = 20.0
"""Longest wait for what is being sent at the end: somewhat more than one attempt takes."""

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger("usageflow.webhooks")


class Sender(Generic[Item, Result]):
    """Sends what is due, in at most `threads_max` threads, none of which anybody waits for.

    A thread claims the next item in the transaction that settles its last, and ends when there is
    none. Nothing but the database is shared between items.
    """

    def __init__(
        self,
        db: Database,
        *,
        claim: Callable[[Tx, int], Sequence[Item]],
        send: Callable[[Item], Result],
        settle: Callable[[Tx, Item, Result], object],
        threads_max: int,
    ) -> None:
        self._db = db
        self._claim = claim
        self._send = send
        self._settle = settle
        self._threads_max = threads_max
        self._threads: set[threading.Thread] = set()
        self._closing = False

    def begin(self) -> int:
        """Begin to send what is due now, as far as threads are free; how many items.

        For one thread only, such as a worker's. Raises DatabaseError.
        """
        self._threads = {one for one in self._threads if one.is_alive()}
        free = self._threads_max - len(self._threads)
        if free <= 0 or self._closing:
            return 0
        with self._db.transaction() as tx:
            items = self._claim(tx, free)
        for item in items:
            thread = threading.Thread(target=self._run, args=(item,), daemon=True)
            self._threads.add(thread)
            thread.start()
        return len(items)

    def wait(self, timeout_s: float) -> None:
        """Until all that was begun is sent and settled, or the time is over."""
        ends_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, ends_s - time.monotonic()))

    def close(self) -> None:
        """Begin nothing more, and wait for what is being sent, at most CLOSE_S."""
        self._closing = True
        self.wait(CLOSE_S)

    def _run(self, item: Item) -> None:
        upcoming: Sequence[Item] = [item]
        try:
            while upcoming:
                upcoming = self._next(upcoming[0], self._send(upcoming[0]))
        except DatabaseError as error:
            logger.warning("%s; what was sent meanwhile will be sent again", error)
        except Exception:
            logger.exception("sending failed; the lease ends, then it is tried again")

    def _next(self, item: Item, result: Result) -> Sequence[Item]:
        with self._db.transaction() as tx:
            self._settle(tx, item, result)
            tx.session.flush()
            return () if self._closing else self._claim(tx, 1)


def webhook_sender(
    db: Database,
    keyring: Keyring,
    poster: Poster,
    *,
    chance: Callable[[], float] = random.random,
) -> Sender[Claim, Outcome]:
    """Sends events to their endpoints."""
    return Sender(
        db,
        claim=deliveries.claim,
        send=lambda claimed: deliveries.send(claimed, keyring=keyring, poster=poster),
        settle=lambda tx, claimed, outcome: deliveries.settle(
            tx, claimed, outcome, chance=chance()
        ),
        threads_max=WEBHOOKS_MAX,
    )


def mail_sender(
    db: Database,
    keyring: Keyring,
    attachment: Attachment,
    *,
    tls: ssl.SSLContext,
    chance: Callable[[], float] = random.random,
) -> Sender[Letter, Unsent | None]:
    """Sends mail; `attachment` makes the PDF of an invoice."""
    return Sender(
        db,
        claim=mail.claim,
        send=lambda letter: mail.send(letter, keyring=keyring, attachment=attachment, tls=tls),
        settle=lambda tx, letter, unsent: mail.settle(tx, letter, unsent, chance=chance()),
        threads_max=MAILS_MAX,
    )
