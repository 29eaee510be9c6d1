"""A worker on a shard in slices, without Ray. Going on from a checkpoint in storage gives the delta of never having had
the sample, by its digest."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder import files, flip_a_byte

from taft_ray.data import sample_keys, slice_of
from taft_ray.plans.slices import after_fit, after_loss, resume_from
from taft_ray.plans.spec import RunSpec
from taft_ray.run.model import build_tangent
from taft_ray.storage import CheckpointRef, Store, read_checkpoint, write_part, write_spec
from taft_ray.tangent import model as model_module
from taft_ray.tangent import prepared as prepared_module
from taft_ray.workers.shard_worker import ShardWorker

CLASSES, SAMPLES, SLICES = 3, 24, 4
NAMES = [f"person-{number}" for number in range(SAMPLES)]


class Shard:
    """A run's folder with the cache of one shard, and what a composer would ask of it."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self.folder, self.spec = folder, spec
        self.store = Store(str(folder))
        torch.set_num_threads(1)
        write_spec(self.store, spec.to_json())
        tm, self.fingerprint = build_tangent(spec, CLASSES)
        self.keys = sample_keys(NAMES, spec.seed)
        self.slices = slice_of(self.keys, slices=spec.slices, seed=spec.seed)
        images = torch.randn(SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(5))
        self.tokens = tm.prefix(images).half().numpy()
        self.worker = ShardWorker(str(folder), CLASSES)

    def parts(self, gone: Collection[int] = ()) -> list[dict[str, Any]]:
        """The cache without some samples, in two parts."""
        left = [number for number in range(SAMPLES) if number not in gone]
        refs = []
        for part, rows in enumerate((left[::2], left[1::2])):
            if rows:
                ref = write_part(
                    self.store, "cache/shard=00000", part, keys=[self.keys[i] for i in rows],
                    labels=np.array(rows) % CLASSES, tokens=self.tokens[rows], dtype="float16", fingerprint=self.fingerprint,
                )  # fmt: skip
                refs.append(ref.to_json())
        return refs

    def fit(
        self, gone: Collection[int] = (), resume: CheckpointRef | None = None, shard: int | str = 0
    ) -> dict[str, Any]:
        task = {"shard": shard, "generation": 1, "parts": self.parts(gone), "resume": resume and resume.to_json()}
        return self.worker.fit(task)

    def of_slice(self, number: int) -> list[int]:
        return np.flatnonzero(self.slices == number).tolist()


@pytest.fixture
def shard_of_spec(tmp_path: Path, spec_of: Callable[..., RunSpec]) -> Callable[..., Shard]:
    def make(**changes: Any) -> Shard:
        options = {"solver": "adam", "slices": SLICES, "shards": 1, "batch_size": 4, "epochs": 5, "milestones": (3,)}
        return Shard(tmp_path / "run", spec_of("/data", **{**options, **changes}))

    return make


@pytest.fixture
def shard(shard_of_spec: Callable[..., Shard]) -> Shard:
    return shard_of_spec()


def written(result: dict[str, Any]) -> list[CheckpointRef]:
    return [CheckpointRef.from_json(ref) for ref in result["checkpoints"]]


def digests(refs: Sequence[CheckpointRef]) -> dict[int, str]:
    return {ref.stage: ref.digest for ref in refs}


@pytest.mark.parametrize("lost", range(SLICES))
def test_going_on_equals_never_having_had_the_sample(shard: Shard, lost: int) -> None:
    before = shard.fit()
    gone = shard.of_slice(lost)[:1]
    survival = after_loss(written(before), {lost})
    again = shard.fit(gone, resume_from(survival.kept))
    never = shard.fit(gone)
    assert again["facts"]["resumed_stage"] == lost
    assert never["facts"]["resumed_stage"] == 0
    assert again["facts"]["stages"] == SLICES
    assert again["facts"]["resume_refused"] is None
    assert again["facts"]["slice_samples"] == [len(shard.of_slice(j)) - (j == lost) for j in range(SLICES)]
    assert again["delta"] == never["delta"] != before["delta"]
    assert digests(after_fit(survival.kept, written(again))) == digests(written(never))
    assert [ref["stage"] for ref in again["checkpoints"]] == list(range(lost + 1, SLICES))
    assert again["facts"]["iterations"] < never["facts"]["iterations"] or lost == 0


def test_batch_of_losses_and_slices_that_run_empty(shard: Shard) -> None:
    before = shard.fit()
    gone = [*shard.of_slice(1), *shard.of_slice(3)[:2], *shard.of_slice(2)]
    survival = after_loss(written(before), {1, 2, 3})
    assert [ref.stage for ref in survival.kept] == [1]
    assert shard.fit(gone, resume_from(survival.kept))["delta"] == shard.fit(gone)["delta"]
    everything_early = [*shard.of_slice(0), *shard.of_slice(1)]
    never = shard.fit(everything_early)
    first = CheckpointRef.from_json(never["checkpoints"][0])
    assert not any(value.any() for value in read_checkpoint(shard.store, first)[0].values())


