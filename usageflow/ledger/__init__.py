"""What was: usage events, the windows they add up to, and the units that carry them to Stripe."""
