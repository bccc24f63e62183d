"""`python -m usageflow.cli.proxy_worker`: one worker of `usageflow proxy`, which starts it itself.

Not a command: it reads from its parent what it is to do.
"""

from usageflow.cli.logs import log_to_stderr
from usageflow.proxy.worker import work

if __name__ == "__main__":
    log_to_stderr()
    work()