def test_second_forget_goes_on_from_what_the_first_left(shard: Shard) -> None:
    refs: Sequence[CheckpointRef] = written(shard.fit())
    gone: list[int] = []
    for lost in (2, 3, 0, 1):
        gone += shard.of_slice(lost)[:1]
        kept = after_loss(refs, {lost}).kept
        again = shard.fit(gone, resume_from(kept))
        assert again["facts"]["resumed_stage"] == lost
        refs = after_fit(kept, written(again))
        never = shard.fit(gone)
        assert again["delta"] == never["delta"]
        assert digests(refs) == digests(written(never))


@pytest.mark.parametrize("how", ["flipped", "gone", "of another shard", "of other constants", "around fewer layers"])
def test_checkpoint_that_cannot_be_used_costs_time_and_not_bits(
    shard: Shard, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shard.fit()
    gone = shard.of_slice(3)[:1]
    resume = written(before)[2]
    path = shard.folder / resume.key
    if how == "flipped":
        flip_a_byte(path)
    elif how == "gone":
        path.unlink()
    elif how == "of another shard":
        resume = written(shard.fit(shard=1))[2]
    elif how == "around fewer layers":  # without the sample the outputs of one more layer fit into the budget
        monkeypatch.setattr(model_module, "_WORTH", 1.0)
        tm = shard.worker.tm
        sizes = [value.nbytes * SAMPLES for value in tm.layer_outputs(torch.from_numpy(shard.tokens[:1])).values()]
        shard.worker.spec = replace(shard.worker.spec, constants_gib=sizes[0] / 2**30)
        resume = written(shard.fit())[2]
        shard.worker.spec = replace(shard.worker.spec, constants_gib=(sizes[0] + sizes[1]) / 2**30)
    else:  # the shard was just above the budget, and is just below it without the sample
        enough = shard.worker.spec
        shard.worker.spec = replace(enough, constants_gib=0.0)
        resume = written(shard.fit())[2]
        shard.worker.spec = enough
    again = shard.fit(gone, resume)
    assert again["facts"]["resumed_stage"] == 0
    assert resume.key in again["facts"]["resume_refused"]
    never = shard.fit(gone)
    assert again["delta"] == never["delta"]
    assert again["checkpoints"] == never["checkpoints"]
    if how in ("flipped", "gone"):  # its stage saw none of what is gone: what is written again is what was there
        read_checkpoint(shard.store, resume)


def test_checkpoints_are_in_the_shards_folder_and_nowhere_else(shard: Shard) -> None:
    result = shard.fit(shard=0)
    assert [ref["stage"] for ref in result["checkpoints"]] == [1, 2, 3]
    found = [str(path.relative_to(shard.folder)) for path in files(shard.folder, "checkpoints")]
    assert found == [ref["key"] for ref in result["checkpoints"]]
    assert all(key.startswith("checkpoints/shard=00000/00") for key in found)
    for path in files(shard.folder, "checkpoints"):
        content = path.read_bytes()
        assert not any(key in content or key.hex().encode() in content for key in shard.keys)


def test_no_pass_prepares_pictures_of_two_slices(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """On kernels whose last bits depend on the pass a checkpoint would else depend on later slices."""
    passes: list[int] = []
    prepare = shard.worker.tm.prepare
    monkeypatch.setattr(shard.worker.tm, "prepare", lambda tokens: passes.append(len(tokens)) or prepare(tokens))
    monkeypatch.setattr(prepared_module, "PREPARE_CHUNK", 4)
    shard.fit()
    sizes = [len(shard.of_slice(part)) for part in range(SLICES)]
    assert passes[0] == 1  # tells how large a picture's constants are
    assert passes[1:] == [min(4, size - at) for size in sizes for at in range(0, size, 4)]
    assert len(passes) > SLICES


def test_comparison_model_has_no_slices(shard_of_spec: Callable[..., Shard]) -> None:
    shard = shard_of_spec(compose="mean")
    result = shard.fit(shard="monolith")
    assert "checkpoints" not in result
    assert "stages" not in result["facts"]
    assert not (shard.folder / "checkpoints").exists()
    steps = -(-SAMPLES // 4)
    assert result["facts"]["iterations"] == 5 * steps


@pytest.mark.parametrize("solver", ["adam", "ridge"])
def test_run_without_slices_keeps_none(shard_of_spec: Callable[..., Shard], solver: str) -> None:
    shard = shard_of_spec(slices=1, solver=solver)
    result = shard.fit()
    assert "checkpoints" not in result
    assert not (shard.folder / "checkpoints").exists()
    assert not {"stages", "resumed_stage"} & result["facts"].keys()
