"""A hint for an id that is not in the run. It only tells: two ids that look alike are two samples."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import sample_key
from taft_ray.data.columns import has_key, is_kept
from taft_ray.data.sample_ids import ids_by_place
from taft_ray.run.record import Record

_COMPARED = 5_000  # rows whose ids are compared letter by letter, and those whose file has the same name
_SHOWN = 2


def what_was_meant(record: Record, unknown: Sequence[str]) -> str:
    """Sentences on these ids: one that differs in form alone, ids of the run that are near the first, or how its ids look."""
    if not unknown:
        return ""
    table = record.manifest().table
    kept = table.filter(is_kept(table))
    alike = _alike(kept, unknown, record.spec.seed)
    if alike or not kept.num_rows:
        return alike
    ids = _some_ids(kept, unknown[0], record.spec.seed)
    listed = f"taft-ray status {record.store.uri} --samples"
    if not ids:
        return f". The ids of this run are in its data, in the column 'id' or the field of that name; all ids: {listed}"
    close = near(unknown[0], ids)
    if close:
        return f". Did you mean {' or '.join(map(repr, close))}? All ids: {listed}"
    return f". Ids of this run are such as {' and '.join(map(repr, ids[:_SHOWN]))}; all ids: {listed}"


def near(wanted: str, ids: Sequence[str]) -> list[str]:
    """At most two of the ids: those that are the wanted one in another folder, else those with about its letters."""
    moved = [one for one in ids if wanted.endswith(f"/{one}") or one.endswith(f"/{wanted}")]
    return sorted(moved, key=len, reverse=True)[:_SHOWN] or get_close_matches(wanted, ids, n=_SHOWN)


def _some_ids(kept: pa.Table, wanted: str, seed: int) -> list[str]:
    """Ids of the run, sorted, as far as the manifest tells them: of files with the wanted name, and of some more."""
    file = wanted.rpartition("/")[2].partition("#")[0]
    same = kept.filter(pc.ends_with(kept["uri_relative"], file)).slice(0, _COMPARED)  # type: ignore[attr-defined]  # made at import
    rows = pa.concat_tables([same, kept.slice(0, _COMPARED)])
    return sorted({name for name in ids_by_place(rows, seed) if name is not None})


def _alike(kept: pa.Table, unknown: Sequence[str], seed: int) -> str:
    """A sentence on an id that is there in another Unicode form, or without the blanks; empty where there is none."""
    forms = {
        form: name
        for name in unknown
        for form in (name.strip(), *(unicodedata.normalize(kind, name) for kind in ("NFC", "NFD")))
        if form != name
    }
    keys = [sample_key(form, seed) for form in forms]
    there = set(kept.filter(has_key(kept["key"], keys))["key"].to_pylist())
    for key, (form, name) in zip(keys, forms.items(), strict=True):
        if key in there:
            return f". {name!a} is not there, and {form!a}, which differs in blanks or Unicode form, is another id"
    return ""
