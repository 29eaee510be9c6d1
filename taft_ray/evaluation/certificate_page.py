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


def certificate_page(
    certificate: Mapping[str, Any], key: str | None = None, checked: tuple[str, Sequence[str]] | None = None
) -> str:
    """One self-contained HTML page; every field of ``certificate`` is on it, whatever fields it has.

    key: where in the run's folder the certificate lies. With a `signature` beside its fields it says whose it is, unchecked.

    checked: when it was compared with its run (ISO 8601), and what was wrong.

    The page proves nothing by itself. The JSON it was made of is the certificate, and ``verify`` checks it.
    """
    request = certificate.get("request")
    named = isinstance(request, str | int)
    name = f"Certificate of forgetting {request}" if named else "Certificate of forgetting"
    heading = "<h1>Certificate of forgetting</h1>" + (f"\n<p>Request {code(request)}</p>" if named else "")
    note = esc("A copy for reading. The certificate is the JSON in the run's folder; taft-ray verify checks it.")
    file = f"{certificate['run']['address']}/{key}" if key and isinstance(certificate.get("run"), dict) else "FILE"
    body = [Raw(f'<header>{heading}\n<p class="quiet">{note}</p></header>')]
    try:
        body.append(_verdict(certificate, checked))
        body += [section(certificate) for section in _SECTIONS]
        body.append(_checked(certificate, file))
        every = folded("Every field of the certificate", nested(dict(certificate), level=3))
        body.append(Raw(f"<h2>The certificate itself</h2>\n{every}"))
    except _MALFORMED:  # another version's: its fields as they are
        body = [body[0], nested(dict(certificate), level=2)]
    return document(name, "\n".join(body))


def _verdict(certificate: Mapping[str, Any], checked: tuple[str, Sequence[str]] | None) -> Raw:
    """One line: what was done when, and whether it was checked."""
    count, last = int(certificate["samples"]), certificate["steps"][-1]["time"]
    what = "1 sample is" if count == 1 else f"{count:,} samples are"
    told = f"Done on {_moment(last)}: {what} in no model, delta, cache or checkpoint of this run."
    if certificate["beyond_reach"]:
        told += " Older versions of removed objects could not be reached, see below."
    if checked is None:
        return Raw(f'<p class="verdict">{esc(told)} Not verified when this page was made.</p>')
    when, problems = checked
    if not problems:
        return Raw(
            f'<p class="verdict">{esc(told)} {esc(f"Verified on {_moment(when)} against the ledger of its run.")}</p>'
        )
    items = "".join(f"<li>{esc(problem)}</li>" for problem in problems)
    wrong = f"Compared with its run on {_moment(when)}, it does not hold:"
    return Raw(f'<p class="verdict wrong">{esc(wrong)}</p>\n<ul>{items}</ul>')


def _how(certificate: Mapping[str, Any]) -> str:
    """The meaning of the mode; for a resolve also which shards were not solved again from where they were, and why."""
    mode = certificate["mode"]
    if mode != "resolve":
        return _MODES[mode]
    fitted = [one["shard"] for one in certificate["retrained"] if not one["facts"].get("resolved")]
    cold = [one["shard"] for one in certificate["retrained"] if one["facts"].get("warm") is False]
    told = _MODES[mode] if len(fitted) < len(certificate["retrained"]) or not fitted else ""
    if fitted:
        others = ", ".join(certificate.get("carried_out_with", ())) or "another request"
        told += f" {_shards(fitted)} trained again from the start, as by retrain, because {others} asked for that at the same time."
    if cold:
        told += f" {_shards(cold)} solved from nothing, for what it had started from was gone; the distance holds all the same."
    return told.strip()


def _shards(numbers: Sequence[int]) -> str:
    return f"Shard {numbers[0]} was" if len(numbers) == 1 else f"Shards {', '.join(map(str, numbers))} were"


def _asked(certificate: Mapping[str, Any]) -> Raw:
    count = int(certificate["samples"])
    rows = [
        ("Asked on", _moment(certificate["requested"])),
        ("To be forgotten", f"{count:,} {'sample' if count == 1 else 'samples'}"),
        ("How", Raw(f"{code(certificate['mode'])} {esc(_how(certificate))}")),
        ("In the run", code(certificate["run"]["address"])),
        ("Parts of the model touched", ", ".join(f"shard {number}" for number in certificate["shards"]) or "none"),
    ]
    if certificate.get("carried_out_with"):
        rows.append(("Carried out together with the requests", ", ".join(certificate["carried_out_with"])))
    hashes = "\n".join(f"<li>{code(digest)}</li>" for digest in certificate["id_hashes"])
    why = (
        "A sample is named by a keyed hash of its identifier. With the run's key it can be shown that a given identifier was "
        "meant; without the key the hash tells nothing, and destroying the key makes that final."
    )
    listed = folded("The keyed hash" if count == 1 else f"The {count:,} keyed hashes", Raw(f"<ul>\n{hashes}\n</ul>"))
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
    kinds = table("Objects by kind", ("Kind", "Objects"), rows, numeric=(1,), prose=(0,))
    every = folded("The object" if len(removed) == 1 else f"The {len(removed):,} objects", listed)
    told = f"<p>The storage was listed again afterwards: {esc(found)}.</p>"
    return Raw(f"<h2>What was removed</h2>\n{kinds}\n{told}\n{beyond}\n{every}")


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
