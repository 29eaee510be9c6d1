"""A small model and a small data set, which the package brings along so that it can be tried without a network.

Names are looked up when they are first used, as in `tangent`.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

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


__getattr__ = attributes(__name__, _WHERE)
