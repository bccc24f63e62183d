"""The last good policies of an edge, on disk: so that it starts metered, whatever is wrong by then.

Knows files, and nothing of what is in them.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeVar

import msgspec

from usageflow.errors import ConfigurationError
from usageflow.recorder.spool import prepare_directory

log = logging.getLogger("usageflow.middleware")

Content = TypeVar("Content")


class Kept:
    """The last good policies of a source, kept beside the spool for the next start.

    They name the variables that have secrets, and hold none.
    """

    def __init__(self, directory: Path, source: str) -> None:
        """`source` is what they are from; those of another one are kept apart."""
        digest = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()
        self._path = directory / f"policies-{digest[:12]}.json"
        self._content = b""
        self._complaint = ""

    def recall(self, read: Callable[[bytes, str], Content]) -> Content | None:
        """What `read` makes of what an earlier run kept; None if there is nothing to be read.

        `read` gets the bytes and their name for messages, and may raise ConfigurationError.
        """
        try:
            content = self._path.read_bytes()
            made = read(content, str(self._path))
        except FileNotFoundError:
            return None
        except (OSError, ConfigurationError, msgspec.MsgspecError) as error:
            log.warning("the policies kept in %s cannot be used: %s", self._path, error)
            return None
        self._content = content
        return made

    def keep(self, content: bytes) -> None:
        """Replace as a whole what is kept, if this is something else. A failure is told once."""
        if content == self._content:
            return
        try:
            prepare_directory(self._path.parent)
            self._replace(content)
        except OSError as error:
            reason = error.strerror or repr(error)
            if reason != self._complaint:
                log.warning("the policies cannot be kept in %s: %s", self._path, reason)
            self._complaint = reason
        else:
            self._content, self._complaint = content, ""

    def _replace(self, content: bytes) -> None:
        draft = NamedTemporaryFile(  # noqa: SIM115 - closed before it is renamed
            dir=self._path.parent, prefix=f"{self._path.stem}-", suffix=".new", delete=False
        )
        try:
            with draft:
                draft.write(content)
                draft.flush()
                os.fsync(draft.fileno())
            Path(draft.name).replace(self._path)
        except OSError:
            Path(draft.name).unlink(missing_ok=True)
            raise
