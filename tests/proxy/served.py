"""A proxy of its own process: `python served.py UPSTREAM_URL LISTEN`."""

import sys

from usageflow.config import Settings
from usageflow.proxy import ReverseProxy
from usageflow.proxy.serve import run

if __name__ == "__main__":
    app = ReverseProxy(sys.argv[1], settings=Settings())
    run(app, listen=sys.argv[2], drain_timeout_s=5)
