"""Options of additive runs that decisions need without torch."""

ADDITIVE = "additive"
DEFAULT_FEATURES = 2048
DEFAULT_BLOCKS = "default"
