"""Options of additive runs that decisions need without torch."""

from taft_ray.errors import UsageError

ADDITIVE = "additive"
DEFAULT_BLOCKS = "default"
MOST_VIEWS = 4  # of a picture; the last one keeps 5/8 of each side
GRID = tuple(10.0 ** (step / 4) for step in range(-40, 5))  # λ that are tried: 1e-10 to 10


def check_views(views: int) -> None:
    """UsageError for a number of views that there is not."""
    if isinstance(views, bool) or not isinstance(views, int) or not 1 <= views <= MOST_VIEWS:
        raise UsageError(f"views={views!r}: expected a number 1..{MOST_VIEWS}; set --views")
