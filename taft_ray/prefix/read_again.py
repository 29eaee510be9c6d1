"""Reading the source again for cache parts that were damaged: from the manifest's rows to parts of the next generation.

Guarantees: no forgotten sample is read. A picture is taken only where the source's row has the id and the label that the
manifest has of it. Where the source is unchanged, a part has the bytes that it had.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from taft_ray.counting import plural
from taft_ray.data import Stripe, index_files, label_index, open_source, sample_keys
from taft_ray.data.keys import KEY_BYTES
from taft_ray.data.source_file import SourceFile
from taft_ray.errors import DataError
from taft_ray.plans.additions import source_of
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.prefix.cache import STRIPE_BYTES, make_parts
from taft_ray.prefix.passes import Passes
from taft_ray.progress import Report
from taft_ray.storage import Store
from taft_ray.storage import rundir as names

_SHOWN = 5  # rows in one sentence


def made_again(
    passes: Passes,
    run: str,
    spec: RunSpec,
    state: RunState,
    found: Mapping[str, Any],
    *,
    data: str | None,
    classes: Sequence[str],
    workers: int,
    report: Report,
) -> tuple[dict[str, Any], list[str]]:
    """The argument of `Mending.repaired` for the shards that could be made again; and what is in the way of the others.

    data: where the source lies now; where each shard was read from by default.
    """
    store = Store(run)
    sources = {number: data or source_of(number, spec.data, state.additions) for number in found["shards"]}
    opened = _opened({sources[number] for number, one in found["shards"].items() if one["rows"].num_rows})
    whole: dict[int, dict[str, Any]] = {}
    problems: list[str] = []
    written: list[dict[str, Any]] = []
    wanted: dict[int, list[tuple[int, pa.Table]]] = {}
    for number, one in found["shards"].items():
        try:
            _check(number, one["rows"], opened.get(sources[number], {}), state, spec, classes)
        except DataError as error:
            problems.append(f"shard {number}: {error}")
            continue
        whole[number] = {"generation": one["generation"], "parts": []}
        wanted.setdefault(one["generation"], []).append((number, one["rows"]))
    for generation, tables in wanted.items():
        stripes = [stripe for number, table in tables for stripe in _stripes(table, opened.get(sources[number], {}))]
        if not stripes:
            continue
        folders = f"{names.CACHE_FOLDER}/shard={{shard:05d}}/generation={generation:06d}"
        total, done = sum(map(len, stripes)), 0
        for answer in make_parts(passes, store, stripes, run, spec, len(classes), folders, workers):
            done += len(answer["keys"]) + len(answer["bad"])
            report("read again", done, total)
            if answer["ref"] is not None:
                written.append({"shard": answer["shard"], "key": answer["ref"]["key"]})
            if _changed(answer, found["shards"][answer["shard"]]["rows"]):
                whole.pop(answer["shard"], None)
                problems.append(_other_content(answer))
            elif answer["bad"] or answer["ref"] is None:
                whole.pop(answer["shard"], None)
                problems.append(_undecodable(answer))
            elif answer["shard"] in whole:
                part = {**answer["ref"], "keys": [bytes.fromhex(key) for key in answer["keys"]]}
                whole[answer["shard"]]["parts"].append(part)
    for number, text in _other_pictures(spec, state, found, whole):
        whole.pop(number)
        problems.append(text)
    # parts written for shards that stay in quarantine are named by nobody
    store.erase([ref["key"] for ref in written if ref["shard"] not in whole])
    return {"base": found["base"], "shards": whole}, problems


def _changed(answer: Mapping[str, Any], rows: pa.Table) -> bool:
    """Whether a picture has other bytes than those whose hash the manifest has; an older manifest has none."""
    if "content" not in rows.column_names or not answer["contents"]:
        return False
    known = dict(zip(rows["key"].to_pylist(), rows["content"].to_pylist(), strict=True))
    made = zip(answer["keys"], answer["contents"], strict=True)
    return any(known.get(bytes.fromhex(key)) not in (None, bytes.fromhex(content)) for key, content in made)


def _other_content(answer: Mapping[str, Any]) -> str:
    return (
        f"shard {answer['shard']}: part {answer['part']} read again from the source is not what it was: a picture was changed; "
        f"put the pictures back, or give the shard up: forget --shard {answer['shard']} --mode drop"
    )


def _opened(sources: Iterable[str]) -> dict[str, dict[str, SourceFile]]:
    """The files of each of these data sets, by their names."""
    return {data: {file.relative: file for file in open_source(data).files} for data in sources}


def _check(
    shard: int,
    rows: pa.Table,
    files: Mapping[str, SourceFile],
    state: RunState,
    spec: RunSpec,
    classes: Sequence[str],
) -> None:
    """DataError unless the source has each of these rows, of nobody who is forgotten, as the manifest has it."""
    gone = state.tombstones.keys() & set(rows["id_hash"].to_pylist())
    if gone:
        raise DataError(
            f"{plural(len(gone), 'of its samples is', 'of its samples are')} asked to be forgotten and not purged yet; run taft-ray forget --due first"
        )
    wrong = []
    for relative in sorted(set(rows["uri_relative"].to_pylist())):
        mine = [row for row in rows.to_pylist() if row["uri_relative"] == relative]
        there = _source_rows(files.get(relative), spec.seed)
        found = ((row["row"], _differs(row, there.get(row["row"]), classes)) for row in mine)
        wrong += [f"{relative} row {row}: {why}" for row, why in found if why is not None]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"{plural(len(wrong), 'sample')} cannot be read again ({'; '.join(wrong[:_SHOWN])}{more}). Put them back into "
            f"the data or give --data, forget them by id, or give the shard up: forget --shard {shard} --mode drop"
        )


def _source_rows(file: SourceFile | None, seed: int) -> dict[int, dict[str, Any]]:
    """The samples that a source file has now, by row; none for a file that is gone."""
    if file is None:
        return {}
    index = index_files([file])
    ids = index["id"].to_pylist()
    keys = sample_keys([name if name is not None else "" for name in ids], seed)
    columns = (index[name].to_pylist() for name in ("label", "row", "bytes", "reason"))
    exact = file.format != "parquet"  # there a row's bytes are its group's mean
    return {
        row: {"key": key, "bytes": size if exact else None, "label": label, "reason": reason}
        for key, label, row, size, reason in zip(keys, *columns, strict=True)
    }


def _differs(row: Mapping[str, Any], there: Mapping[str, Any] | None, classes: Sequence[str]) -> str | None:
    """Why a row of the source is not the manifest's; None: it is."""
    if there is None:
        return "it is not there"
    if there["reason"] is not None:
        return there["reason"]
    if there["key"] != row["key"]:
        return "another sample is there"
    try:
        same = label_index(str(there["label"]), classes) == row["label"]
    except DataError:
        same = False
    if not same:
        return "it has another label"
    if there["bytes"] and row["bytes"] and there["bytes"] != row["bytes"]:
        return "another picture is there"
    return None


