"""taft_ray: fine-tune linearised vision transformers on shards that can be forgotten exactly.

The mathematics is here, and needs neither ray nor files; runs are made with ``taft-ray`` and ``jobs/``. Names are looked
up when they are first used: a process that only reads pictures must not wait seconds for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taft_ray.tangent import Delta, FitConfig, Prepared, TangentModel, compose, fit, linearize

__version__ = "0.1.0"

__all__ = ["Delta", "FitConfig", "Prepared", "TangentModel", "compose", "fit", "linearize"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from taft_ray import tangent

        return getattr(tangent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
