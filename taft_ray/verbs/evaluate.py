"""`evaluate`: accuracy of the composed model, the comparison model, and by number of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from taft_ray.composer.composer import Composer
from taft_ray.data import check_rejected, counts, open_source
from taft_ray.data.rejections import examples
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError, UsageError
from taft_ray.log import operation
from taft_ray.plans.facts import Evaluated, ObjectRef
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.progress import Report, silent
from taft_ray.run.address import data_address, data_stamp, run_address
from taft_ray.run.choice import choice_of_owners
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.quarantine import damaged_objects, quarantines
from taft_ray.run.record import Record
from taft_ray.run.secret import secret_to_read_in
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.run.spec import is_run, run_spec
from taft_ray.storage import Manifest, Store, digest_json, read_manifest, write_manifest
from taft_ray.storage import rundir as names
from taft_ray.verbs.against import compare, read_predictions
from taft_ray.verbs.composer import composer_of
from taft_ray.verbs.settings import settings_told
from taft_ray.verbs.table_file import SUFFIXES, check_suffix, write_table

if TYPE_CHECKING:
    import pandas as pd


@operation("evaluate")
def evaluate(
    run: str,
    data: str,
    *,
    predictions: str | None = None,
    against: str | None = None,
    owners: Sequence[str] = (),
    report: Report = silent,
) -> dict[str, Any]:
    """Accuracy of the composed model (both ways), of the monolith if there is one, and by number of shards.

    predictions: a .parquet or .csv file to write a row per picture to: its file and row, its label, and what is predicted.

    owners: evaluate the model of these owners' pictures alone (an additive run). It is no fact of the run, and not committed.

    Where an additive run has a policy (`tune`), stale settings are chosen again first, and committed; "settings" has them.

    against: another run, which is evaluated on the same data too, or such a file: the answer has "against" then (`compare`).
    """
    check_suffix("predictions", predictions)
    run, data = run_address(run), data_address(data)
    spec = run_spec(Store(run))  # what is no run, or a wrong path, must not take the start of Ray to be told
    if owners:
        spec.check_additive("the model of some owners alone")
    open_source(data)
    other = None if against is None else _other_model(against)
    from taft_ray.orchestration import session

    with session.connected(report):
        answer, table = _evaluated(run, data, report, owners)
        if other is not None and isinstance(other, str):
            other = _evaluated(other, data, report)[1]
    if predictions is not None:
        write_table(table, predictions)
    if other is not None and against is not None:
        answer["against"] = compare(table, other, against)
    return answer


def _other_model(against: str) -> str | pd.DataFrame:
    """The address of a run, or a table of predictions."""
    if Path(against).suffix in SUFFIXES:
        return read_predictions(against)
    address = run_address(against)
    if not is_run(Store(address)):
        raise UsageError(f"--against {against}: expected a run, or predictions in {' or '.join(SUFFIXES)}")
    return address


def _evaluated(run: str, data: str, report: Report, owners: Sequence[str] = ()) -> tuple[dict[str, Any], pd.DataFrame]:
    """The answer, and a row per picture."""
    store = Store(run)
    spec = run_spec(store)
    composer = composer_of(run)
    composer.recover_what_can_be()
    state = composer.snapshot()
    manifest = _eval_cache(store, run, spec, data, state, composer.class_names(), report)
    if owners:
        return _of_owners(run, spec, data, composer, manifest, owners)
    try:
        return _measured(run, spec, data, composer, manifest)
    except (IntegrityError, ObjectMissing) as error:
        # damage: its shard leaves the model, a damaged cache of evaluation data is made again; anything else stays an error
        found = (
            composer.examine(),
            composer.examine_monolith(),
            _remove_damaged(store, names.eval_prefix(data), manifest.refs),
        )
        if not any(found):
            raise error
    manifest = _eval_cache(store, run, spec, data, state, composer.class_names(), report)
    return _measured(run, spec, data, composer, manifest)


def _eval_cache(
    store: Store, run: str, spec: RunSpec, data: str, state: RunState, classes: Sequence[str], report: Report
) -> Manifest:
    """Cached tokens of evaluation data; made once for a data set of this name and content."""
    prefix = names.eval_prefix(data)
    eval_store = Store(f"{run.rstrip('/')}/{prefix}")
    stamp = data_stamp(data)
    try:
        found = read_manifest(eval_store)
    except IntegrityError:
        found = None  # damaged: made again
    if found is None or found.meta["stamp"] != stamp or found.meta["classes"] != list(classes):
        from taft_ray.orchestration.places import workers_at_once
        from taft_ray.orchestration.prefix_pass import passes
        from taft_ray.prefix.cache import build_cache
        from taft_ray.prefix.part_writer import remove_markers
        from taft_ray.prefix.passes import index_source

        through, workers = passes(state.per_lane), workers_at_once(spec, state.per_lane)
        result = build_cache(
            through, store, run, spec, source=index_source(through, data, classes), shards=1, assignment="hash",
            folders=f"{prefix}/shard={{shard:05d}}", tombstones=state, workers=workers, secret=secret_to_read_in(store, state, reading=True),
            report=report,
        )  # fmt: skip
        meta = {
            "parts": result.parts,
            "classes": list(result.classes),
            "fingerprint": result.fingerprint,
            "stamp": stamp,
            "left_out": result.forgotten,
        }
        write_manifest(eval_store, result.table, meta)
        remove_markers(store, f"{prefix}/shard=00000")
        found = read_manifest(eval_store)
        if found is None:
            raise StorageError(f"{eval_store.uri}: the evaluation manifest vanished; run it again")
    check_rejected(counts(found.table), spec.max_rejected, examples(found.table))
    return found


def _remove_damaged(store: Store, prefix: str, parts: Sequence[dict[str, Any]]) -> bool:
    """Remove a cache of evaluation data of which a part is damaged: whether it was."""
    damaged = damaged_objects(store, map(ObjectRef.from_json, parts))
    if damaged:
        store.erase([info.key for info in store.list(f"{prefix}/")])
    return bool(damaged)


def _measured(
    run: str, spec: RunSpec, data: str, composer: Composer, manifest: Manifest
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Accuracy of the composed model (each way), the comparison model, and by number of shards; committed."""
    parts = manifest.refs
    state = composer.snapshot()
    if not state.in_tier(spec.two_tiers):
        raise UsageError(f"no shard is in the model of {run}; train first, or retrain one that was dropped")
    from taft_ray.evaluation.classification import classification
    from taft_ray.orchestration.actors import worker_for

    classes = composer.class_names()
    worker: Any = worker_for(run, spec, len(classes), state.per_lane)
    answer: dict[str, Any] = {"data": data, "rejected": counts(manifest.table)["rejected"]}
    if manifest.meta.get("left_out"):  # rows of samples that this run has forgotten, or is asked to
        answer["left_out"] = manifest.meta["left_out"]
    by_mode: dict[str, Any] = {}
    table: pd.DataFrame | None = None
    policy: dict[str, Any] = {}
    for mode in reversed(spec.modes):
        if not state.in_tier(spec.by_records(mode)):  # its shards wait for their fits
            continue
        composed, tuned = composer.served(mode)
        by = {} if tuned is None else {"tuned": tuned}
        measured = worker.evaluate(composed["key"], parts, **by)
        by_mode[mode] = {
            "accuracy": measured["accuracy"],
            "composed": composed["digest"],
            "seconds": composed["seconds"],
        }
        if mode == spec.compose:
            answer |= {"accuracy": measured["accuracy"], "n": measured["n"], "composed": composed["digest"]}
            answer |= settings_told(tuned)
            policy = {} if tuned is None else {"policy": tuned.policy}
            said = Said.of(*worker.outputs(composed["key"], parts, **by))
            answer |= classification(said.labels, said.predicted, said.probabilities, classes)
            table = said.table(manifest.table, classes)
    answer["by_composition"] = by_mode
    state = composer.snapshot()  # after composing, which may have put a damaged shard aside
    monolith = state.monolith_delta
    answer["monolith"] = None if monolith is None else worker.evaluate(None, parts, monolith.to_json())["accuracy"]
    answer["by_shards"] = _by_shards(worker, spec, state, parts, policy)
    composer.commit(Evaluated.from_json(answer), f"evaluated/{digest_json(answer)}")
    assert table is not None  # the run's own composition is one of its modes
    return {**answer, "ok": not state.quarantined, "quarantined": quarantines(state)}, table


