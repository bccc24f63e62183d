"""An edge's policies, kept fresh by one thread, which also reports what the edge discovers.

`current` is replaced as a whole, so a request sees one set from beginning to end. A source that
fails or is malformed later leaves the last good set in force. It is also kept on disk beside the
spool, so that an app starts metered while the server is down or a policy of its file is wrong.
"""

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.middleware.discovery import Discovery
from usageflow.middleware.kept_policies import Kept
from usageflow.middleware.policy_sources import Assembly, FileSource, ServerSource, Source
from usageflow.middleware.reports import Reports
from usageflow.policies import PolicySet
from usageflow.recorder import Http
from usageflow.recorder.process import after_fork

log = logging.getLogger("usageflow.middleware")

FIRST_POLL_S: Final = 0.2
"""Pause between tries until the first policies are there."""
CLOSE_S_MAX: Final = 1.0
"""Wait for a thread that may be in the middle of a request; it is a daemon and may outlive it."""


class Feed(Protocol):
    """Gives the policy set in force."""

    current: PolicySet
    loaded: bool

    def start(self) -> None:
        """Begin to keep it fresh; may be called again."""

    def wait_for_keys(self, timeout_s: float) -> None:
        """At start: wait until tokens can be verified, but no longer. Blocks."""

    def refresh(self) -> None:
        """Look for news now. Does not wait for them."""

    def close(self) -> None:
        """Stop; the current set stays."""


class FixedFeed:
    """One policy set for ever: for tests and for apps that build their policies in code."""

    def __init__(self, policies: PolicySet) -> None:
        self.current = policies
        self.loaded = True

    def start(self) -> None:
        """Nothing to keep fresh."""

    def wait_for_keys(self, timeout_s: float) -> None:
        """Nothing to wait for."""

    def refresh(self) -> None:
        """Nothing is ever new."""

    def close(self) -> None:
        """Nothing to stop."""


class PollingFeed:
    """Asks a source again and again, on one daemon thread."""

    def __init__(
        self,
        source: Source,
        poll_s: float,
        first: PolicySet | None,
        *,
        assembly: Assembly | None = None,
        reports: Reports | None = None,
    ) -> None:
        self.current = first or PolicySet.EMPTY
        self.loaded = first is not None
        self._source = source
        self._poll_s = poll_s
        self._assembly = assembly
        self._reports = reports
        self._complaint = ""
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        after_fork(self._forget_parent)

    def start(self) -> None:
        """Begin polling; may be called again."""
        if self._assembly is not None:
            self._assembly.keys.start()
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="usageflow-feed", daemon=True)
            self._thread.start()

    def wait_for_keys(self, timeout_s: float) -> None:
        """See Feed."""
        if self._assembly is not None:
            self._assembly.keys.wait(timeout_s)

    def refresh(self) -> None:
        """See Feed."""
        self._wake.set()

    def close(self) -> None:
        """Stop polling; the current set stays in force. Waits a moment for the thread."""
        self._stop.set()
        self._wake.set()
        if self._assembly is not None:
            self._assembly.keys.close()
        if self._thread is not None:
            self._thread.join(CLOSE_S_MAX)
        self._thread = None

    def poll(self) -> None:
        """Ask once; a failure is told once and leaves the current set in force."""
        try:
            policies = self._source.read()
        except (DeliveryError, ConfigurationError, OSError) as error:
            self._complain(str(error), trace=None)
            return
        except Exception as error:  # noqa: BLE001 - our own fault; the thread must live
            self._complain(repr(error), trace=error)
            return
        self._complaint = ""
        if policies is not None:
            self._put_in_force(policies)

    def _put_in_force(self, policies: PolicySet) -> None:
        if self._assembly is not None and self.loaded:  # the first set is needed at once
            self._assembly.await_keys()
        self.current = policies
        self.loaded = True
        if self._assembly is not None:
            self._assembly.forget_keys()

    def _complain(self, complaint: str, trace: Exception | None) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            log.error("policies are not refreshed: %s", complaint, exc_info=trace)

    def _run(self) -> None:
        stop, wake = self._stop, self._wake
        while not stop.is_set():
            wake.clear()
            self.poll()
            if self._reports is not None:
                self._reports.send_due()
            if not stop.is_set():
                wake.wait(self._poll_s if self.loaded else FIRST_POLL_S)
        if self._reports is not None:
            self._reports.close()
        self._source.close()

    def _forget_parent(self) -> None:
        """In a forked child, which has no thread: `start` makes one, should it serve requests."""
        self._thread = None
        self._stop = threading.Event()
        self._wake = threading.Event()


def open_feed(
    settings: Settings,
    discovery: Discovery | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    app: bool = True,
) -> PollingFeed:
    """The feed these settings describe; it reports `discovery` if there is a server.

    `app` tells that there is an app in this process, which may say whose a request is.
    Secrets of policies are looked up in `environ` (default: the process's, as it is now). A policy
    file is read at once, and one that is of no use raises PolicyFileError, so that a mistake shows
    at start. Raises ConfigurationError if neither a file nor a server is set.
    """
    assembly = Assembly(settings, dict(os.environ) if environ is None else environ, app=app)
    connection = reports = None
    if settings.server is not None and settings.api_key is not None:
        connection = Http(settings.server, settings.api_key, timeout_s=settings.ship_timeout_s)
        reports = Reports(connection, discovery) if discovery is not None else None
    if settings.policies is not None:
        path = Path(settings.policies)
        file = FileSource(path, assembly, Kept(settings.spool_path, str(path.absolute())))
        return PollingFeed(
            file, settings.policy_poll_s, file.read(), assembly=assembly, reports=reports
        )
    if connection is None:
        raise ConfigurationError(
            "no policies: set server and api_key (USAGEFLOW_SERVER, USAGEFLOW_API_KEY), or "
            "policies (USAGEFLOW_POLICIES) for a policy file"
        )
    # The key decides which policies are given, so it is part of where they are from.
    kept = Kept(settings.spool_path, f"{settings.server}\n{settings.api_key}")
    server = ServerSource(connection, assembly, kept)
    return PollingFeed(
        server, settings.policy_poll_s, server.cached(), assembly=assembly, reports=reports
    )
