"""taft_ray: fine-tune linearised vision transformers on shards that can be forgotten exactly.

The mathematics is here, and needs neither ray nor files; runs are made with ``taft-ray`` and ``jobs/``. Names are looked
up when they are first used: a process that only reads pictures must not wait seconds for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taft_ray.fitting import FitConfig, fit
    from taft_ray.sums import compose
    from taft_ray.tangent import Delta, Prepared, TangentModel, linearize

__version__ = "0.1.0"

__all__ = ["Delta", "FitConfig", "Prepared", "TangentModel", "compose", "fit", "linearize"]


_WHERE = {
    "taft_ray.fitting": ("FitConfig", "fit"),
    "taft_ray.sums": ("compose",),
    "taft_ray.tangent": ("Delta", "Prepared", "TangentModel", "linearize"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
