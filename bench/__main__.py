"""`make bench`: everything, or the parts named, such as `middleware hold`."""

import sys
from importlib import import_module

PARTS = (
    "policies",
    "middleware",
    "tokens",
    "streams",
    "hostile",
    "identities",
    "hold",
    "proxy",
    "memory",
)


def main() -> None:
    """Run the parts in order."""
    for part in sys.argv[1:] or PARTS:
        import_module(f"bench.{part}").main()


main()
