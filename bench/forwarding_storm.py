"""A far side whose limit changes every 20 s: how much it has to refuse, and how well it is used.

The changes are random, with a seed. BENCH_STORM_S is another length than 120 s, above 30.
"""

import os
import random
from datetime import UTC, datetime
from itertools import pairwise

from bench.forwarding import way
from bench.report import Line, show

SECONDS = int(os.environ.get("BENCH_STORM_S", "120"))
CHANGE_S, BEGIN_S = 20, 30
LIMIT_MIN, LIMIT_MAX = 20, 100
CUSTOMERS, SEED = 400, 7
REFUSED_MAX = 0.05


def main() -> None:
    """Measure and print."""
    now, rng = datetime.now(UTC), random.Random(SEED)
    limits = {start: rng.randint(LIMIT_MIN, LIMIT_MAX) for start in range(0, SECONDS, CHANGE_S)}
    with way("count", CUSTOMERS, connected=True, calls_per_s=LIMIT_MAX) as measured:
        measured.ingest(SECONDS * LIMIT_MAX, CUSTOMERS, lambda _: now)
        permitted = 0
        for start, end in pairwise(sorted({*limits, BEGIN_S, SECONDS})):
            limit = limits[start - start % CHANGE_S]
            measured.emulator.limit(global_per_s=limit)
            if start <= BEGIN_S:
                permitted, before = 0, measured.emulator.calls()
            permitted += limit * (end - start)
            measured.forward_for(end - start)
        after = measured.emulator.calls()
    taken, refused = (after[status] - before[status] for status in ("200", "429"))
    share = refused / max(1, taken + refused)
    show(
        f"A limit that changes every {CHANGE_S} s, {', '.join(map(str, limits.values()))} calls/s, "
        f"seen from {BEGIN_S} s on",
        [
            Line("refused", f"{share:.1%}", f"{REFUSED_MAX:.0%}", share <= REFUSED_MAX),
            Line("share of the limit used", f"{taken / permitted:.1%}"),
        ],
    )


if __name__ == "__main__":
    main()
