"""Where the log of a long-running command goes: to stderr, with time and place."""

import logging
from typing import Final

from usageflow.cli.tables import printed_lines

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Formatter(logging.Formatter):
    """What is told may be in the words of others, who give no orders to a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The record without what cannot be seen."""
        return printed_lines(super().formatMessage(record))


def log_to_stderr() -> None:
    """Show what UsageFlow says while it runs, and of the libraries only warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("usageflow").setLevel(logging.INFO)
