"""The most that a device can do, measured: bytes copied and multiply-adds per second; and how long a call takes on it."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")
WARM_UP = 3


def dtype_of(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Matrix products of float32 in TF32 inside the block where that is what ``precision`` says; sums stay float32 always."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@dataclass(frozen=True)
class Clock:
    """Times calls on a device: by events of its own stream on a GPU, so that nothing waits between two calls."""

    device: torch.device

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def seconds(self, call: Callable[[], Any], repetitions: int) -> float:
        """The median of a call, after a warm-up."""
        for _ in range(WARM_UP if self.on_gpu else 1):
            call()
        if not self.on_gpu:
            times = []
            for _ in range(repetitions):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            return statistics.median(times)
        self.wait()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repetitions + 1)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        self.wait()
        return 1e-3 * statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(marks))

    def whole_seconds(self, call: Callable[[], Any]) -> float:
        """One call with all that it leaves to the device, by the wall clock."""
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> float:
        """Give back what the last part held; the most it held, in GB."""
        gc.collect()
        if not self.on_gpu:
            return 0.0
        peak = torch.cuda.max_memory_allocated(self.device) / 1e9
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        return round(peak, 2)


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Measured on this device: ``copied`` bytes a second, read and written counted; ``flops`` a second by precision."""

    copied: float
    flops: dict[str, float]

    @classmethod
    def measure(cls, clock: Clock, repetitions: int) -> Roofline:
        size, side = (1 << 28, 8192) if clock.on_gpu else (1 << 22, 768)
        source = torch.zeros(size, device=clock.device)
        target = torch.empty_like(source)
        copied = 2 * source.nbytes / clock.seconds(lambda: target.copy_(source), repetitions)
        flops = {}
        for precision in PRECISIONS if clock.on_gpu else ("float32", "bfloat16"):
            a, b = (torch.randn(side, side, device=clock.device).to(dtype_of(precision)) for _ in range(2))
            out = torch.empty_like(a)
            with products(precision):
                seconds = clock.seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), repetitions)
            flops[precision] = 2 * side**3 / seconds
        return cls(copied=copied, flops=flops)

    def floor_s(self, moved: float, flops: float, precision: str) -> tuple[float, str]:
        """The least time for so many bytes and floating-point operations, and which of the two it is."""
        by_bytes, by_flops = moved / self.copied, flops / self.flops[precision]
        return (by_bytes, "bandwidth") if by_bytes > by_flops else (by_flops, "products")

    def to_json(self) -> dict[str, Any]:
        return {
            "copy_gb_per_s": round(self.copied / 1e9, 1),
            "tflops": {precision: round(rate / 1e12, 3) for precision, rate in self.flops.items()},
        }
