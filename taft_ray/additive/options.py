"""Options of additive runs that decisions need without torch."""

ADDITIVE = "additive"
DEFAULT_BLOCKS = "default"
GRID = tuple(10.0 ** (step / 4) for step in range(-40, 5))  # λ that are tried: 1e-10 to 10
