"""What the tests read from a run's folder, and a forget without Ray."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taft_ray.data import assign, sample_keys
from taft_ray.orchestration.composer import Composer
from taft_ray.orchestration.forgetting import Selection
from taft_ray.orchestration.worker import ShardWorker, snapshot_digest
from taft_ray.plans.state import RunState, replay
from taft_ray.storage import DeltaRef, Ledger, Store, read_delta
from taft_ray.tangent import Sums


def shard_of(name: str, shards: int, seed: int = 0) -> int:
    return int(assign(sample_keys([name], seed), shards=shards, method="hash")[0])


def state_of(run: Path) -> RunState:
    return replay(Ledger(Store(str(run))).entries())


def kinds(run: Path) -> list[str]:
    return [entry.kind for entry in Ledger(Store(str(run))).entries()]


def delta_digests(run: Path) -> dict[int, str]:
    return {shard.shard: str((shard.delta or {})["digest"]) for shard in state_of(run).in_model}


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


def composed_without(run: Path, missing: set[int], mode: str) -> str:
    """The digest of composing, from nothing, the deltas of all shards but ``missing``."""
    import torch

    torch.set_num_threads(1)
    sums, store, state = Sums(), Store(str(run)), state_of(run)
    for shard in reversed(state.in_model):
        if shard.shard not in missing:
            tensors, _ = read_delta(store, DeltaRef.from_json(shard.delta or {}))
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


def finish(composer: Composer, asked: dict[str, Any], worker: ShardWorker | None = None) -> dict[str, Any]:
    """Purge, fit again and conclude, as `requests.forget` does."""
    if asked["done"]:
        return composer.certificate(asked["request"])
    asked = composer.resume_forget(asked["request"])
    for shard in asked["retrain"]:
        task = composer.task_for(shard, asked["mode"] == "resolve")
        if task is not None:
            worker = worker or ShardWorker(str(composer.record.store.fetch("run.json").parent), composer.class_count())
            composer.finished(worker.fit(task))
    return composer.conclude_forget(asked["request"], {"retrain_seconds": 0.0})


def plain_forget(run: Path, ids: list[str], mode: str, **selection: Any) -> dict[str, Any]:
    """A forget without Ray: of these ids, or of ``owners`` or ``shards``."""
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(ids), **selection), mode)
    answers = {
        name: finish(composer, composer.forgetting.answer(name)) for name in composer.due_requests([asked["request"]])
    }
    return answers.get(asked["request"]) or composer.certificate(asked["request"])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def entries_of(run: Path, kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted((run / "ledger").iterdir()):
        entry = json.loads(path.read_text())
        if entry["kind"] == kind:
            yield entry
