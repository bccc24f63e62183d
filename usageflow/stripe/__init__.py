"""The way to Stripe: customers, meters and meter events of the ledger's units, and our emulator.

Importing this package loads nothing; the SDK is imported by `usageflow.stripe.client` alone.
"""
