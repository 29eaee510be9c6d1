"""The single writer of a run's ledger: its sums, its queue of fits, its requests to forget and its repairs. No ray."""
