"""Getting events off the request path without losing them: the spool and its shipper."""

from usageflow.recorder.holds import Hold
from usageflow.recorder.inspection import read_spool, verify_spool
from usageflow.recorder.recorder import Recorder
from usageflow.recorder.sink import Http, HttpSink, MemorySink, Sink

__all__ = [
    "Hold",
    "Http",
    "HttpSink",
    "MemorySink",
    "Recorder",
    "Sink",
    "read_spool",
    "verify_spool",
]
