"""Eight workers over one database that close and issue what is due, and are killed while they do.

A program of its own: it loads everything once and forks, so that a worker lives from its first
statement on. `python trial.py URL NOW KILLS SEED` ends when nothing is due any more, and prints how
many workers were killed.
"""

import os
import random
import signal
import sys
import time
from datetime import datetime

from sqlmodel import col, func, select

from usageflow.billing import duties
from usageflow.db.billing_tables import InvoiceRow, SubscriptionRow
from usageflow.db.session import Database
from usageflow.errors import DatabaseError

WORKERS = 8
BATCH = 5
"""Small, so that there are many transactions to be killed in."""
LIFE_S_MAX = 0.4
TRIAL_S_MAX = 120.0


def work(url: str, now: datetime) -> None:
    """Do what is due until nothing is, whoever else does so."""
    duties.BATCH = BATCH  # type: ignore[misc]  # a constant, in a process of our own
    database = Database.open(url, clock=lambda: now)
    while True:
        try:
            while duties.close_due(database) + duties.finalize_due(database):
                pass
            return
        except DatabaseError:  # a deadlock that was broken: try again
            time.sleep(0.01)


def start(url: str, now: datetime) -> int:
    """A worker; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work(url, now)
    except BaseException as error:  # noqa: BLE001 - a forked process must not go on as its parent
        sys.stderr.write(f"worker failed: {error!r}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def left(url: str, now: datetime) -> int:
    """How much is due still."""
    database = Database.open(url, clock=lambda: now)
    try:
        with database.reading() as tx:
            due = select(func.count()).where(col(SubscriptionRow.due_at) <= now)
            drafts = select(func.count()).where(
                col(InvoiceRow.state) == "DRAFT", col(InvoiceRow.finalize_at) <= now
            )
            return tx.session.exec(due).one() + tx.session.exec(drafts).one()
    finally:
        database.close()


def trial(url: str, now: datetime, kills: int, seed: int) -> int:
    """Keep eight workers at it, and kill one after the other; how many were killed."""
    chance = random.Random(seed)
    ends_at, killed = time.monotonic() + TRIAL_S_MAX, 0
    while left(url, now):
        assert time.monotonic() < ends_at, "the workers do not come to an end"
        workers = [start(url, now) for _ in range(WORKERS)]
        for pid in workers:
            if killed < kills:
                time.sleep(chance.uniform(0, LIFE_S_MAX / WORKERS))
                os.kill(pid, signal.SIGKILL)  # ours, and not waited for yet: it is that process
                killed += 1
        for pid in workers:
            os.waitpid(pid, 0)
    return killed


if __name__ == "__main__":
    url, now, *numbers = sys.argv[1:]
    sys.stdout.write(str(trial(url, datetime.fromisoformat(now), *map(int, numbers))))
