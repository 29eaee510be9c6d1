"""A certificate of forgetting as a page for whoever answers for the data: what was asked, what was done, how to check it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from markupsafe import Markup

from taft_ray.evaluation.notation import timed_step
from taft_ray.pages.document import page
from taft_ray.pages.shown import Shown, code, counted, digest, marked, table, time_of

_KINDS = {
    "cache/": "Stored activations of pictures (cache parts that held a sample are rewritten without it)",
    "deltas/monolith/": "Comparison models trained on everything",
    "deltas/": "Trained parts of the model (deltas)",
    "composed/": "Copies of the whole model (snapshots)",
    "eval/": "Stored activations of evaluation pictures",
    "checkpoints/": "Intermediate states of training",
    "manifest/": "Lists of samples",
}
_STEPS = {
    "requested": "The request was recorded; the samples may not come back from here on",
    "dropped": "The shards that had seen the samples left the model",
    "rewritten": "The list of samples was committed without them",
    "purged": "Everything stored that had seen the samples was deleted, and looked for again",
    "start purged": "The state that solving again had started from was deleted, and looked for again",
    "withdrawn": "Replicas answered with a model from before it no more",
}
_SUBTRACTION = {
    "dropped": "The subtraction began; no shard left the model",
    "rewritten": "The samples left the sums, and the list of samples was committed without them",
}
_NOTHING_NEW = {  # a request that only brings dropped shards back
    "requested": "The request was recorded",
    "dropped": "The request began; its shards had left the model before",
    "rewritten": "The list of samples was committed again, for the next generation of these shards",
    "purged": "What was out of date was deleted, and looked for again",
}
_SPKI = bytes.fromhex("302a300506032b6570032100")  # what an Ed25519 key has before it in DER (RFC 8410)
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, TemplateError)


def certificate_page(
    certificate: Mapping[str, Any],
    key: str | None = None,
    checked: tuple[str, Sequence[str]] | None = None,
    kept_until: float | None = None,
) -> str:
    """One self-contained HTML page; every field of ``certificate`` is on it, whatever fields it has.

    key: where in the run's folder the certificate lies. With a `signature` beside its fields it says whose it is, unchecked.

    checked: when it was compared with its run (ISO 8601), and what was wrong.

    kept_until: the run's date for the key of the hashes, where it has one (unix seconds). The certificate itself has none.

    The page proves nothing by itself. The JSON it was made of is the certificate, and ``verify`` checks it.
    """
    certificate = dict(certificate)
    named = isinstance(certificate.get("request"), str | int)
    common = {"certificate": certificate, "c": Shown(certificate), "request": certificate["request"] if named else None}
    try:
        return page(
            "certificate.html",
            **common,
            checked=checked,
            kept_until=kept_until,
            timed_step=timed_step,
            file=f"{certificate['run']['address']}/{key}" if key else "FILE",
            fitted=[one["shard"] for one in certificate["retrained"] if not one["facts"].get("resolved")],
            cold=[one["shard"] for one in certificate["retrained"] if one["facts"].get("warm") is False],
            steps=_steps(certificate),
            kinds=_kinds(certificate),
            removed=_removed(certificate),
            retrained=_retrained(certificate),
            outside=_outside(certificate),
            fingerprint=_fingerprint(certificate),
        )
    except _MALFORMED:  # another version's: its fields as they are
        return page("fields.html", **common)


def _steps(certificate: Mapping[str, Any]) -> Any:
    rows: list[list[Any]] = [
        [
            _told(certificate, step["step"])
            or marked(step["step"], f"/steps/{i}/step", str(step["step"]).capitalize()),
            time_of(step["time"], f"/steps/{i}/time"),
            marked(step["number"], f"/steps/{i}/number", f"{step['number']:,}"),
            digest(step["digest"], f"/steps/{i}/digest"),
        ]
        for i, step in enumerate(certificate["steps"])
    ]
    rows.append(["This certificate was issued", time_of(certificate["issued"], "/issued"), "", ""])
    return table("Steps", ("Step", "When", "Ledger entry", "Its digest begins"), rows, numeric=(2,), prose=(0,))


def _told(certificate: Mapping[str, Any], step: str) -> str | None:
    """A step in words, where its name is not enough."""
    if not certificate["samples"]:
        return _NOTHING_NEW.get(step) or _STEPS.get(step)
    if certificate["mode"] == "subtract":
        return _SUBTRACTION.get(step) or _STEPS.get(step)
    return _STEPS.get(step)


def _kinds(certificate: Mapping[str, Any]) -> Any:
    """How many objects of each kind were removed, counted from the list below it."""
    of: dict[str, list[int]] = {}
    for i, entry in enumerate(certificate["objects_removed"]):
        kind = next((told for prefix, told in _KINDS.items() if entry["key"].startswith(prefix)), "Others")
        of.setdefault(kind, []).append(i)
    rows = [
        [kind, counted(len(those), f"/objects_removed#{','.join(map(str, those))}")]
        for kind, those in sorted(of.items())
    ]
    older = certificate["older_versions_removed"]
    rows.append(["Older versions of these objects", marked(older, "/older_versions_removed", f"{older:,}")])
    return table("Objects by kind", ("Kind", "Objects"), rows, numeric=(1,), prose=(0,))


def _removed(certificate: Mapping[str, Any]) -> Any:
    rows = [
        [
            code(entry["key"], f"/objects_removed/{i}/key"),
            code(entry["digest"], f"/objects_removed/{i}/digest") if entry["digest"] else "not known",
        ]
        for i, entry in enumerate(certificate["objects_removed"])
    ]
    return table("Objects removed", ("Object", "Digest"), rows)


def _retrained(certificate: Mapping[str, Any]) -> Any:
    rows = []
    for i, shard in enumerate(certificate["retrained"]):
        facts, at = shard["facts"], f"/retrained/{i}"
        distance = (
            marked(facts["distance_bound"], f"{at}/facts/distance_bound", f"{facts['distance_bound']:.3g}")
            if facts.get("resolved")
            else "the same bits"
        )
        rows.append(
            [
                Markup("shard {}").format(marked(shard["shard"], f"{at}/shard", shard["shard"])),
                marked(shard["generation"], f"{at}/generation", shard["generation"]),
                marked(shard["samples"], f"{at}/samples", f"{shard['samples']:,}"),
                marked(facts["seconds"], f"{at}/facts/seconds", f"{facts['seconds']:.2f}"),
                distance,
                digest(shard["delta"]["digest"], f"{at}/delta/digest"),
            ]
        )
    head = ("Part", "Generation", "Samples left", "Seconds", "From never having seen them", "Digest begins")
    return table("Trained again without the samples", head, rows, numeric=(1, 2, 3))


def _outside(certificate: Mapping[str, Any]) -> Any:
    """The releases that hold what was forgotten."""
    rows = [
        [
            code(one["release"], f"/outside/{i}/release"),
            marked(one["what"], f"/outside/{i}/what"),
            "not said" if one["to"] is None else marked(one["to"], f"/outside/{i}/to"),
            "no date" if one["until"] is None else time_of(one["until"], f"/outside/{i}/until"),
            marked(one["notified"], f"/outside/{i}/notified", "yes" if one["notified"] else "no"),
            code(one["digest"], f"/outside/{i}/digest"),
        ]
        for i, one in enumerate(certificate.get("outside", ()))
    ]
    head = ("Release", "What", "To", "Given out until", "Recall told", "SHA-256 of the file")
    return table("Recalled files", head, rows, prose=(1, 2))


def _fingerprint(certificate: Mapping[str, Any]) -> str | None:
    signature = certificate.get("signature")
    if signature is None:
        return None
    return hashlib.sha256(_SPKI + bytes.fromhex(signature["public_key"])).hexdigest()
