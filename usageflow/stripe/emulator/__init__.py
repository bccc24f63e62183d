"""A stateful fake of the part of Stripe that UsageFlow needs, for tests, the demo and development.

It imports nothing else of UsageFlow but its errors, so that it cannot agree with the forwarder by
sharing its mistakes. What it does not emulate it refuses with a 501.
"""
