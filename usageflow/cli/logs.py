"""Where the log of a long-running command goes: to stderr, with time and place."""

import logging
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_stderr() -> None:
    """Show what UsageFlow says while it runs, and of the libraries only warnings."""
    logging.basicConfig(level=logging.WARNING, format=FORMAT)
    logging.getLogger("usageflow").setLevel(logging.INFO)
