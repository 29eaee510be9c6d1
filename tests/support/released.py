"""Toy runs that are trained, forget and release files, without torch; and the files, which are as exports are without the model."""

import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toy_run import NAME_OF, SPEC, fit, make_run

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.plans.releases import EXPORT, Released
from taft_ray.plans.spec import RunSpec
from taft_ray.run.record import Record
from taft_ray.run.register import NOBODY, Recipient, commit, file_digest, made_of, new_name, sent_to
from taft_ray.storage import Store


def trained_toy(run: Path, spec: RunSpec = SPEC) -> Path:
    """A toy run whose shards are all in the model."""
    make_run(run, spec)
    composer = Composer(str(run))
    while (task := composer.take("lane")) is not None:
        composer.finished(fit(Store(str(run)), task))
    return run


def toy_forget(run: Path, ids: Sequence[str], mode: str, **selection: Any) -> dict[str, Any]:
    """A forget of a toy run, carried out: its certificate."""
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(ids), **selection), mode)
    return finished(run, asked["request"])


def finished(run: Path, request: str) -> dict[str, Any]:
    """Carry a request of a toy run out: its certificate."""
    composer = Composer(str(run))
    for shard in composer.resume_forget(request)["retrain"]:
        task = composer.task_for(shard)
        if task is not None:
            composer.finished(fit(Store(str(run)), task))
    return composer.conclude_forget(request, {"retrain_seconds": 0.0})


def in_model(run: Path, by_records: bool = False) -> set[str]:
    """The names of the samples in the model of a toy run, of which no request is open."""
    record = Record(str(run))
    table = record.manifest().table
    there = {shard.shard for shard in record.state.in_tier(by_records)}
    rows = zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True)
    return {NAME_OF[key] for key, shard in rows if shard in there}


def toy_export(
    run: Path,
    file: Path,
    mode: str | None = None,
    owners: Sequence[str] = (),
    recipient: Recipient = NOBODY,
    now: bool = False,
) -> Released:
    """A release as `export` registers it, with a .pt2 file that has the entry and no program."""
    record = Record(str(run))
    mode, composer = mode or record.spec.compose, Composer(str(run))
    composed = f"owners {sorted(owners)}" if owners else composer.composition.digest(mode)
    fact = sent_to(made_of(record, EXPORT, composed, mode, owners), recipient)
    name = new_name()
    file.write_bytes(pt2({"composed": composed, "release": name}))
    fact = replace(fact, release=name, digest=file_digest(file), bytes=file.stat().st_size)
    return commit(record, fact, now)


def pt2(entry: dict[str, Any]) -> bytes:
    """An archive with an entry, as torch.export writes one."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("model/data/weights/weight_0", b"\0" * 64)
        archive.writestr("model/extra/taft_ray", json.dumps(entry))
    return data.getvalue()


def copied(run: Path, target: Path) -> Path:
    """A copy of a toy run with what is kept beside it, at another place."""
    beside = run.with_name(f"{run.name}.tombstones")
    if beside.exists():
        shutil.copytree(beside, target.with_name(f"{target.name}.tombstones"))
    return Path(shutil.copytree(run, target))
