"""The least time that a training step can take: the bytes it must move and the multiply-adds it must make, at the machine's own rates.

Legend: B batch, T tokens, D width, H heads, P trained values.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from taft_ray.tangent import TangentModel

COPIED = 1 << 28  # bytes: far more than the caches hold
SIDE = 1536  # of the square matrices whose product is timed


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The machine's: bytes a second (read and written, of a large copy), float32 multiply-adds a second (of a large product)."""

    bytes_s: float
    multiply_adds_s: float


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Bytes and multiply-adds of one step of the last block behind the class token, cached tokens, float32.

    token_bytes: X̂ is read once going forward and once going back; torch's own products read it twice each time.

    weight_bytes: W and ΔW are read going forward, W going back, ΔW's gradient is written.

    adam_bytes: Δ, its gradient and two moments are read, three of them written.

    multiply_adds: 2·H·T·D per picture going forward for the attention, and as many going back. Each of the P trained
    weights is in four products.
    """

    token_bytes: int
    weight_bytes: int
    adam_bytes: int
    multiply_adds: int

    def seconds(self, rates: Rates) -> float:
        """The larger of the two: bytes at the copy's rate, multiply-adds at the product's."""
        moved = self.token_bytes + self.weight_bytes + self.adam_bytes
        return max(moved / rates.bytes_s, self.multiply_adds / rates.multiply_adds_s)


def floor_of(tm: TangentModel, *, batch: int, tokens: int) -> Floor:
    attention = list(tm.network.get_submodule("blocks").children())[-1].get_submodule("attn")
    heads, width = int(attention.num_heads), int(tm.network.embed_dim)  # type: ignore[arg-type]  # timm's own
    trained = tm.zero_delta().numel()
    return Floor(
        token_bytes=2 * batch * tokens * width * 4,
        weight_bytes=4 * trained * 4,
        adam_bytes=7 * trained * 4,
        multiply_adds=batch * (2 * 2 * heads * tokens * width + 4 * trained),
    )


def measure_rates(repetitions: int = 9) -> Rates:
    """The rates of torch's own copy and product, on as many threads as it has."""
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return Rates(
        bytes_s=2 * COPIED / _median(lambda: target.copy_(source), repetitions),
        multiply_adds_s=SIDE**3 / _median(lambda: left @ right, repetitions),
    )


def _median(call: Callable[[], object], repetitions: int) -> float:
    call()
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
