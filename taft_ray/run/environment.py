"""Where something was made: what its last bits and its seconds depend on beside the spec."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from taft_ray.plans.spec import RunSpec


def run_environment(*, cpus: int, gpus: int, lanes: int, reach: str = "") -> dict[str, Any]:
    """Where a run was made. reach: by what it was known how many GPUs it may have."""
    return {
        "cpus": cpus,
        "gpus": gpus,
        "lanes": lanes,
        **({"gpus_within_reach": reach} if reach else {}),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def cell_environment(spec: RunSpec) -> dict[str, Any]:
    """The machine's part in the seconds and last bits of a cell."""
    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if spec.device == "cuda" else "cpu",
        "threads": spec.threads,
        "torch": str(torch.__version__),  # its own class would bring torch to whoever unpickles it
    }


def fit_environment(spec: RunSpec) -> dict[str, Any]:
    """The machine's part in the last bits of a fit."""
    return {**cell_environment(spec), "python": platform.python_version()}


@contextmanager
def torch_settings_kept() -> Iterator[None]:
    """PyTorch's settings of this process, which `settle` changes, are as before when the block ends."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def settle(spec: RunSpec) -> None:
    """Threads and deterministic algorithms as the spec has them, for this process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA's products need not repeat
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(True, warn_only=spec.device == "cuda")
