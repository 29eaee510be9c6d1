"""What the package brings along so that it can be tried without a network: a small model and a small data set.

Names are looked up when they are first used, as in `tangent`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taft_ray.embedded.digits import write_digits
    from taft_ray.embedded.model import WEIGHTS, create, embedded_config
    from taft_ray.embedded.names import EMBEDDED_NAME

__all__ = ["EMBEDDED_NAME", "WEIGHTS", "create", "embedded_config", "write_digits"]

_WHERE = {
    "taft_ray.embedded.digits": ("write_digits",),
    "taft_ray.embedded.model": ("WEIGHTS", "create", "embedded_config"),
    "taft_ray.embedded.names": ("EMBEDDED_NAME",),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
