"""A stateful fake of Stripe's metering API, for tests, the demo and development.

It imports nothing else of UsageFlow but its errors, so that it cannot agree with the forwarder by
sharing its mistakes. It does not emulate invoices, webhooks, Connect OAuth or the v2 API yet.
"""
