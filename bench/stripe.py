"""The way from the ledger to Stripe: every trial; each can be run by its own name, too."""

from bench import forwarding_fold, forwarding_lag, forwarding_raw, forwarding_storm


def main() -> None:
    """Measure and print."""
    for trial in (forwarding_fold, forwarding_raw, forwarding_lag, forwarding_storm):
        trial.main()
