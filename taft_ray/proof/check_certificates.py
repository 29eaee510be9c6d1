"""Certificates and their signatures against the ledger."""

from __future__ import annotations

from taft_ray.counting import are, which
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import Forgotten
from taft_ray.plans.fold import Replayed
from taft_ray.proof.certificate import open_certificate
from taft_ray.proof.contradictions import contradictions, inconsistencies
from taft_ray.proof.evidence import Evidence, Findings
from taft_ray.proof.signature import check_signature
from taft_ray.storage import digest_bytes


def certificates(run: Evidence) -> None:
    """Every certificate and signature is the one committed, agrees with itself, and stands in the chain as it says."""
    done = [(request, request.forgotten) for request in run.state.requests.values() if request.forgotten is not None]
    made = {entry.body["request"]: entry.number for entry in run.entries if entry.kind == Forgotten.KIND}
    replayed, found = Replayed(run.entries), dict[str, Findings]()
    # in the order in which they were made, so that the ledger is folded once; told in the order of the requests
    for request, finished in sorted(done, key=lambda one: made[one[0].request]):
        ref, mine = finished.certificate, found.setdefault(request.request, Findings())
        with mine.examining("certificates"):
            data = run.store.read(ref.key)
            if digest_bytes(data) != ref.digest:
                raise IntegrityError(f"{ref.key} was changed: its digest is not the ledger's")
            certificate, _ = open_certificate(data, ref.key)
            for wrong in [
                *inconsistencies(certificate), *contradictions(certificate, run.entries, run.state, replayed)
            ]:  # fmt: skip
                mine.problems.append(f"certificates: {ref.key}: {wrong}")
    run.problems += [problem for request, _ in done for problem in found[request.request].problems]
    run.checks["certificates"] = len(done)
    signed = [request for request, _ in done if request.signed is not None]
    for request in signed:
        with run.examining("signatures"):
            check_signature(run.store, request)
    run.checks["signatures"] = len(signed)
    unfinished = [r.request for r in run.state.requests.values() if r.forgotten is None and not r.waiting]
    if unfinished:
        run.problems.append(
            f"{which('forget request', unfinished)} {are(len(unfinished))} not finished; `taft-ray forget {run.store.uri} --due` goes on"
        )
