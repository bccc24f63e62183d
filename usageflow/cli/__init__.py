"""The command line: `usageflow COMMAND`. Each command parses, calls one room and prints.

It holds no rules of the product. Everything heavy is imported inside the commands, so that
`usageflow --help` answers at once.
"""

from usageflow.cli.app import main

__all__ = ["main"]