def _stripes(rows: pa.Table, files: Mapping[str, SourceFile]) -> list[Stripe]:
    """The stripes to read, part by part as the manifest has them, at most `STRIPE_BYTES` at once."""
    ordered = sorted(rows.to_pylist(), key=lambda row: (row["shard"], row["part"], row["key"]))
    groups: list[list[dict[str, Any]]] = []
    held, last = 0, None
    for row in ordered:
        where = (row["shard"], row["part"])
        if not groups or (where != last and held > STRIPE_BYTES):
            groups.append([])
            held = 0
        groups[-1].append(row)
        held, last = held + max(1, row["bytes"]), where
    return [_stripe(group, files) for group in groups]


def _stripe(rows: Sequence[Mapping[str, Any]], files: Mapping[str, SourceFile]) -> Stripe:
    used = sorted({row["uri_relative"] for row in rows})
    position = {relative: at for at, relative in enumerate(used)}

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows], np.int64)

    return Stripe(
        files=tuple(files[relative] for relative in used),
        file=np.array([position[row["uri_relative"]] for row in rows], np.int64),
        row=column("row"),
        key=np.frombuffer(b"".join(row["key"] for row in rows), np.uint8).reshape(-1, KEY_BYTES),
        label=column("label"),
        shard=column("shard"),
        part=column("part"),
        bytes=column("bytes"),
    )


def _undecodable(answer: Mapping[str, Any]) -> str:
    reasons = sorted(set(answer["bad"].values()))
    return (
        f"shard {answer['shard']}: {plural(len(answer['bad']), 'picture')} of part {answer['part']} cannot be read again "
        f"({', '.join(reasons)}); put them back into the data, forget them by id, or give the shard up"
    )


def _other_pictures(
    spec: RunSpec, state: RunState, found: Mapping[str, Any], whole: Mapping[int, Mapping[str, Any]]
) -> list[tuple[int, str]]:
    """Shards of which a part that the manifest still names came out otherwise, where the machine cannot be the reason."""
    if not _same_machine(spec, state):
        return []
    wrong = []
    for number, one in sorted(whole.items()):
        for part in one["parts"]:
            expected = found["shards"][number]["digests"].get(part["part"])
            if expected is not None and expected != part["digest"]:
                text = (
                    f"shard {number}: part {part['part']} read again from the source is not what it was "
                    f"(expected digest {expected[:16]}, got {part['digest'][:16]}): a picture was changed; put the pictures "
                    f"back, or give the shard up: forget --shard {number} --mode drop"
                )
                wrong.append((number, text))
                break
    return wrong


def _same_machine(spec: RunSpec, state: RunState) -> bool:
    """Whether tokens made here have the bits of those that the run was made with."""
    made_on = state.environment
    here = {"machine": platform.machine(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    same = all(made_on.get(name, value) == value for name, value in here.items())
    return same and spec.device == "cpu" and dict(spec.versions).get("torch", torch.__version__) == torch.__version__
