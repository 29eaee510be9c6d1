"""The optional package that trials are logged with."""

from __future__ import annotations

import importlib.util

from taft_ray.errors import UsageError


def check_mlflow() -> None:
    """UsageError when mlflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise UsageError("--mlflow needs a package that is not installed; pip install 'taft_ray[mlflow]'")
