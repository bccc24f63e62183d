"""What one exchange may cost: the settings that bound its capture."""

from typing import NamedTuple, Self

from usageflow.config import Settings


class Limits(NamedTuple):
    """See the settings of the same names."""

    body_bytes_max: int
    decoded_bytes_max: int
    decode_cpu_s_max: float
    stream_event_bytes_max: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits these settings describe."""
        return cls(
            body_bytes_max=settings.body_bytes_max,
            decoded_bytes_max=settings.decoded_bytes_max,
            decode_cpu_s_max=settings.decode_cpu_s_max,
            stream_event_bytes_max=settings.stream_event_bytes_max,
        )
