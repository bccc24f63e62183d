"""The way from the ledger's lanes to a sink: pacing, sending, and what any sink must promise.

Importing this package loads nothing.
"""
