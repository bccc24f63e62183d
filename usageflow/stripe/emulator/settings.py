"""What a test can set while the emulator runs: how far things lag behind, and how reports look.

Values only; `world` keeps them, and rate limits are in `limits`.
"""

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`latency_s` is how long every call takes at least; the other times are of the emulated clock.

    Stripe promises search within a minute, and of the others only that they take a while.
    """

    search_lag_s: Seconds = 1.0
    summary_lag_s: Seconds = 0.0
    latency_s: Seconds = 0.0
    rejection_delay_s: Seconds = 0.0
    rejection_samples: Annotated[int, msgspec.Meta(ge=0)] = 5
