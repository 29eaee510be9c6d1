"""Options of additive runs that decisions need without torch."""

ADDITIVE = "additive"
DEFAULT_BLOCKS = "default"
MOST_VIEWS = 4  # of a picture; the last one keeps 5/8 of each side
GRID = tuple(10.0 ** (step / 4) for step in range(-40, 5))  # λ that are tried: 1e-10 to 10
