"""`verify --retrain`: the shards that a forget trained again are trained once more, from the cache, and compared.

A shard that was solved again (mode resolve) started from a delta that is gone, so that its bits cannot be made again. Its
claim is another one, the certified distance to the optimum, and that is computed anew.
"""

from __future__ import annotations

import tempfile

from taft_ray.errors import IntegrityError
from taft_ray.plans.state import ShardState
from taft_ray.proof.evidence import Evidence
from taft_ray.run.environment import fit_environment, torch_settings_kept
from taft_ray.run.reserved import reserved_task
from taft_ray.storage import Store
from taft_ray.workers.kinds import new_worker
from taft_ray.workers.row_worker import RowWorker
from taft_ray.workers.shard_worker import ShardWorker

# Rounding a delta to its grid and another machine's float32 sums move a distance. The move is relative to the distance itself
# where that is large. Where it is so small that float32 no longer resolves it, the move is relative to that of no delta at all.
RELATIVE, ABSOLUTE = 0.05, 1e-5


def retrained_again(run: Evidence) -> None:
    """Every retrained shard in the model is, bit for bit, what its cache gives; or as near its optimum as certified."""
    # every shard of a private run: its bits prove that the noise is that of the key
    shards = [shard for shard in run.state.in_model if shard.generation > 1 or run.spec.privacy is not None]
    run.checks["shards trained again"] = 0
    if not shards or run.manifest is None:
        return
    with tempfile.TemporaryDirectory(prefix="taft-ray-verify-") as folder, torch_settings_kept():
        worker = None
        for done, shard in enumerate(shards):
            run.report("verify retrain", done, len(shards))
            with run.examining("shards trained again"):
                if worker is None:
                    worker = new_worker(run.address, run.spec, len(run.state.classes), into=Store(folder))
                (_near if shard.facts.get("resolved") else _equal)(run, worker, shard)
                run.checks["shards trained again"] += 1
        run.report("verify retrain", len(shards), len(shards))


def _equal(run: Evidence, worker: ShardWorker | RowWorker, shard: ShardState) -> None:
    recorded = shard.in_sums
    task = {"shard": shard.shard, "generation": shard.generation, "parts": run.parts.get(str(shard.shard), [])}
    if run.spec.privacy is not None:
        assert run.manifest is not None
        task |= reserved_task(run.spec, run.state, run.manifest, shard)
    result = worker.fit(task)  # from zero, whatever checkpoint the recorded fit went on from
    again = {ref["stage"]: ref["digest"] for ref in result.get("checkpoints", ())}
    other = [ref.key for ref in shard.checkpoints if again.get(ref.stage) != ref.digest]
    got = result["delta"]["digest"]
    if got == recorded.digest:
        if other:
            raise IntegrityError(f"the checkpoints {other[:4]} are not what the cache gives; the delta is")
        return
    then, now = shard.facts.get("environment", {}), fit_environment(worker.spec)
    differs = ", ".join(
        f"{name} {then.get(name)!r} then and {now[name]!r} now" for name in now if then.get(name) != now[name]
    )
    raise IntegrityError(
        f"{recorded.key} is not what its cache gives: digest {got[:16]}, recorded {recorded.digest[:16]}"
        + (f"; but bits are only the same on the same kind of machine: {differs}" if differs else "")
    )


def _near(run: Evidence, worker: ShardWorker | RowWorker, shard: ShardState) -> None:
    assert isinstance(worker, ShardWorker)  # no other one solves
    recorded = shard.in_sums
    distance, scale = worker.certified_distance(run.parts.get(str(shard.shard), []), recorded.to_json())
    bound = float(shard.facts["distance_bound"])
    if not distance <= bound * (1 + RELATIVE) + scale * ABSOLUTE:
        raise IntegrityError(
            f"{recorded.key} is {distance:.3g} from its optimum at most, and was certified to be within {bound:.3g}"
        )
