"""From source rows to the activation cache: index, manifest, and the frozen prefix once a picture, through Ray Data.

    files → index (tasks) → manifest (driver) → stripes → read (tasks) → decode (tasks; on CPUs the next actor)
        → prefix (actor pool) → parts in storage

Tokens never travel through Ray: the actor that makes them writes them, and only keys and references come back.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.exceptions import RayError

from taft_ray.data import (
    SourceFile,
    Stripe,
    build_manifest,
    counts,
    id_hash,
    index_files,
    open_source,
    owner_hash,
    place,
    reject,
    resolve_classes,
    sample_keys,
    stripes,
)
from taft_ray.data.keys import KEY_BYTES, content_hash
from taft_ray.errors import IntegrityError, ObjectMissing, TooManyRejected
from taft_ray.models import Preprocess
from taft_ray.orchestration.actors import own_error
from taft_ray.orchestration.identical import contents_of, with_contents
from taft_ray.orchestration.linearised import build_tangent, load_for, run_spec
from taft_ray.orchestration.pictures import Decode, index_chunk, pictures_of, read_parts
from taft_ray.orchestration.prefix import prefix_tokens
from taft_ray.orchestration.rejections import check_rows, list_key, remove_list
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.storage import MALFORMED, Store, id_key, json_object, write_part

PART_ROWS = 64  # samples a cache part: what travels through the pipeline as one row
PARTS_A_CALL = 6  # parts whose pictures share forward passes, so that little is padded
STRIPE_BYTES = 256 << 20  # encoded pictures held by a reading task
FILES_A_TASK = 256
# On a machine without GPUs the prefix pass shares the cores with lanes that start beside it (LANE_SHARE each) and idle
# until it ends. The shares of one core add up to less than 1, or the pass could wait for the lanes for ever.
# Reading's and decoding's differ, for Ray Data makes one task of two that want the same: a stripe would have one decoder.
PREFIX_SHARE, READ_SHARE = 0.3, 0.1
DECODE_SHARE = 0.5  # of decoders for a GPU: some of these processes always wait for a part
CALLS_AT_ONCE = 2  # of an actor: one decodes and has the prefix while the other hashes and writes

Report = Callable[[str, int, int], None]  # (what, done, total)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CacheResult:
    """A finished pass: the manifest with its parts, and what it took."""

    table: pa.Table
    parts: dict[str, list[dict[str, Any]]]
    classes: tuple[str, ...]
    fingerprint: str
    seconds: float
    prefix_seconds: float
    started: float
    ended: float
    images: int
    bytes: int
    forgotten: int  # rows of the source that were left out because they are forgotten


def index_source(
    uri: str, given_classes: Sequence[str] | None
) -> tuple[tuple[SourceFile, ...], pa.Table, tuple[str, ...]]:
    """Files, index table and classes of a data set, indexed in parallel."""
    source = open_source(uri)
    for note in source.notes:
        _log.warning(note)
    chunks = [list(source.files[at : at + FILES_A_TASK]) for at in range(0, len(source.files), FILES_A_TASK)]
    if len(chunks) == 1:
        table = index_files(chunks[0])
    else:
        indexed = ray.data.from_items(
            [{"files": chunk} for chunk in chunks], override_num_blocks=len(chunks)
        ).map_batches(index_chunk, batch_size=1, zero_copy_batch=True)
        table = pa.concat_tables(list(indexed.iter_batches(batch_size=None, batch_format="pyarrow"))).cast(
            index_files(chunks[0][:1]).schema
        )
    classes = resolve_classes(source.classes, table["label"].to_pylist(), given_classes, source.two_readings)
    return source.files, table, classes


class PrefixActor:
    """Runs the frozen prefix and writes cache parts. May be called by several threads: decoding and the prefix are one's at a time."""

    def __init__(self, run: str, classes: int, folders: str) -> None:
        self.store = Store(run)
        self.spec: RunSpec = run_spec(self.store)
        self.tm, self.fingerprint = build_tangent(self.spec, classes)
        self.preprocess = Preprocess.of(self.tm.network)
        self.folders = folders
        try:
            self.secret: bytes | None = id_key(self.store, create=False)
        except ObjectMissing:
            self.secret = None  # no run: the tokens that a comparison shares
        self._core_is_free = threading.Lock()

    def __call__(self, batch: pa.Table) -> dict[str, Any]:
        rows = batch.select(["shard", "part", "keys", "contents", "labels"]).to_pylist()
        reasons: list[list[str]] = [[] for _ in rows]  # of each picture that has been decoded; empty where it could be

        def good() -> Iterator[np.ndarray]:
            for part, pictures in zip(reasons, self._pictures(batch), strict=True):
                for picture in pictures:
                    part.append(picture if isinstance(picture, str) else "")
                    if not isinstance(picture, str):
                        yield picture

        pictures = sum(len(row["keys"]) // KEY_BYTES for row in rows)
        with self._core_is_free:
            torch.set_num_threads(self.spec.threads)  # of the thread that calls: a sum's last bits depend on it
            tokens = prefix_tokens(self.tm, self.preprocess, good(), self.spec, at_most=pictures)
        answers: list[str] = []
        at = 0
        for row, part in zip(rows, reasons, strict=True):
            whole = np.array([not why for why in part], bool)
            count = int(whole.sum())
            answers.append(self._write(row, whole, part, tokens[at : at + count]))
            at += count
        return {"answer": answers}

    def _pictures(self, batch: pa.Table) -> list[Iterator[np.ndarray | str]]:
        return pictures_of(batch, self.preprocess.size, self.spec.exif_orientation)

    def _write(self, row: Mapping[str, Any], good: np.ndarray, reasons: Sequence[str], tokens: np.ndarray) -> str:
        shard, part = row["shard"], row["part"]
        keys, contents = (
            [flat[at : at + KEY_BYTES] for at in range(0, len(flat), KEY_BYTES)]
            for flat in (row["keys"], row["contents"])
        )
        labels = np.frombuffer(row["labels"], "<i8").astype(np.int64)
        folder = self.folders.format(shard=shard)
        ref = None
        if good.any():
            written = write_part(
                self.store,
                folder,
                part,
                keys=[key for key, ok in zip(keys, good, strict=True) if ok],
                labels=labels[good],
                tokens=tokens,
                dtype=self.spec.cache_dtype,
                fingerprint=self.fingerprint,
            )
            ref = {**written.to_json(), "part": part}
        answer = json.dumps(
            {
                "shard": shard,
                "part": part,
                "ref": ref,
                "keys": [key.hex() for key, ok in zip(keys, good, strict=True) if ok],
                "contents": [
                    content_hash(digest, self.secret).hex() for digest, ok in zip(contents, good, strict=True) if ok
                ]
                if self.secret
                else [],
                "bad": {key.hex(): why for key, why in zip(keys, reasons, strict=True) if why},
                "fingerprint": self.fingerprint,
            }
        )
        self.store.write(_marker(folder, part), answer.encode())
        return answer


def _marker(folder: str, part: int) -> str:
    return f"{folder}/part-{part:03d}.json"


def build_cache(
    store: Store,
    run: str,
    spec: RunSpec,
    *,
    data: str,
    shards: int,
    assignment: str,
    classes: Sequence[str] | None,
    folders: str,
    tombstones: RunState,
    secret: bytes | None,
    workers: int,
    report: Report,
    rows: int | None = None,
) -> CacheResult:
    """Index the data, assign shards, run the prefix, write the parts; parts that a killed pass finished are not redone.

    rows: take at most so many of the source's rows, a random choice that is always the same; all by default.
    """
    started = time.time()
    files, index, names = index_source(data, classes)
    if rows is not None and rows < index.num_rows:
        drawn = sample_keys([f"{row}" for row in index["id"].to_pylist()], seed=0)
        index = index.take(pa.array(sorted(range(len(drawn)), key=drawn.__getitem__)[:rows]))
    indexed = index.num_rows
    index = _without_forgotten(index, tombstones, secret)
    planned = build_manifest(index, classes=names, seed=spec.seed, shards=shards, method=assignment)  # type: ignore[arg-type]
    listed = list_key(folders)
    check_rows(store, planned, spec.max_rejected, listed)
    pieces = stripes(planned, files, budget_bytes=STRIPE_BYTES, part_rows=PART_ROWS)
    every = [part for piece in pieces for part in piece.parts]
    answers = _finished(store, folders, every, {part: rows for piece in pieces for part, rows in piece.rows.items()})
    wanted = set(every) - answers.keys()
    total = sum(len(piece) for piece in pieces)
    done = sum(len(answer["keys"]) + len(answer["bad"]) for answer in answers.values())
    report("prefix", done, total)
    prefix_seconds = 0.0
    prefix_started = time.time()
    if wanted:
        todo = [piece.only(wanted) for piece in pieces]
        for answer in _pass([piece for piece in todo if len(piece)], run, spec, len(names), folders, workers):
            answers[answer["shard"], answer["part"]] = answer
            done += len(answer["keys"]) + len(answer["bad"])
            report("prefix", done, total)
        prefix_seconds = time.time() - prefix_started
    bad = {bytes.fromhex(key): why for answer in answers.values() for key, why in answer["bad"].items()}
    table = reject(planned, bad) if bad else planned
    try:
        check_rows(store, table, spec.max_rejected, listed)
    except TooManyRejected:
        for (shard, part), answer in answers.items():  # whoever mends these pictures has them read again
            if answer["bad"]:
                store.delete(_marker(folders.format(shard=shard), part))
        raise
    remove_list(store, listed)
    placed = {where: [bytes.fromhex(key) for key in answer["keys"]] for where, answer in answers.items()}
    table = place(table, {where: keys for where, keys in placed.items() if keys})
    table = _with_hashes(table, index, spec.seed, secret)
    if secret:
        table = with_contents(table, contents_of(answers.values()))
    parts: dict[str, list[dict[str, Any]]] = {}
    for (shard, _), answer in sorted(answers.items()):
        if answer["ref"] is not None:
            parts.setdefault(str(shard), []).append(answer["ref"])
    ended = time.time()
    return CacheResult(
        table=table,
        parts=parts,
        classes=names,
        fingerprint=next((a["fingerprint"] for a in answers.values()), ""),
        seconds=ended - started,
        prefix_seconds=prefix_seconds,
        started=started,
        ended=ended,
        images=len(table) - counts(table)["rejected"],
        bytes=sum(ref["bytes"] for refs in parts.values() for ref in refs),
        forgotten=indexed - index.num_rows,
    )


def make_parts(
    store: Store, pieces: Sequence[Stripe], run: str, spec: RunSpec, classes: int, folders: str, workers: int
) -> Iterator[dict[str, Any]]:
    """Make the parts of these stripes once more, for a repair: the prefix actors' answers. No marker is left."""
    try:
        yield from _pass(pieces, run, spec, classes, folders, workers)
    finally:
        store.erase([_marker(folders.format(shard=shard), part) for piece in pieces for shard, part in piece.parts])


def remove_markers(store: Store, prefix: str) -> None:
    """The progress marks of a pass, once the manifest has taken over."""
    for info in store.list(f"{prefix}/"):
        if info.key.endswith(".json"):
            store.delete(info.key)


def _without_forgotten(index: pa.Table, state: RunState, secret: bytes | None) -> pa.Table:
    """The index without forgotten samples and those of forgotten owners: not even as rejected rows do they come back."""
    if secret is None or not (state.tombstones or state.owner_tombstones):
        return index
    owners = {owner for owner in set(index["owner"].to_pylist()) if owner is not None}
    gone = {owner for owner in owners if owner_hash(owner, secret) in state.owner_tombstones}
    keep = [
        name is None or (owner not in gone and id_hash(name, secret) not in state.tombstones)
        for name, owner in zip(index["id"].to_pylist(), index["owner"].to_pylist(), strict=True)
    ]
    return index.filter(pa.array(keep))


def _with_hashes(table: pa.Table, index: pa.Table, seed: int, secret: bytes | None) -> pa.Table:
    """Adds ``id_hash``, of rejected rows too, so that `verify` and a purge find forgotten samples without their ids."""
    ids = [name for name in index["id"].to_pylist() if name is not None]
    by_key = (
        {key: id_hash(name, secret) for key, name in zip(sample_keys(ids, seed), ids, strict=True)} if secret else {}
    )
    return table.append_column("id_hash", pa.array([by_key.get(key) for key in table["key"].to_pylist()], pa.string()))


def _finished(
    store: Store, folders: str, parts: Sequence[tuple[int, int]], rows: Mapping[tuple[int, int], int]
) -> dict[tuple[int, int], dict[str, Any]]:
    """Answers of an earlier pass whose parts are still there, whole."""
    there = {info.key: info.size for info in store.list(f"{folders.split('/')[0]}/")}
    answers: dict[tuple[int, int], dict[str, Any]] = {}
    for shard, part in parts:
        key = _marker(folders.format(shard=shard), part)
        if key not in there:
            continue
        try:
            answer = json_object(store.read(key), key)
            ref = answer["ref"]
            intact = ref is None or there.get(ref["key"]) == ref["bytes"]
        except (ObjectMissing, IntegrityError, *MALFORMED):
            continue
        if intact and len(answer["keys"]) + len(answer["bad"]) == rows[shard, part]:
            answers[shard, part] = answer
    return answers


def _pass(
    pieces: Sequence[Stripe], run: str, spec: RunSpec, classes: int, folders: str, workers: int
) -> Iterator[dict[str, Any]]:
    size = load_for(spec).preprocess.size
    on_gpu = spec.device == "cuda"
    calls = -(-sum(len(piece.parts) for piece in pieces) // PARTS_A_CALL)
    workers = min(workers, calls)  # an actor that gets no call would still be started, and waited for
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # What goes wrong is raised here, as our own error and not as one of Ray Data's with ours in its text; its log would tell it before that,
    # with a traceback. (Importing ray.data sets the level of its log, so that it cannot be set once for all.)
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # a part is a block: larger ones would pass through one decoder and one actor, however many there are
    context.target_max_block_size = 1
    dataset = ray.data.from_items([{"stripe": piece} for piece in pieces], override_num_blocks=len(pieces)).map_batches(
        read_parts, batch_size=1, num_cpus=READ_SHARE
    )
    # beside a GPU cores have little else to do; beside forward passes on the same cores the actor decodes for itself
    if on_gpu:
        dataset = dataset.map_batches(
            Decode(size, spec.exif_orientation),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=DECODE_SHARE,
        )
    dataset = dataset.map_batches(
        PrefixActor,
        fn_constructor_args=(run, classes, folders),
        batch_size=PARTS_A_CALL,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(
            size=workers, max_concurrent_calls_per_actor=CALLS_AT_ONCE, enable_true_multi_threading=True
        ),
        num_cpus=1 if on_gpu else PREFIX_SHARE * spec.threads,
        num_gpus=1 if on_gpu else 0,
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for answer in batch["answer"]:
                yield json.loads(answer)
    except RayError as error:
        own = own_error(error)
        if own is None:
            raise
        own.args = (str(own).partition("\n")[0],)  # Ray Data adds hints to the message, on lines of their own
        raise own from None
