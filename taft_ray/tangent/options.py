"""Options of a linearisation that decisions need without torch."""

TRAINABLE = ("full", "bitfit", "norm", "head")
PREPARED_BUDGET = 4 << 30  # bytes of constants kept in memory; beyond it they are recomputed batch by batch
