"""Rows and tokens from one forward pass: the cache of a run of two tiers.

Guarantees: the row is that of a lean run, and the tokens are those of a tangent run, to the last bit on one machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taft_ray.plans.spec import RunSpec
from taft_ray.run.model import build_tangent
from taft_ray.run.rows import RowMaker, build_rows, fingerprint_of
from taft_ray.storage import digest_json

if TYPE_CHECKING:
    from torch import Tensor

    from taft_ray.models import Preprocess


class BothMaker:
    """Pictures to tokens and rows, with the interface that the prefix pass needs: ``network`` and ``prefix``."""

    def __init__(self, maker: RowMaker, last_blocks: int | str) -> None:
        from taft_ray.tangent.network import between, cut

        self.network, self.projection = maker.network, maker.projection
        self._before = cut(self.network, last_blocks).prefix
        self._behind = between(self.network, last_blocks, 0)

    def prefix(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, H, W) -> tokens (n, T, D) at the entrance of the suffix, and int16 (n, S)."""
        import torch

        from taft_ray.additive import rows_of

        tokens: list[Tensor] = []

        def through(images: Tensor) -> Tensor:
            tokens.append(self._before(images))
            return self._behind(tokens[0])

        rows = rows_of(self.network, self.projection, images, through)
        return tokens[0], torch.from_numpy(rows)


def build_both(spec: RunSpec, classes: int) -> tuple[BothMaker, Preprocess, str]:
    """The maker of a run's rows and tokens, and the fingerprint of both recipes."""
    maker, preprocess, of_rows = build_rows(spec)
    _, of_tokens = build_tangent(spec, classes)
    return BothMaker(maker, spec.last_blocks), preprocess, together(of_tokens, of_rows)


def cache_fingerprint(spec: RunSpec, of_tokens: str) -> str:
    """The fingerprint of a run's cache whose tokens have this one."""
    return together(of_tokens, fingerprint_of(spec)) if spec.two_tiers else of_tokens


def together(of_tokens: str, of_rows: str) -> str:
    """One fingerprint of two recipes."""
    return digest_json({"tokens": of_tokens, "rows": of_rows})
