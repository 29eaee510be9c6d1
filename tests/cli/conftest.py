"""One run for the commands' tests, trained through the whole path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, ray_session: None, spec_of: Callable[..., Any], parquet: Path
) -> Path:
    from taft_ray.verbs.train import train

    run = tmp_path_factory.mktemp("cli") / "run"
    train(str(run), spec_of(parquet, compose="additive", features=48), lanes=1)
    return run
