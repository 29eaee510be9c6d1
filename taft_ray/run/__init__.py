"""A run in storage: its address, spec, secret, record, state and sums. No ray."""
