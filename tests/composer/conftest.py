"""A worker and a copy of the run that a module trains as its fixture ``whole``."""

from collections.abc import Callable
from pathlib import Path

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
