"""Server and proxy on one machine, started and kept running by one command.

They stay the programs they are: this room starts `usageflow serve` and `usageflow proxy`, gives the
proxy a key and the server its policies, and stops them in order. It serves and meters nothing.
"""

from usageflow.up.run import Plan, run

__all__ = ["Plan", "run"]
