"""Whether a target is fit to be used: what its exchanges tell, and what it answers when asked.

`Standing` is the rule, pure; `HealthChecks` asks. Which target is then used, `upstreams` decides.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final

from usageflow.config import Settings, variable
from usageflow.errors import ConfigurationError, UpstreamUnreachable
from usageflow.proxy.targets import Dialer, Target

_PATH: Final = re.compile(r"/[!-~]*")
"""Origin-form: no spaces, no controls, no bytes beyond ASCII (RFC 9112, section 3.2.1)."""
_GOOD: Final = re.compile(rb"HTTP/1\.[01] [23]\d\d")
_STATUS_LINE_BYTES: Final = len(b"HTTP/1.1 200")


class Standing:
    """What is known of one target. `now` is the loop's time in seconds.

    Passive: after `upstream_failures_max` exchanges in a row have failed it is left out for
    `upstream_failed_s`; it is then `due` to be tried by one, whose success brings it back, or to be
    used `on_trial`. Active: `health_falls` bad answers in a row leave it out, `health_rises` good
    ones bring it back. Both must be content.
    """

    __slots__ = ("_answers", "_failures", "_out_until", "_settings", "_streak")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures = 0
        self._out_until: float | None = None
        self._answers = True
        self._streak = 0

    @property
    def well(self) -> bool:
        """Nothing speaks against using it."""
        return self._answers and self._out_until is None

    @property
    def blameless(self) -> bool:
        """No exchange has failed since the last that succeeded."""
        return not self._failures

    def succeeded(self) -> None:
        """An exchange was answered."""
        self._failures = 0
        self._out_until = None

    def failed(self, now: float) -> None:
        """An exchange was not answered, or there was no connection for it."""
        self._failures += 1
        if self._failures >= self._settings.upstream_failures_max:
            self.leave_out(now)

    def leave_out(self, now: float) -> None:
        """From now on for `upstream_failed_s`, as after too many failures."""
        self._out_until = now + self._settings.upstream_failed_s

    def on_trial(self) -> None:
        """Use it again; but the next exchange that fails leaves it out once more."""
        self._out_until = None

    def due(self, now: float) -> bool:
        """It was left out for long enough."""
        return self._answers and self._out_until is not None and now >= self._out_until

    def checked(self, *, good: bool) -> None:
        """It was asked, and answered well or not."""
        self._streak = 0 if good is self._answers else self._streak + 1
        needed = self._settings.health_rises if good else self._settings.health_falls
        if self._streak >= needed:
            self._answers, self._streak = good, 0


def question_path(settings: Settings) -> str:
    """The setting `health_path`. Raises ConfigurationError if it is no path."""
    path = settings.health_path or ""
    if not _PATH.fullmatch(path):
        raise ConfigurationError(
            f"{variable('health_path')} must be a path that starts with '/', percent-encoded, "
            f"not {path!r}"
        )
    return path


class HealthChecks:
    """Asks every target for `health_path` at intervals and tells what is wrong, None for nothing.

    Raises ConfigurationError for a path that is none.
    """

    __slots__ = ("_dialers", "_host", "_path", "_settings", "_tell")

    def __init__(
        self,
        settings: Settings,
        dialers: Iterable[Dialer],
        tell: Callable[[Target, str | None], None],
    ) -> None:
        self._path = question_path(settings).encode("ascii")
        own = settings.upstream_host in ("keep", "upstream")
        self._host = None if own else settings.upstream_host.encode("ascii")
        self._settings = settings
        self._dialers = tuple(dialers)
        self._tell = tell

    async def run(self) -> None:
        """Ask until cancelled. The first question comes at once."""
        while True:
            await asyncio.gather(*map(self._check, self._dialers))
            await asyncio.sleep(self._settings.health_interval_s)

    async def _check(self, dialer: Dialer) -> None:
        self._tell(dialer.target, await self._complaint(dialer))

    async def _complaint(self, dialer: Dialer) -> str | None:
        """What is wrong with the answer; None for 2xx and 3xx."""
        timeout_s = self._settings.health_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                line = await _ask(dialer, self._question(dialer.target))
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"
        except UpstreamUnreachable:
            return "no connection"
        return None if _GOOD.fullmatch(line) else f"answer {line.decode('latin-1')!r}"

    def _question(self, target: Target) -> bytes:
        return (
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: usageflow\r\nConnection: close\r\n\r\n"
            % (self._path, self._host or target.authority)
        )


async def _ask(dialer: Dialer, question: bytes) -> bytes:
    """The beginning of the status line, as far as it came. Raises UpstreamUnreachable."""
    asking = asyncio.get_running_loop().create_future
    transport, listener, _ = await dialer.dial(lambda: _StatusLine(asking()))
    try:
        transport.write(question)
        return await listener.line
    finally:
        transport.abort()


class _StatusLine(asyncio.Protocol):
    """Waits for the first bytes of an answer; what follows does not matter."""

    def __init__(self, line: "asyncio.Future[bytes]") -> None:
        self.line = line
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Take what is needed."""
        self._received += data
        if len(self._received) >= _STATUS_LINE_BYTES:
            self._end()

    def connection_lost(self, _exc: Exception | None) -> None:
        """That was all."""
        self._end()

    def _end(self) -> None:
        if not self.line.done():
            self.line.set_result(self._received[:_STATUS_LINE_BYTES])
