"""`verify`: what storage alone says of a run. Needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taft_ray.errors import IntegrityError, SpecMismatch
from taft_ray.log import operation
from taft_ray.privacy import PublicKey
from taft_ray.progress import Report, silent
from taft_ray.proof.checks import AFTER_THE_CHAIN, chain
from taft_ray.proof.evidence import Evidence, Findings
from taft_ray.run.outcomes import VERIFY, record_outcome
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store


@operation("verify")
def verify(
    run: str,
    *,
    head: str | None = None,
    public_keys: Sequence[PublicKey] = (),
    retrain: bool = False,
    record: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Check everything that can be checked from storage alone: {"ok", "checks": {name: count}, "problems", "notes", "head"}.

    All of these must hold:

    * The chain is unbroken.
    * Every object has its recorded digest, and every byte of it counts.
    * The sums recomposed from the deltas give the snapshots.
    * The cache is what the deltas were fitted on.
    * No forgotten sample is in the manifest, the cache, an evaluation cache or the text of any other object.
    * Nothing lies about that no record names.

    ``head``: the digest of a ledger entry that must be in the chain, from an earlier `verify` kept elsewhere. Without it,
    nobody can tell whether the newest entries were cut off.
    ``public_keys``: every certificate must be signed by one of these. Without them, nobody can tell whether the newest signature
    was taken away.
    ``retrain``: also fit the retrained shards again (minutes for large ones).
    ``record``: keep the answer in the run; "recorded" is its key then. Otherwise nothing is written.

    One cache part is in memory at a time, and two models.
    """
    store = Store(run)
    try:
        evidence = Evidence(address=run, store=store, spec=run_spec(store), report=report, public_keys=public_keys)
    except (IntegrityError, SpecMismatch) as error:  # without its spec nothing in a run has a meaning
        answer = {**Findings(problems=[f"spec: {error}"]).answer(), "forgotten_samples": None, "head": None}
        if record:
            record_outcome(store, VERIFY, None, answer, ())
        return answer
    if chain(evidence):
        evidence.sizes = {info.key: info.size for info in store.list()}
        for check in AFTER_THE_CHAIN:
            check(evidence)
        if retrain:
            from taft_ray.proof.verify_retrain import retrained_again

            retrained_again(evidence)
    entries = evidence.entries
    if head is not None and head not in {entry.digest for entry in entries}:
        evidence.problems.append(
            f"ledger: the entry with digest {head[:16]} is not in it; the newest entries were removed, or it is another run's"
        )
    answer = {
        **evidence.answer(),
        "forgotten_samples": len(evidence.state.forgotten()),
        "head": entries[-1].digest if entries else None,
    }
    if record:
        newest, hashes = entries[-1] if entries else None, evidence.state.tombstones
        answer["recorded"] = record_outcome(store, VERIFY, newest, answer, hashes, evidence.sizes)
    return answer
