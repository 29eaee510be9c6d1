"""The membership-inference attack on what a run has forgotten.

The forgotten pictures are gone from the run: their owner brings them, and they stay in memory. Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.attack import NO_SHARD, Samples, check, judge
from taft_ray.counting import are, plural, which
from taft_ray.data import Stripe, assign, build_manifest, id_hash, sample_keys, stripes
from taft_ray.data.manifest import KEPT
from taft_ray.errors import StorageError, UnknownSample, UsageError
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.prefix.cache import STRIPE_BYTES
from taft_ray.prefix.passes import Passes, index_source
from taft_ray.progress import Report, silent
from taft_ray.run.choice import choice_for
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store, id_key, read_manifest
from taft_ray.storage import rundir as names

# More tell little more, and each is a picture read and a forward pass, or a model held in memory
MOST_SAMPLES, MOST_MEMBERS, MOST_MODELS = 2000, 512, 48
_CHUNK = 64  # pictures decoded at once

Values = Callable[..., tuple[list[bytes], np.ndarray, np.ndarray]]  # `sample_values` of the run's worker


def examine(
    passes: Passes,
    store: Store,
    spec: RunSpec,
    state: RunState,
    values: Values,
    *,
    data: str,
    never_seen: str,
    ids: Sequence[str] | None,
    level: float,
    report: Report = silent,
) -> dict[str, Any]:
    """The audit, with the pictures' values from any worker: `judge`'s answer, what was examined and what was left out."""
    check_state(store, spec, state, level)
    classes = list(state.classes)
    secret = id_key(store, create=False)
    found = read_manifest(store)
    if found is None:
        raise StorageError(f"{store.uri} has no manifest; restore it from a copy")
    table = found.table
    trained_on = set(table.filter(pc.equal(table["status"], KEPT))["key"].to_pylist())  # type: ignore[attr-defined]  # made at import
    asked = _forgotten(_index(passes, data, classes), state, secret, ids, spec, trained_on)
    others, known = _never_seen(_index(passes, never_seen, classes), state, secret, spec, trained_on)
    homes = _homes(asked, state, spec)
    by_records = spec.by_records(spec.compose)
    present = {shard.shard: shard.member(by_records) for shard in state.in_tier(by_records)}
    targets = [shard for shard, _ in Counter(homes.values()).most_common() if shard in present][:MOST_MODELS]
    shadows = [shard for shard in present if shard not in targets]
    columns = sorted(targets + _some(shadows, MOST_MODELS - len(targets), spec.seed))
    composed = _composed(store, spec, state)
    members_of = [ref.to_json() for ref in map(present.get, columns) if ref is not None]
    models = [*members_of, composed]
    tuned = choice_for(store, state, load_arrays(store, composed)) if spec.additive else None
    chosen_by = {"tuned": tuned} if tuned is not None else {}
    column = {shard: at for at, shard in enumerate(columns)}
    examined = {key for key, shard in homes.items() if shard in column or shard not in present}

    def measured(what: str, source: _Source, wanted: set[bytes] | None) -> tuple[Samples, int]:
        report(what, 0, 1)
        chosen = source.some(wanted, spec.seed)
        keys, labels, phi = values(models, stripes=chosen.stripes(), **chosen_by)
        report(what, 1, 1)
        home = np.array([column.get(homes.get(key, NO_SHARD), NO_SHARD) for key in keys], np.int64)
        return _samples(phi, labels, home), len(chosen.table) - len(keys)

    forgotten, lost = measured("forgotten", asked, examined)
    reference, lost_too = measured("never-seen", others, None)
    parts, member_of = _member_parts(found.parts, targets or columns, spec.seed)
    _, labels, phi = values(models, parts=parts, **chosen_by)
    members = _samples(phi, labels, np.array([column[shard] for shard in member_of], np.int64))
    answer = judge(forgotten=forgotten, never_seen=reference, members=members, level=level)
    return {
        **answer,
        "shards": sorted({shard for key, shard in homes.items() if key in examined}),
        "left_out": {
            "never-seen samples that this run has seen": known,
            "pictures that cannot be decoded": lost + lost_too,
            "forgotten samples beyond the limit": len(asked.table) - len(forgotten) - lost,
            "never-seen samples beyond the limit": len(others.table) - len(reference) - lost_too,
        },
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    """Chosen rows of a data set: a manifest of them, and the files they lie in."""

    table: pa.Table
    files: tuple[Any, ...]
    requests: Mapping[bytes, str]  # sample key -> the request that forgot it

    def some(self, wanted: set[bytes] | None, seed: int) -> _Source:
        """At most MOST_SAMPLES of the wanted rows, always the same."""
        keys = self.table["key"].to_pylist()
        rows = [row for row, key in enumerate(keys) if wanted is None or key in wanted]
        return _Source(
            table=self.table.take(pa.array(_some(rows, MOST_SAMPLES, seed), pa.int64())),
            files=self.files,
            requests=self.requests,
        )

    def stripes(self) -> list[Stripe]:
        return stripes(self.table, self.files, budget_bytes=STRIPE_BYTES, part_rows=_CHUNK)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Index:
    files: tuple[Any, ...]
    table: pa.Table
    classes: list[str]
    uri: str

    def rows(self, keep: Callable[[str], bool]) -> pa.Table:
        """The usable rows whose id is to be kept."""
        usable = zip(self.table["id"].to_pylist(), self.table["reason"].to_pylist(), strict=True)
        return self.table.filter(pa.array([reason is None and keep(name) for name, reason in usable], pa.bool_()))

    def ids(self) -> set[str]:
        return set(self.rows(lambda _: True)["id"].to_pylist())


def _index(passes: Passes, uri: str, classes: list[str]) -> _Index:
    source = index_source(passes, uri, classes)
    files, table = source.files, source.rows
    return _Index(files=files, table=table, classes=classes, uri=uri)


def check_state(store: Store, spec: RunSpec, state: RunState, level: float) -> None:
    waiting = sorted(request.request for request in state.requests.values() if request.forgotten is None)
    if len(waiting) == len(state.requests):
        more = f" ({which('request', waiting)} not finished)" if waiting else ""
        raise UsageError(
            f"{store.uri} has forgotten nothing{more}: there is nothing to audit; taft-ray forget comes first"
        )
    if state.key_destroyed:
        raise UsageError(f"the id key of {store.uri} was destroyed: nobody can tell any more what was forgotten")
    check(level=level, shards=len(state.in_tier(spec.by_records(spec.compose))))


def _forgotten(
    index: _Index,
    state: RunState,
    secret: bytes,
    ids: Sequence[str] | None,
    spec: RunSpec,
    trained_on: set[bytes],
) -> _Source:
    there = index.ids()
    done = {digest for digest, request in state.tombstones.items() if state.requests[request].forgotten is not None}
    if ids is None:
        chosen = {name for name in there if id_hash(name, secret) in done}
        if not chosen:
            raise UsageError(
                f"none of the {plural(len(there), 'sample')} of {index.uri} was forgotten by this run; check --data"
            )
    else:
        chosen = set(ids)
        asked = [n for n in ids if id_hash(n, secret) in state.tombstones.keys() - done]
        if asked:
            raise UsageError(f"{_named(asked)} asked to be forgotten, and not yet; finish their forget, then audit")
        kept = [n for n in ids if id_hash(n, secret) not in done]
        members = [n for n, key in zip(kept, sample_keys(kept, spec.seed), strict=True) if key in trained_on]
        if members:
            raise UsageError(f"{_named(members)} not forgotten: the run was trained on them; forget them, then audit")
        if kept:
            raise UnknownSample(f"{_named(kept)} not of this run: neither trained on nor forgotten")
        if chosen - there:
            raise UsageError(
                f"{_named(sorted(chosen - there))} not in {index.uri}; give the data that has them as --data"
            )
    rows = index.rows(lambda name: name in chosen)
    table = build_manifest(rows, classes=index.classes, seed=spec.seed, shards=1)
    table = table.filter(pc.equal(table["status"], KEPT))  # type: ignore[attr-defined]
    by_key = dict(zip(sample_keys(chosen, spec.seed), chosen, strict=True))
    requests = {key: state.tombstones[id_hash(by_key[key], secret)] for key in table["key"].to_pylist()}
    return _Source(table=table, files=index.files, requests=requests)


def _never_seen(
    index: _Index, state: RunState, secret: bytes, spec: RunSpec, trained_on: set[bytes]
) -> tuple[_Source, int]:
    """The samples that the run has not seen, and how many it has: those are left out."""
    there = sorted(index.ids())
    keys = sample_keys(there, spec.seed)
    seen = {
        name
        for name, key in zip(there, keys, strict=True)
        if key in trained_on or id_hash(name, secret) in state.tombstones
    }
    if len(seen) == len(there):
        raise UsageError(f"all {len(there)} samples of {index.uri} have ids that this run has seen; give other data")
    rows = index.rows(lambda name: name not in seen)
    table = build_manifest(rows, classes=index.classes, seed=spec.seed, shards=1)
    return _Source(table=table.filter(pc.equal(table["status"], KEPT)), files=index.files, requests={}), len(seen)  # type: ignore[attr-defined]


def _homes(asked: _Source, state: RunState, spec: RunSpec) -> dict[bytes, int]:
    """The shard each forgotten sample was in."""
    homes: dict[bytes, int] = {}
    keys = asked.table["key"].to_pylist()
    for key, possible in zip(keys, _possible_homes(asked, state, spec), strict=True):
        touched = state.requests[asked.requests[key]].shards
        found = possible & {*touched}
        if not found:
            raise UsageError(
                f"a forgotten sample belongs to shard {_or(possible)}, but its forget touched {list(touched)}; is --data the data it was in?"
            )
        if len(found) > 1:
            raise UsageError(
                f"a run with --assignment {spec.assignment} does not keep in which of the shards {sorted(found)} a "
                "forgotten sample was. Give --ids of requests that touched one of them"
            )
        (homes[key],) = found
    return homes


def _possible_homes(asked: _Source, state: RunState, spec: RunSpec) -> list[set[int]]:
    """The shards that each forgotten sample may have been in: one of the run's own data, and one per addition.

    Any shard at all where the assignment depended on samples that are gone.
    """
    if spec.assignment not in ("hash", "grouped"):
        return [{*state.shards} for _ in range(len(asked.table))]
    keys, owners = asked.table["key"].to_pylist(), asked.table["owner_key"].to_pylist()
    parted = [(0, spec.shards), *((one.first, len(one.samples)) for one in state.additions)]
    columns = [
        first + assign(keys, shards=shards, method=spec.assignment, owners=owners)  # type: ignore[arg-type]
        for first, shards in parted
    ]
    return [{int(shard) for shard in row} for row in zip(*columns, strict=True)]


def _or(shards: set[int]) -> str:
    return " or ".join(map(str, sorted(shards)))


def _composed(store: Store, spec: RunSpec, state: RunState) -> str:
    """The key of the composed model that is served: the last recorded one that is there."""
    there = {info.key for info in store.list(f"{names.COMPOSED_FOLDER}/")}
    recorded = [names.composed_key(c.digest) for c in state.compositions if c.mode == spec.compose]
    recorded += [names.composed_key(r.forgotten.composed_after) for r in state.requests.values()
                 if r.forgotten and r.forgotten.composed_after]  # fmt: skip
    found = [key for key in recorded if key in there]
    if not found:
        raise StorageError(f"{store.uri} has no composed model; taft-ray train composes it again")
    return found[-1]


def _member_parts(
    parts: Mapping[str, Sequence[dict[str, Any]]], shards: Sequence[int], seed: int
) -> tuple[list[dict[str, Any]], list[int]]:
    """Cache parts of these shards with about MOST_MEMBERS samples, and the shard of each sample."""
    every = [(shard, part) for shard in sorted(shards) for part in parts.get(str(shard), [])]
    chosen, member_of = [], []
    for shard, part in (every[at] for at in np.random.default_rng(seed).permutation(len(every))):
        if len(member_of) >= MOST_MEMBERS:
            break
        chosen.append(part)
        member_of += [shard] * int(part["rows"])
    return chosen, member_of


def _samples(phi: np.ndarray, labels: np.ndarray, home: np.ndarray) -> Samples:
    return Samples(by_shard=phi[:, :-1], composed=phi[:, -1], labels=labels, home=home)


def _some(values: Sequence[int], most: int, seed: int) -> list[int]:
    """At most ``most`` of them, drawn by the seed, in order."""
    if len(values) <= most:
        return list(values)
    return sorted(np.random.default_rng(seed).choice(list(values), most, replace=False).tolist())


def _named(ids: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in ids[:5]) + (f" and {len(ids) - 5} more" if ids[5:] else "")
    return f"{plural(len(ids), 'id')} ({shown}) {are(len(ids))}"
