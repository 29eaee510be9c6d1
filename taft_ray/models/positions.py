"""Position embeddings of another grid: resampled where their number says which grid it was, refused otherwise."""

from __future__ import annotations

import math
import re
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

POSITIONS = "pos_embed"
# tables that depend on the picture's size, which a family's own converter in timm can bring to another
_TABLES = re.compile(r"pos_embed|rel_pos|relative_|rope|position")


def depends_on_size(key: str) -> bool:
    """Whether a tensor of this name has another shape at another picture size."""
    return _TABLES.search(key) is not None


def prefix_tokens(network: nn.Module) -> int:
    """How many of the position embeddings belong to tokens that are no patches (class, distillation, registers)."""
    grid, own = _grid(network), getattr(network, POSITIONS, None)
    if grid is not None and isinstance(own, Tensor) and own.ndim == 3 and own.shape[1] == grid[0] * grid[1]:
        return 0  # a class token that joins behind them, as in CaiT
    return 0 if getattr(network, "no_embed_class", False) else int(getattr(network, "num_prefix_tokens", 0))


def _grid(network: nn.Module) -> tuple[int, int] | None:
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    return None if grid is None else (int(grid[0]), int(grid[1]))


def resampled(network: Any, positions: Tensor) -> Tensor:
    """Positions (1, n, width) on the network's grid; unchanged where that is impossible: `why_not` says why."""
    grid = _grid(network)
    if grid is None or not _are_alike(network, positions) or why_not(network, positions):
        return positions
    return resample_abs_pos_embed(positions.float(), new_size=list(grid), num_prefix_tokens=prefix_tokens(network))


def why_not(network: Any, positions: Tensor) -> str:
    """Why positions of another number cannot be resampled, "" where they can, or where it is another matter."""
    if not _are_alike(network, positions):
        return ""  # reported as a shape that does not fit
    own = network.get_parameter(POSITIONS)
    count, extra = positions.shape[1], prefix_tokens(network)
    if count > extra and _is_square(count - extra):
        return ""
    grid = _grid(network)
    has = f"{count} positions in the weights are no square grid of patches and {_tokens(extra)}"
    if grid is not None:
        has += f", {own.shape[1]} in the model are {grid[0]} x {grid[1]} patches and {_tokens(extra)}"
    others = [other for other in range(8) if other != extra and count > other and _is_square(count - other)]
    if others:
        side = math.isqrt(count - others[0])
        return (
            f"{has}; the weights look like {side} x {side} patches and {_tokens(others[0])}: "
            "choose the model that they belong to"
        )
    return f"{has}; weights of a picture that is not square cannot be used: give weights of a square one"


def _are_alike(network: Any, positions: Tensor) -> bool:
    """Whether they differ from the network's own in their number alone."""
    own = network.get_parameter(POSITIONS)
    return positions.ndim == own.ndim == 3 and positions.shape[::2] == own.shape[::2]


def _is_square(count: int) -> bool:
    return math.isqrt(count) ** 2 == count


def _tokens(count: int) -> str:
    return f"{count or 'no'} token{'' if count == 1 else 's'} before them"
