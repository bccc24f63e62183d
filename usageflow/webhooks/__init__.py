"""Telling others: webhooks out, with signatures and retries, and mail."""
