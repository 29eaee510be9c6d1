"""What the package brings along so that it can be tried without a network: a small model and a small data set."""

from taft_ray.embedded.digits import write_digits
from taft_ray.embedded.model import EMBEDDED_NAME, WEIGHTS, create, embedded_config

__all__ = ["EMBEDDED_NAME", "WEIGHTS", "create", "embedded_config", "write_digits"]
