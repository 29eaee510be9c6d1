"""Runs trained once a session, through the whole path; and the composer as a plain class, where Ray is not the point."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from folder import plain_forget as forget_without_ray
from folder import shard_of
from plain import plain_train as train_without_ray
from tiny import SAMPLES, SHARDS, sample_id, write_parquet

# in two shards: two samples of shard 0, one of shard 1
FORGOTTEN = (*[n for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == 0][:2],
             *[n for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == 1][:1])  # fmt: skip


@pytest.fixture(autouse=True)
def _torch_settings() -> Iterator[None]:
    """A composer or worker in this process sets its own; the next test starts from what was."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has joined no Ray, and where starting one is an error."""
    from taft_ray.orchestration import session
    from taft_ray.verbs import composer, doctor, forget

    def connect() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(session, "connect", connect)
    for module in (composer, doctor, forget):
        monkeypatch.setattr(module, "in_cluster", lambda: False)


@pytest.fixture(scope="session")
def forgotten_ids() -> list[str]:
    return [sample_id(n) for n in FORGOTTEN]


@pytest.fixture(scope="session")
def without_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("data") / "without", [n for n in range(SAMPLES) if n not in FORGOTTEN])


@pytest.fixture(scope="session")
def train_once(tmp_path_factory: pytest.TempPathFactory, ray_session: None, spec_of: Callable[..., Any]) -> Any:
    """Train a run in a new folder: its path, and what `train` answered."""
    from taft_ray.verbs.train import train

    def make(data: Path, *, lanes: int = 1, monolithic: bool = False, **changes: Any) -> tuple[Path, dict[str, Any]]:
        run = tmp_path_factory.mktemp("run") / "run"
        return run, train(str(run), spec_of(data, **changes), lanes=lanes, monolithic=monolithic)

    return make


@pytest.fixture(scope="session")
def ridge(train_once: Any, parquet: Path) -> tuple[Path, dict[str, Any]]:
    """Ridge and Gram, one lane, with the comparison model."""
    return train_once(parquet, lanes=1, monolithic=True)


@pytest.fixture(scope="session")
def train_plainly(tmp_path_factory: pytest.TempPathFactory, spec_of: Callable[..., Any]) -> Any:
    """The same without Ray, where Ray is not the point: the path, and the digest of the composed model."""

    def make(data: Path, *, lanes: int = 1, **changes: Any) -> tuple[Path, dict[str, Any]]:
        run = tmp_path_factory.mktemp("run") / "run"
        composer = train_without_ray(run, spec_of(data, **changes), lanes=lanes)
        return run, {"composed": composer.composed_digest()}

    return make


@pytest.fixture(scope="session")
def ridge_never_seen(train_plainly: Any, without_forgotten: Path) -> tuple[Path, dict[str, Any]]:
    """As `ridge` on data that never had the forgotten samples; two lanes."""
    return train_plainly(without_forgotten, lanes=2)


@pytest.fixture(scope="session")
def adam(train_plainly: Any, parquet: Path) -> tuple[Path, dict[str, Any]]:
    """Adam and the plain mean, two lanes."""
    return train_plainly(parquet, lanes=2, solver="adam", compose="mean")


@pytest.fixture(scope="session")
def adam_never_seen(train_plainly: Any, without_forgotten: Path) -> tuple[Path, dict[str, Any]]:
    return train_plainly(without_forgotten, lanes=1, solver="adam", compose="mean")


@pytest.fixture
def forget(ray_session: None) -> Iterator[Callable[..., dict[str, Any]]]:
    """`forget` on Ray; the warm actors of the runs it touched end with the test."""
    import ray

    from taft_ray.orchestration import actors, session
    from taft_ray.run.address import run_address
    from taft_ray.verbs import forget as requests

    touched = []

    def call(folder: Path, ids: list[str], mode: str) -> dict[str, Any]:
        touched.append(run_address(str(folder)))
        return requests.forget(str(folder), requests.Selection(ids=tuple(ids)), mode=mode)

    yield call
    for address in touched:
        for role in ("worker-0", "composer"):
            name = actors.actor_name(address, role)
            try:
                ray.kill(ray.get_actor(name, namespace=session.NAMESPACE))
            except ValueError:
                continue


@pytest.fixture(scope="session")
def forgotten_once(ridge: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the ridge run that has forgotten a sample by drop."""
    run = Path(shutil.copytree(ridge[0], tmp_path_factory.mktemp("forgotten") / "run"))
    forget_without_ray(run, [sample_id(0)], "drop")
    return run


@pytest.fixture(scope="session")
def proved(
    tmp_path_factory: pytest.TempPathFactory, parquet: Path, test_parquet: Path, spec_of: Callable[..., Any]
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A small run that has forgotten in every mode, and its certificates; made without Ray."""
    from proved import proved_run

    run = tmp_path_factory.mktemp("proved") / "run"
    return run, proved_run(run, spec_of(parquet, trainable="head"), test_parquet)
