"""A worker and a copy of the run that a module trains as its fixture ``whole``; specs of additive runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import at

from taft_ray.workers.shard_worker import ShardWorker


@pytest.fixture(scope="module")
def warm(whole: Path) -> ShardWorker:
    return ShardWorker(str(whole), 3)


@pytest.fixture
def worker(warm: ShardWorker, whole: Path) -> ShardWorker:
    return at(warm, whole)


@pytest.fixture
def run(whole: Path, copy_of: Callable[..., Path]) -> Path:
    return copy_of(whole)


@pytest.fixture(scope="session")
def additive(spec_of: Callable[..., Any]) -> Callable[..., Any]:
    """A RunSpec of rows alone, on some data."""

    def make(data: Path | str, **changes: Any) -> Any:
        return spec_of(data, **{"solver": "additive", "features": 48, **changes})

    return make
