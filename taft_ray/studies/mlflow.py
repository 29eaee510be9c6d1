"""The optional package that trials are logged with."""

from __future__ import annotations

import importlib.util

from taft_ray.errors import UsageError
from taft_ray.extras import needed


def check_mlflow() -> None:
    """UsageError when mlflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise UsageError(needed("--mlflow", "mlflow"))
