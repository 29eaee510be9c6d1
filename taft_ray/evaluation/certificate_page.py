"""A certificate of forgetting as a page for whoever answers for the data: what was asked, what was done, how to check it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from taft_ray.evaluation.markup import Raw, code, document, esc, folded, nested, pairs, table

_MODES = {
    "drop": "The parts of the model that had seen the samples were taken out of it, and not replaced.",
    "retrain": "The parts of the model that had seen the samples were taken out of it and trained again from the start "
    "without them: to the last bit what a model is that never saw the samples.",
    "resolve": "The parts of the model that had seen the samples were taken out of it and solved again without them, to "
    "within a certified distance of what a model is that never saw the samples.",
}
_KINDS = {
    "cache/": "Stored activations of pictures (cache parts that held a sample are rewritten without it)",
    "deltas/monolith/": "Comparison models trained on everything",
    "deltas/": "Trained parts of the model (deltas)",
    "composed/": "Copies of the whole model (snapshots)",
    "eval/": "Stored activations of evaluation pictures",
    "checkpoints/": "Intermediate states of training",
    "manifest/": "Lists of samples",
}
_SPKI = bytes.fromhex("302a300506032b6570032100")  # what an Ed25519 key has before it in DER (RFC 8410)
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def certificate_page(certificate: Mapping[str, Any], key: str | None = None) -> str:
    """One self-contained HTML page; every field of ``certificate`` is on it, whatever fields it has.

    key: where in the run's folder the certificate lies. With a `signature` beside its fields it says whose it is, unchecked.
    The page proves nothing by itself: the
    JSON it was made of is the certificate, and ``verify`` checks it.
    """
    request = certificate.get("request")
    named = isinstance(request, str | int)
    name = f"Certificate of forgetting {request}" if named else "Certificate of forgetting"
    heading = "<h1>Certificate of forgetting</h1>" + (f"\n<p>Request {code(request)}</p>" if named else "")
    note = esc("A copy for reading. The certificate is the JSON in the run folder, which `taft-ray verify` checks.")
    file = f"{certificate['run']['address']}/{key}" if key and isinstance(certificate.get("run"), dict) else "FILE"
    body = [Raw(f'<header>{heading}\n<p class="quiet">{note}</p></header>')]
    try:
        body += [section(certificate) for section in _SECTIONS]
        body.append(_checked(certificate, file))
        every = folded("Every field of the certificate", nested(dict(certificate), level=3))
        body.append(Raw(f"<h2>The certificate itself</h2>\n{every}"))
    except _MALFORMED:  # another version's: its fields as they are
        body = [body[0], nested(dict(certificate), level=2)]
    return document(name, "\n".join(body))


def _asked(certificate: Mapping[str, Any]) -> Raw:
    count = int(certificate["samples"])
    rows = [
        ("Asked on", _moment(certificate["requested"])),
        ("To be forgotten", f"{count:,} {'sample' if count == 1 else 'samples'}"),
        ("How", Raw(f"{code(certificate['mode'])} {esc(_MODES[certificate['mode']])}")),
        ("In the run", code(certificate["run"]["address"])),
        ("Parts of the model touched", ", ".join(f"shard {number}" for number in certificate["shards"]) or "none"),
    ]
    hashes = "\n".join(f"<li>{code(digest)}</li>" for digest in certificate["id_hashes"])
    why = (
        "A sample is named by a keyed hash of its identifier. With the run's key it can be shown that a given identifier was "
        "meant; without the key the hash tells nothing, and destroying the key makes that final."
    )
    listed = folded(f"The {count:,} keyed hashes", Raw(f"<ul>\n{hashes}\n</ul>"))
    return Raw(f'<h2>What was asked</h2>\n{pairs(rows)}\n<p class="quiet">{esc(why)}</p>\n{listed}')


def _done(certificate: Mapping[str, Any]) -> Raw:
    told = {
        "requested": "The request was recorded; the samples may not come back from here on",
        "dropped": "What had seen the samples left the model",
        "rewritten": "The list of samples was committed without them",
        "purged": "Everything stored that had seen the samples was deleted, and looked for again",
        "start purged": "What solving again had started from was deleted, and looked for again",
    }
    rows = [
        (
            told.get(step["step"], step["step"].capitalize()),
            _moment(step["time"]),
            f"{step['number']:,}",
            code(step["digest"][:16]),
        )
        for step in certificate["steps"]
    ]
    rows.append(("This certificate was issued", _moment(certificate["issued"]), "", Raw("")))
    head = ("Step", "When", "Ledger entry", "Its digest begins")
    return Raw(f"<h2>What was done, and when</h2>\n{table('Steps', head, rows, numeric=(2,), prose=(0,))}")


def _removed(certificate: Mapping[str, Any]) -> Raw:
    removed = certificate["objects_removed"]
    counts = Counter(
        next((told for prefix, told in _KINDS.items() if entry["key"].startswith(prefix)), "Others")
        for entry in removed
    )
    rows = [(kind, f"{count:,}") for kind, count in sorted(counts.items())]
    rows.append(("Older versions of these objects", f"{certificate['older_versions_removed']:,}"))
    still = certificate["still_listed_after_purge"]
    found = f"{len(still):,} were still there" if still else "none of them was there any more"
    beyond = "\n".join(f"<p>{esc(text)}</p>" for text in certificate["beyond_reach"])
    listed = table(
        "Objects removed", ("Object", "Digest"), [(code(e["key"]), code(e["digest"] or "not known")) for e in removed]
    )
    return Raw(
        f"<h2>What was removed</h2>\n{table('Objects by kind', ('Kind', 'Objects'), rows, numeric=(1,), prose=(0,))}\n"
        f"<p>The storage was listed again afterwards: {esc(found)}.</p>\n{beyond}\n{folded(f'The {len(removed):,} objects', listed)}"
    )


def _now(certificate: Mapping[str, Any]) -> Raw:
    rows = [
        ("Model before (digest)", _digest(certificate["composed_before"])),
        ("Model after", _digest(certificate["composed_after"])),
        ("List of samples before (digest)", _digest(certificate["manifest_before"])),
        ("List of samples after", _digest(certificate["manifest_after"])),
    ]
    again = [
        (
            f"shard {shard['shard']}",
            f"{shard['generation']}",
            f"{shard['samples']:,}",
            f"{shard['facts']['seconds']:.2f}",
            f"{shard['facts']['distance_bound']:.3g}" if shard["facts"].get("resolved") else "the same bits",
            code(shard["delta"]["digest"][:16]),
        )
        for shard in certificate["retrained"]
    ]
    head = ("Part", "Generation", "Samples left", "Seconds", "From never having seen them", "Digest begins")
    retrained = table("Trained again without the samples", head, again, numeric=(1, 2, 3)) if again else Raw("")
    return Raw(f"<h2>What the model is now</h2>\n{pairs(rows)}\n{retrained}")


def _checked(certificate: Mapping[str, Any], file: str) -> Raw:
    run = certificate["run"]["address"]
    rows = [
        ("This certificate, and that nothing came back since", f"taft-ray verify {file}"),
        ("By a key known from elsewhere", f"taft-ray verify {file} --public-key key.pub"),
        ("The whole run, from its storage alone", f"taft-ray verify {run}"),
        ("By training the touched parts again", f"taft-ray verify {run} --retrain"),
    ]
    position = certificate["rests_on"]
    chain = (
        f"It rests on entry {position['number']:,} of the run's ledger, a chain in which each entry has the digest of the one "
        "before: nothing up to there can be changed without the change being found."
    )
    return Raw(
        "<h2>How it can be checked</h2>\n"
        f"{pairs([(what, code(command)) for what, command in rows])}\n<p>{esc(chain)}</p>\n"
        f"{pairs([('Digest of that entry', code(position['digest'])), ('Digest of this certificate', code(certificate['digest']))])}"
    )


def _signed(certificate: Mapping[str, Any]) -> Raw:
    signature = certificate.get("signature")
    if signature is None:
        return Raw("<h2>Signature</h2>\n<p>Not signed: nothing in it says who made it.</p>")
    fingerprint = hashlib.sha256(_SPKI + bytes.fromhex(signature["public_key"])).hexdigest()
    rows = [
        ("Key (SHA-256)", code(fingerprint)),
        ("Algorithm", code(signature["algorithm"])),
        ("Signature", code(signature["signature"])),
    ]
    note = (
        "Whose key this is must be known from elsewhere. This page does not check the signature; the commands above do."
    )
    return Raw(f'<h2>Signature</h2>\n{pairs(rows)}\n<p class="quiet">{esc(note)}</p>')


def _not_covered(certificate: Mapping[str, Any]) -> Raw:
    items = "\n".join(f"<li>{esc(text)}</li>" for text in certificate["does_not_cover"])
    return Raw(f"<h2>What it does not cover</h2>\n<ul>\n{items}\n</ul>")


def _cost(certificate: Mapping[str, Any]) -> Raw:
    seconds, cost, where = certificate["seconds"], certificate["cost"], certificate["environment"]
    rows = [(f"Seconds: {name}", f"{value:.2f}") for name, value in seconds.items() if value is not None]
    rows.append(("Worker seconds", f"{cost['worker_seconds']:.2f}"))
    if cost["money"] is not None:
        rows.append((f"Cost, at {cost['price_per_hour']:g} an hour", f"{cost['money']:.4f}"))
    rows.append(
        ("Where", f"{where['device']}, {where['threads']} threads, {where['machine']}, Python {where['python']}")
    )
    rows.append(("With", ", ".join(f"{name} {version}" for name, version in where["versions"].items())))
    return Raw(f"<h2>Time, cost and environment</h2>\n{pairs(rows)}")


_SECTIONS: Sequence[Callable[[Mapping[str, Any]], Raw]] = (
    _asked, _done, _removed, _now, _not_covered, _signed, _cost,
)  # fmt: skip


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%-d %B %Y, %H:%M:%S UTC")


def _digest(value: str | None) -> Raw:
    return Raw('<span class="quiet">no model: no part is left in it</span>') if value is None else code(value)
