"""`export`: the composed model as one file that runs without taft_ray: torch.export's .pt2, or .onnx."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taft_ray.additive.options import ADDITIVE
from taft_ray.errors import StorageError, UsageError
from taft_ray.log import operation
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.choice import choice_for, choice_of_owners
from taft_ray.run.model import build_tangent, load_for
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.record import Record
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.run.spec import run_spec
from taft_ray.run.state import read_state
from taft_ray.run.sums import one_thread, sums_of
from taft_ray.storage import Store
from taft_ray.sums.options import COMPOSITIONS
from taft_ray.tangent import ComposedModel
from taft_ray.verbs.settings import settings_told
from taft_ray.version import VERSION

if TYPE_CHECKING:
    from taft_ray.additive import AdditiveNetwork

FORMATS = (".pt2", ".onnx")


@operation("export")
def export(run: str, output: str, compose: str | None = None, owners: Sequence[str] = ()) -> dict[str, Any]:
    """Write the composed model of a run to a local file, its format by the file's ending; what was written.

    The file takes float32 pictures (B, 3, size, size), scaled to 0..1 and normalised as its ``taft_ray`` entry says: JSON of
    {"composed": digest, "classes", "size", "mean", "std", "shards", "version"}, in .pt2's extra files and .onnx's metadata.
    With ``owners`` it is the model of their pictures alone (an additive run), and the entry names them. Where an additive run
    has a policy (`tune`), the entry has its "settings"; stale ones are chosen again, in memory alone.
    """
    store, path = Store(run), Path(output)
    spec = run_spec(store)
    if path.suffix not in FORMATS:
        raise UsageError(f"--output {output}: expected a file ending in {' or '.join(FORMATS)}")
    if compose is not None and compose not in (*COMPOSITIONS, ADDITIVE):
        raise UsageError(f"--compose {compose}: expected one of {', '.join((*COMPOSITIONS, ADDITIVE))}")
    if compose not in (None, ADDITIVE) and spec.lean:
        raise UsageError(
            f"--compose {compose}: an additive run has one model, a function of the sums over its pictures, and nothing to "
            "compose it of in another way. Leave --compose out"
        )
    if compose is not None and compose not in spec.modes:
        raise UsageError(
            f"--compose {compose}: this run keeps no statistics for it; leave it out, or train with "
            f"--{'beside' if spec.two_tiers else 'compose'} {compose}"
        )
    if path.suffix == ".onnx":
        _need_onnx()
    state = read_state(store)
    mode = compose or spec.compose
    shards = state.in_tier(spec.by_records(mode))
    if state.cached is None or not shards:
        raise UsageError(f"no shard is in the model of {run}; train first, or retrain one that was dropped")
    classes = list(state.classes)
    if owners:
        spec.check_additive("the model of some owners alone")
    if owners and mode != ADDITIVE:
        raise UsageError(f"--compose {mode}: the model of some owners alone is the additive one; leave it out")
    tuned = None
    if mode == ADDITIVE:
        digest, model, tuned = _additive(run, store, spec, state, owners)
    else:
        digest, model = _tangent(store, spec, state, mode)
    preprocess = load_for(spec).preprocess
    facts = {
        "composed": digest,
        "classes": classes,
        "size": preprocess.size,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "shards": [shard.shard for shard in shards],
        "version": VERSION,
        **({"owners": list(owners)} if owners else {}),
        **settings_told(tuned),
    }
    program = model.exported(torch.zeros(2, 3, preprocess.size, preprocess.size))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(program, path, json.dumps(facts, sort_keys=True))
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    return {"output": str(path), "bytes": path.stat().st_size, **facts}


def _tangent(store: Store, spec: RunSpec, state: RunState, mode: str) -> tuple[str, ComposedModel]:
    """The digest of the composed delta, and the model with it."""
    with one_thread():
        delta = spec.composed(sums_of(store, state), mode)
    tm, _ = build_tangent(spec, len(state.classes))
    model = ComposedModel(tm.float().cpu(), {name: value.float() for name, value in delta.items()})
    return snapshot_digest(delta), model


def _additive(
    run: str, store: Store, spec: RunSpec, state: RunState, owners: Sequence[str]
) -> tuple[str, AdditiveNetwork, Tuned | None]:
    """The digest of the sums (of some owners' rows), the model of them, and the settings by the run's policy."""
    from taft_ray.additive import AdditiveNetwork
    from taft_ray.run.rows import build_rows, model_of

    if owners:
        record = Record(run)
        arrays = sums_of_owners(record, owners)
        tuned = choice_of_owners(record, owners, arrays)
    else:
        arrays = {name: total.numpy() for name, total in sums_of(store, state, spec.two_tiers).totals.items()}
        tuned = choice_for(store, state, arrays)
    maker, _, _ = build_rows(replace(spec, device="cpu"))
    model = AdditiveNetwork(maker.network.float(), maker.projection, model_of(spec, arrays, tuned))
    return snapshot_digest(arrays), model, tuned


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UsageError(f"an .onnx file needs {error.name}; pip install 'taft_ray[onnx]', or write .pt2") from error


def _write(program: torch.export.ExportedProgram, path: Path, facts: str) -> None:
    if path.suffix == ".pt2":
        torch.export.save(program, path, extra_files={"taft_ray": facts})
        return
    written = torch.onnx.export(program, (), input_names=["pictures"], output_names=["logits"], verbose=False)
    if written is None:
        raise StorageError(f"{path}: torch.onnx gave no program")
    written.model.metadata_props["taft_ray"] = facts
    written.save(str(path))
