"""`export`: the composed model as one file that runs without taft_ray: torch.export's .pt2, or .onnx."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taft_ray.additive.options import ADDITIVE
from taft_ray.errors import StorageError, Unregistered, UsageError
from taft_ray.extras import needed
from taft_ray.log import operation
from taft_ray.plans.facts import Tuned
from taft_ray.plans.releases import EXPORT, Released
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.choice import choice_for, choice_of_owners
from taft_ray.run.model import build_tangent, load_for
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.record import Record
from taft_ray.run.register import NOBODY, Recipient, check, commit, file_digest, made_of, new_name, sent_to
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.run.state import check_newest
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
def export(
    run: str,
    output: str,
    compose: str | None = None,
    owners: Sequence[str] = (),
    *,
    recipient: Recipient = NOBODY,
    now: bool = False,
    register: bool = True,
) -> dict[str, Any]:
    """Write the composed model of a run to a local file, its format by the file's ending; what was written.

    The file takes float32 pictures (B, 3, size, size), scaled to 0..1 and normalised as its ``taft_ray`` entry says.
    The entry is JSON of {"composed": digest, "classes", "size", "mean", "std", "shards", "version"}, in .pt2's extra files and
    .onnx's metadata.
    With ``owners`` it is the model of their pictures alone (an additive run), and the entry names them. Where an additive run
    has a policy (`tune`), the entry has its "settings"; stale ones are chosen again, in memory alone.

    The export is a fact of the ledger; the entry has its name as "release". Without ``register``, and where the ledger cannot be
    written, it has {"registered": false} instead. PublicationHeld where the run's gate holds the model back, unless ``now``.
    """
    path, record = Path(output), Record(run)
    store, spec, state = record.store, record.spec, record.state
    mode = _mode(spec, path, compose, owners)
    check_newest(store, state)
    shards = state.in_tier(spec.by_records(mode))
    if state.cached is None or not shards:
        raise UsageError(f"no shard is in the model of {run}; train first, or retrain one that was dropped")
    tuned = None
    if mode == ADDITIVE:
        digest, model, tuned = _additive(record, owners)
    else:
        digest, model = _tangent(store, spec, state, mode)
    fact = sent_to(made_of(record, EXPORT, digest, mode, owners), recipient)
    check(record, fact, now)  # before anything is written; once more with the commit
    preprocess = load_for(spec).preprocess
    facts = {
        "composed": digest,
        "classes": list(state.classes),
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
        return _published(record, fact, program, path, facts, now)
    except Unregistered:
        if register:
            raise
    return _published(record, None, program, path, facts, now)


def _mode(spec: RunSpec, path: Path, compose: str | None, owners: Sequence[str]) -> str:
    """The composition that is exported; UsageError for options that do not go together."""
    if path.suffix not in FORMATS:
        raise UsageError(f"--output {path}: expected a file ending in {' or '.join(FORMATS)}")
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
    mode = compose or spec.compose
    if owners:
        spec.check_additive("the model of some owners alone")
    if owners and mode != ADDITIVE:
        raise UsageError(f"--compose {mode}: the model of some owners alone is the additive one; leave it out")
    return mode


def _published(
    record: Record,
    fact: Released | None,
    program: torch.export.ExportedProgram,
    path: Path,
    facts: Mapping[str, Any],
    now: bool,
) -> dict[str, Any]:
    """Write the file beside its place, register it, and put it there. fact: None for a file that says that it is not registered."""
    name = new_name()
    entry = {**facts, **({"registered": False} if fact is None else {"release": name})}
    aside = path.parent / f".{path.name}.{name}"
    try:
        aside.mkdir(parents=True)
        _write(program, aside / path.name, json.dumps(entry, sort_keys=True))
        digests = {file.name: file_digest(file) for file in aside.iterdir()}
        told = {"output": str(path), "bytes": (aside / path.name).stat().st_size, "digest": digests.pop(path.name)}
        if fact is not None:
            made = replace(fact, release=name, digest=told["digest"], bytes=told["bytes"], beside=digests)
            commit(record, made, now)
        for file in [*digests, path.name]:
            (aside / file).replace(path.parent / file)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {**told, **entry}


def _tangent(store: Store, spec: RunSpec, state: RunState, mode: str) -> tuple[str, ComposedModel]:
    """The digest of the composed delta, and the model with it."""
    with one_thread():
        delta = spec.composed(sums_of(store, state), mode)
    tm, _ = build_tangent(spec, len(state.classes))
    model = ComposedModel(tm.float().cpu(), {name: value.float() for name, value in delta.items()})
    return snapshot_digest(delta), model


def _additive(record: Record, owners: Sequence[str]) -> tuple[str, AdditiveNetwork, Tuned | None]:
    """The digest of the sums (of some owners' rows), the model of them, and the settings by the run's policy."""
    from taft_ray.additive import AdditiveNetwork
    from taft_ray.run.rows import build_rows, model_of

    store, spec, state = record.store, record.spec, record.state
    if owners:
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
        raise UsageError(f"{needed('an .onnx file', error.name)}, or write .pt2") from error


def _write(program: torch.export.ExportedProgram, path: Path, facts: str) -> None:
    if path.suffix == ".pt2":
        torch.export.save(program, path, extra_files={"taft_ray": facts})
        return
    written = torch.onnx.export(program, (), input_names=["pictures"], output_names=["logits"], verbose=False)
    if written is None:
        raise StorageError(f"{path}: torch.onnx gave no program")
    written.model.metadata_props["taft_ray"] = facts
    written.save(str(path))