def _by_shards(
    worker: Any, spec: RunSpec, state: RunState, parts: Sequence[dict[str, Any]], policy: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Accuracy by number of shards; in a run of two tiers of both, where as many shards have deltas as have records."""
    found: list[list[dict[str, Any]]] = []
    for tier in spec.tiers:
        by_records = tier or spec.lean
        measure = worker.records_by_shards if by_records else worker.accuracy_by_shards
        shards = [(ref, shard.weight) for shard in state.in_tier(tier) if (ref := shard.member(tier)) is not None]
        refs, weights = [ref.to_json() for ref, _ in shards], [weight for _, weight in shards]
        of_rows = policy if by_records else {}
        found.append(measure(refs, weights, parts, _milestones(len(shards)), **of_rows))
    model, *others = reversed(found)
    beside = {row["shards"]: row for rows in others for row in rows}
    return [{**beside.get(row["shards"], {}), **row} for row in model]


def _of_owners(
    run: str, spec: RunSpec, data: str, composer: Composer, manifest: Manifest, owners: Sequence[str]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The model of these owners' pictures alone, on the data; nothing is committed."""
    from taft_ray.evaluation.classification import classification
    from taft_ray.orchestration.actors import worker_for

    classes = composer.class_names()
    record = Record(run)
    sums = sums_of_owners(record, owners)
    tuned = choice_of_owners(record, owners, sums)
    worker: Any = worker_for(run, spec, len(classes), record.state.per_lane)
    said = Said.of(*worker.outputs(sums, manifest.refs, tuned))
    accuracy, digest = float((said.labels == said.predicted).mean()), snapshot_digest(sums)
    state = composer.snapshot()
    answer = {
        "data": data,
        "rejected": counts(manifest.table)["rejected"],
        "accuracy": accuracy,
        "n": len(said.labels),
        "composed": digest,
        "by_composition": {spec.compose: {"accuracy": accuracy, "composed": digest, "seconds": 0.0}},
        "monolith": None,
        "by_shards": [],
        "owners": list(owners),
        **settings_told(tuned),
        "ok": not state.quarantined,
        "quarantined": quarantines(state),
        **classification(said.labels, said.predicted, said.probabilities, classes),
    }
    return answer, said.table(manifest.table, classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """The composed model's word on the n pictures with these sample keys. probabilities: (n, K)."""

    keys: Sequence[bytes]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, keys: Sequence[bytes], labels: np.ndarray, logits: np.ndarray) -> Said:
        """From logits (n, K), whose softmax the probabilities are."""
        from scipy.special import softmax

        probabilities = softmax(logits.astype(np.float64), 1)
        return cls(keys=keys, labels=labels, predicted=logits.argmax(1), probabilities=probabilities)

    def table(self, rows: pa.Table, classes: Sequence[str]) -> pd.DataFrame:
        """A line per picture, in the order of the data. rows: those of its manifest."""
        import pandas as pd

        columns = (rows[name].to_pylist() for name in ("key", "uri_relative", "row"))
        place = {key: (file, row) for key, file, row in zip(*columns, strict=True)}
        names = np.array(classes, object)
        table = pd.DataFrame(
            {
                "file": [place[key][0] for key in self.keys],
                "row": [place[key][1] for key in self.keys],
                "label": names[self.labels],
                "predicted": names[self.predicted],
                "probability": np.take_along_axis(self.probabilities, self.predicted[:, None], 1)[:, 0],
                **{f"p({name})": self.probabilities[:, number] for number, name in enumerate(classes)},
            }
        )
        return table.sort_values(["file", "row"], ignore_index=True)


def _milestones(shards: int) -> list[int]:
    """Where the curve of accuracy against shards is measured: about ten points."""
    return sorted({max(1, round(shards * i / 10)) for i in range(1, 11)} | {1, shards})
