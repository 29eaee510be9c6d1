"""A whole run without Ray: what lanes and prefix actors do, on the plain classes, in this process."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from taft_ray.data import (
    build_manifest,
    decode_image,
    id_hash,
    index_files,
    open_source,
    place,
    read_stripe,
    resolve_classes,
    sample_keys,
    stripes,
)
from taft_ray.models import Preprocess
from taft_ray.orchestration.composer import Composer
from taft_ray.orchestration.prefix import prefix_tokens
from taft_ray.orchestration.worker import ShardWorker
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import Store, id_key, write_manifest, write_part, write_spec
from taft_ray.storage import rundir as names


def plain_train(run: Path, spec: RunSpec) -> Path:
    """Cache, fit every shard, compose; every row of the data must be usable."""
    store = Store(str(run))
    write_spec(store, spec.to_json())
    secret = id_key(store, create=True)
    composer = Composer(str(run))
    composer.begin({})
    source = open_source(spec.data)
    index = index_files(source.files)
    classes = resolve_classes(source.classes, index["label"].to_pylist(), spec.classes)
    worker = ShardWorker(str(run), len(classes))
    size = Preprocess.of(worker.tm.network).size
    table = build_manifest(index, classes=classes, seed=spec.seed, shards=spec.shards, method=spec.assignment)  # type: ignore[arg-type]
    parts: dict[str, list[dict]] = {}
    placed = {}
    for piece in stripes(table, source.files, budget_bytes=1 << 30, part_rows=64):
        for part in read_stripe(piece):
            pixels = np.stack([decode_image(image, size) for image in part["images"]])
            ref = write_part(
                store, names.shard_prefix(part["shard"]), part["part"], keys=part["keys"], labels=part["labels"],
                tokens=prefix_tokens(worker.tm, Preprocess.of(worker.tm.network), pixels, spec),
                dtype=spec.cache_dtype, fingerprint=worker.fingerprint,
            )  # fmt: skip
            parts.setdefault(str(part["shard"]), []).append({**ref.to_json(), "part": part["part"]})
            placed[part["shard"], part["part"]] = part["keys"]
    ids = index["id"].to_pylist()
    hashes = {key: id_hash(name, secret) for key, name in zip(sample_keys(ids, spec.seed), ids, strict=True)}
    table = place(table, placed)
    table = table.append_column("id_hash", pa.array([hashes[key] for key in table["key"].to_pylist()], pa.string()))
    meta = {"parts": parts, "classes": list(classes), "fingerprint": worker.fingerprint}
    described = write_manifest(store, table, meta)
    samples = [sum(ref["rows"] for ref in parts.get(str(shard), [])) for shard in range(spec.shards)]
    body = {"manifest": described["digest"], "samples": samples, "classes": list(classes)}
    composer.commit("cached", body, "cached")
    for shard, count in enumerate(samples):
        if count:
            composer.finished(worker.fit(composer.task_for(shard)))
    composer.compose()
    return run
