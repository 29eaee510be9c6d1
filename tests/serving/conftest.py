"""A trained run that is served, without Ray, and a replica of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plain import plain_train
from plain_replica import PlainReplica, begin_serving


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("served") / "run"
    plain_train(run, spec_of(parquet, trainable="head"))
    return run


@pytest.fixture
def run(trained: Path, copy_of: Callable[..., Path]) -> Path:
    copied = copy_of(trained)
    begin_serving(copied)
    return copied


@pytest.fixture
def served(run: Path) -> Iterator[PlainReplica]:
    replica = PlainReplica(str(run)).poll()
    yield replica
    replica.replica.close()
