"""The certificate of the listening side, and its replacement while the proxy runs.

A new pair of files is used for handshakes from then on; connections keep what they began with. It
listens to nothing and knows no clock: `serve` says when to look.
"""

import logging
import ssl
from pathlib import Path
from typing import Final, TypeAlias

from usageflow.errors import ConfigurationError

ALPN: Final = ["http/1.1"]
"""A client that offers HTTP/2 is told that we speak 1.1."""

logger = logging.getLogger("usageflow.proxy")

_Stamp: TypeAlias = list[tuple[int, int, int]]


class Certificates:
    """The pair in force. `context` is for the listening server and stays the same object.

    `cert` is a PEM file with the chain, `key` one with its key; None: the key is in `cert`.
    Construction raises ConfigurationError if the pair cannot be used.
    """

    def __init__(self, cert: str, key: str | None = None) -> None:
        self._cert = cert
        self._key = key
        self._stamp = self._look()
        self.context = self._current = self._load()
        # Every handshake asks for the context in force, also those that name no server.
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read the files again. If they cannot be used, the former pair stays, and it is told."""
        try:
            self._stamp = self._look()  # first, so that a change while they are read is seen
            self._current = self._load()
        except ConfigurationError as error:
            logger.error("the former certificate stays in use: %s", error)  # noqa: TRY400 - no bug
        else:
            logger.info("certificate %s loaded", self._cert)

    def poll(self) -> None:
        """Reload if a file has changed or been replaced since it was last read."""
        try:
            changed = self._look() != self._stamp
        except ConfigurationError:
            changed = bool(self._stamp)
            self._stamp = []  # told once, while the files are away
        if changed:
            self.reload()

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._current

    def _look(self) -> _Stamp:
        try:
            states = [Path(path).stat() for path in (self._cert, self._key) if path is not None]
        except OSError as error:
            raise ConfigurationError(
                f"the certificate cannot be read: {error.filename}: {error.strerror}"
            ) from None
        return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in states]

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(ALPN)
        try:
            context.load_cert_chain(self._cert, self._key, password=self._no_password)
        except ssl.SSLError as error:
            raise ConfigurationError(self._trouble(error.reason)) from None
        except OSError as error:
            raise ConfigurationError(f"the certificate cannot be read: {error}") from None
        return context

    def _trouble(self, reason: str | None) -> str:
        key = self._key or self._cert
        if reason == "KEY_VALUES_MISMATCH":
            return f"the key {key} does not belong to the certificate {self._cert}"
        why = f": {reason}" if reason else ""
        return f"{self._cert} and {key} are no certificate chain and its key, as PEM{why}"

    def _no_password(self) -> str:
        """Instead of OpenSSL's question on the terminal, which would stop the whole process."""
        raise ConfigurationError(
            f"the key {self._key or self._cert} is encrypted: give one without a password"
        )
