"""Readers of a run's folder for the tests, and a forget without Ray.

A ``Path | str`` is a run anywhere (``s3://`` too); a ``Path`` is one on this machine.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import assign, sample_keys
from taft_ray.plans.fold import replay
from taft_ray.plans.state import RunState
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.storage import Ledger, Store, read_delta
from taft_ray.storage.digest import seal
from taft_ray.storage.ledger import GENESIS
from taft_ray.sums import Sums
from taft_ray.workers.kinds import new_worker
from taft_ray.workers.row_worker import RowWorker
from taft_ray.workers.shard_worker import ShardWorker

W = TypeVar("W", bound=ShardWorker | RowWorker)


def shard_of(name: str, shards: int, seed: int = 0) -> int:
    return int(assign(sample_keys([name], seed), shards=shards, method="hash")[0])


def state_of(run: Path | str) -> RunState:
    return replay(Ledger(Store(str(run))).entries())


def kinds(run: Path | str) -> list[str]:
    return [entry.kind for entry in Ledger(Store(str(run))).entries()]


def delta_digests(run: Path | str) -> dict[int, str]:
    return {shard.shard: str(shard.in_sums.digest) for shard in state_of(run).in_model}


def computed_digest(run: Path | str) -> str | None:
    """The model's digest, from what is stored and not as the ledger has it."""
    return Composer(str(run)).composition.computed_digest()


def files(run: Path, folder: str = "") -> list[Path]:
    return sorted(path for path in (run / folder).rglob("*") if path.is_file())


def holders(run: Path, needle: bytes) -> list[str]:
    """The files of the run whose name or bytes hold ``needle``, itself or as hex."""
    spelled = (needle, needle.hex().encode())
    return [
        str(path.relative_to(run))
        for path in files(run)
        if any(word in path.read_bytes() or word.decode("latin1") in path.name for word in spelled)
    ]


def composed_without(run: Path | str, missing: set[int], mode: str) -> str:
    """The digest of composing, from nothing, the deltas of all shards but ``missing``."""
    torch.set_num_threads(1)
    sums, store, state = Sums(), Store(str(run)), state_of(run)
    for shard in reversed(state.in_model):
        if shard.shard not in missing:
            tensors, _ = read_delta(store, shard.in_sums)
            sums.add({name: torch.from_numpy(value) for name, value in tensors.items()}, shard.weight)
    return snapshot_digest(sums.compose(mode, 0.02))


def only_cached(run: Path) -> Path:
    """Take a run's copy back to where its cache was just finished."""
    for entry in sorted((run / "ledger").iterdir())[2:]:
        entry.unlink()
    assert kinds(run) == ["created", "cached"]
    for folder in ("deltas", "composed", "certificates", "reports"):
        shutil.rmtree(run / folder, ignore_errors=True)
    return run


def finish(composer: Composer, asked: dict[str, Any], worker: ShardWorker | RowWorker | None = None) -> dict[str, Any]:
    """Purge, fit again and conclude, as `requests.forget` does."""
    if asked["done"]:
        return composer.certificate(asked["request"])
    asked = composer.resume_forget(asked["request"])
    for shard in asked["retrain"]:
        task = composer.task_for(shard, asked["mode"] == "resolve")
        if task is not None:
            worker = worker or new_worker(composer.record.store.uri, composer.record.spec, composer.class_count())
            composer.finished(worker.fit(task))
    return composer.conclude_forget(asked["request"], {"retrain_seconds": 0.0})


def plain_forget(
    run: Path | str, ids: Sequence[str], mode: str, *, worker: ShardWorker | RowWorker | None = None, **selection: Any
) -> dict[str, Any]:
    """A forget without Ray: of these ids, or of ``owners`` or ``shards``; ``worker`` as `plain_train` says."""
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(ids), **selection), mode)
    answers = carry_out(composer, [asked["request"]], worker)
    return answers.get(asked["request"]) or composer.certificate(asked["request"])


def carry_out(
    composer: Composer, first: Sequence[str] = (), worker: ShardWorker | RowWorker | None = None
) -> dict[str, dict[str, Any]]:
    """Carry out what is due, with ``first``, together, as `requests` does: certificates by request."""
    worker = worker and at(worker, composer.record.store.uri)
    standing = [composer.resume_forget(request) for request in composer.due_requests(first)]
    to_fit: dict[int, bool] = {}
    for asked in standing:
        for shard in asked["retrain"]:
            to_fit[shard] = to_fit.get(shard, True) and asked["mode"] == "resolve"
    for shard, resolve in sorted(to_fit.items()):
        worker = worker or new_worker(composer.record.store.uri, composer.record.spec, composer.class_count())
        task = composer.task_for(shard, resolve)
        if task is not None:
            composer.finished(worker.fit(task))
    told = {"retrain_seconds": 0.0}
    return {asked["request"]: composer.conclude_forget(asked["request"], told) for asked in standing}


def at(worker: W, run: Path | str) -> W:
    """The worker, as one that was made for this run: the model is the same, and need not be made again."""
    worker.store = Store(str(run))
    torch.set_num_threads(worker.spec.threads)
    torch.use_deterministic_algorithms(True)
    return worker


def copy_run(run: Path | str, target: Path | str) -> None:
    """Copy a run's objects from anywhere to anywhere, but not what is kept beside it."""
    there, here = Store(str(run)), Store(str(target))
    for info in there.list():
        here.write(info.key, there.read(info.key))


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def entries_of(run: Path, kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted((run / "ledger").iterdir()):
        entry = json.loads(path.read_text())
        if entry["kind"] == kind:
            yield entry


def reseal(run: Path, kind: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change entries of a kind, and make the chain whole again, as somebody could who can write to the folder."""
    previous = GENESIS
    for path in sorted((run / "ledger").iterdir()):
        entry = json.loads(path.read_text())
        if entry["kind"] == kind:
            entry["body"] = change(entry["body"])
        entry.pop("digest")
        data = seal({**entry, "prev": previous}, "digest")
        previous = json.loads(data)["digest"]
        path.write_bytes(data)
