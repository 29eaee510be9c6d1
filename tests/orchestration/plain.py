"""A whole training without Ray: the same functions and classes, called one after the other in this process."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from folder import at

from taft_ray.composer.composer import Composer
from taft_ray.data import SourceFile, Stripe, index_files
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.additions import index_more, read_more
from taft_ray.prefix.cache import build_cache, cached_fact
from taft_ray.prefix.part_writer import PartWriter
from taft_ray.prefix.passes import index_source
from taft_ray.prefix.pictures import Decode, read_parts
from taft_ray.progress import silent
from taft_ray.run.record import Record
from taft_ray.storage import Store, digest_bytes, id_key, write_spec
from taft_ray.storage import rundir as names
from taft_ray.workers.kinds import new_worker
from taft_ray.workers.row_worker import RowWorker
from taft_ray.workers.shard_worker import ShardWorker


class InlinePasses:
    """`prefix.passes.Passes` in a loop, in this process; what `orchestration.prefix_pass` does through Ray Data."""

    def index(self, files: Sequence[SourceFile]) -> pa.Table:
        return index_files(files)

    def parts(
        self, pieces: Sequence[Stripe], run: str, spec: RunSpec, classes: int, folders: str, workers: int
    ) -> Iterator[dict[str, Any]]:
        writer = PartWriter(run, classes, folders)
        decode = Decode(writer.preprocess.size, spec.exif_orientation)
        for piece in pieces:
            for part in read_parts({"stripe": [piece]}):
                yield from (json.loads(answer) for answer in writer(decode(part))["answer"])


def plain_cache(run: Path | str, composer: Composer, secret: bytes) -> None:
    """Build and commit the activation cache, unless the ledger has it."""
    store, spec, state = Store(str(run)), composer.record.spec, composer.snapshot()
    if state.cached is not None:
        return
    result = build_cache(
        InlinePasses(), store, str(run), spec, source=index_source(InlinePasses(), spec.data, spec.classes),
        shards=spec.shards, assignment=spec.assignment, folders=f"{names.CACHE_FOLDER}/shard={{shard:05d}}", tombstones=state, secret=secret,
        workers=1, report=silent,
    )  # fmt: skip
    composer.admit_cache(cached_fact(store, spec, result))


def plain_train_up_to_the_cache(run: Path | str, spec: RunSpec) -> None:
    """Everything that comes before the first fit."""
    store = Store(str(run))
    write_spec(store, spec.to_json())
    composer = Composer(str(run))
    secret = id_key(store, create=True)
    composer.begin({}, digest_bytes(secret))
    plain_cache(run, composer, secret)


def plain_add(run: Path | str, data: Path | str, shards: int = 1) -> Composer:
    """Add data to a run and sum it, as `train --add` does; the composer."""
    composer = Composer(str(run))
    secret = id_key(Store(str(run)), create=False)
    composer.begin({}, digest_bytes(secret))
    record = Record(str(run))
    more = index_more(InlinePasses(), str(data), record.spec, record.manifest(), record.state, secret)
    if more.source.rows.num_rows:
        begun = composer.begin_addition(str(data), shards)
        read_more(InlinePasses(), str(run), record, begun, more, composer.admit_addition, secret, 1, silent)
    return plain_train(run, record.spec)


def plain_train(
    run: Path | str,
    spec: RunSpec,
    workers: Sequence[ShardWorker | RowWorker] | None = None,
    lanes: int = 1,
    together: int = 0,
) -> Composer:
    """Train whatever has no delta yet, and compose; the composer. ``lanes`` workers take turns. ``together``: as of `Composer.take`.

    ``workers``: of another run with the same model, so that it need not be made again.
    """
    store = Store(str(run))
    write_spec(store, spec.to_json())
    composer = Composer(str(run))
    secret = id_key(store, create=composer.snapshot().created is None)
    composer.begin({}, digest_bytes(secret))
    plain_cache(run, composer, secret)
    workers = [at(worker, run) for worker in workers or ()]
    workers = workers or [new_worker(str(run), spec, composer.class_count()) for _ in range(lanes)]
    turn = 0
    while (task := composer.take(f"lane-{turn % lanes}", (), together)) is not None:
        worker = workers[turn % lanes]
        for result in worker.fit_several(task["several"]) if "several" in task else [worker.fit(task)]:
            composer.finished(result)
        turn += 1
    if composer.snapshot().in_model:
        composer.compose()
    return composer
