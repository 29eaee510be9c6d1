"""`verify` of what is kept beside a run: its tombstones, and whatever else lies in their folder."""

from __future__ import annotations

from taft_ray.counting import are, plural, which
from taft_ray.errors import IntegrityError
from taft_ray.proof.evidence import Evidence
from taft_ray.storage import Tombstones, strangers_beside


def tombstones(run: Evidence) -> None:
    """Every request kept beside the run is in its ledger: else an older copy of the folder was put back."""
    identity = run.state.identity
    if not identity:
        return
    with run.examining("tombstones beside the run"):
        beside = Tombstones(run.store, identity)
        kept = beside.read()
        run.checks["tombstones beside the run"] = len(kept)
        changed = [name for name, one in run.state.requests.items() if name in kept and not one.is_kept_in(kept[name])]
        if changed:
            raise IntegrityError(
                f"{which('forget request', changed)} {are(len(changed))} kept beside {run.store.uri} with less than the ledger has. "
                "An older copy of the folder would not forget all of it; taft-ray repair writes it again"
            )
        lost = len(run.state.requests.keys() - kept.keys())
        if lost and beside.store is not None:
            run.notes.append(
                f"{plural(lost, 'forget request is', 'forget requests are')} not kept in {beside.store.uri} (was the folder moved "
                "without it?): putting back an older copy would not be noticed; the next train, forget, evaluate or status writes them again"
            )
        if missing := beside.missing(run.state.requests):
            raise IntegrityError(
                f"{which('forget request', missing)} {are(len(missing))} kept beside {run.store.uri} and not in its "
                "ledger: an older copy of the folder was put back. Run taft-ray forget --due, which forgets them again"
            )


def strangers_beside_it(run: Evidence) -> None:
    """Nothing lies among the tombstones that no taft_ray wrote. It is named, and never removed."""
    with run.examining("tombstones beside the run"):
        strange = strangers_beside(run.store)
        if strange:
            what = which("object", strange) if len(strange) > 1 else strange[0]
            raise IntegrityError(
                f"{what} in {run.store.uri}.tombstones {are(len(strange))} nothing that is kept beside a run; "
                "look what it is, and move it elsewhere. No command removes it"
            )
