"""The commands that show, or end, what can be shown: verify, audit, retention, destroy-key."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.cli.selection import IDS_HELP, explaining_commas, ids_from
from taft_ray.errors import UsageError
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("target")
@click.option("--retrain", is_flag=True, help="Of a run: also train again every shard that a forget trained again.")
@click.option("--head", metavar="DIGEST", help="Of a run: a ledger entry that must be there, from an earlier verify.")
@click.option(
    "--public-key", metavar="FILE", multiple=True,
    help="A certificate, or every one of a run, must be signed by this Ed25519 key (PEM); for a run it may be repeated.",
)  # fmt: skip
@click.option("--run", metavar="RUN", help="Of a certificate: the run to compare it with; the one it names by default.")
@click.option("--metrics", metavar="FILE", help="Of a run: write the outcome there, for Prometheus' collector; .prom.")
@click.option("--record", is_flag=True, help="Of a run: keep the outcome in it, for status, the page and dossiers.")
@answers
def verify(
    target: str, retrain: bool, head: str | None, public_key: tuple[str, ...], run: str | None, metrics: str | None,
    record: bool, report: ProgressReport,
) -> Any:  # fmt: skip
    """Check TARGET, a run or a certificate's JSON, from storage alone; exits 1 when something is wrong."""
    from taft_ray.privacy import read_public_key
    from taft_ray.proof.verify_certificate import is_certificate
    from taft_ray.verbs.run import Run, verify_certificate

    if is_certificate(target):
        if retrain or head or metrics or record:
            raise UsageError(f"{target} is a certificate; --retrain, --head, --metrics and --record are of a run")
        if len(public_key) > 1:
            raise UsageError(f"{target} is a certificate, which has one signature; give --public-key once")
        signer = read_public_key(public_key[0]) if public_key else None
        return verify_certificate(target, public_key=signer, run=run)
    if run:
        raise UsageError(f"{target} is not a certificate's file; --run is of a certificate")
    return Run(target, progress=report).verify(
        head=head, retrain=retrain, metrics=metrics, record=record, public_key=public_key
    )


@click.command()
@click.argument("run")
@click.option("--data", metavar="URI", help="The forgotten samples, from their owner: RUN has them no more.")
@click.option("--never-seen", metavar="URI", help="Data of the same kind that RUN never saw.")
@click.option(
    "--ids", metavar="ID", multiple=True, help=f"Forgotten samples of DATA; all of them by default. {IDS_HELP}"
)
@click.option("--level", type=float, default=0.01, show_default=True, help="How likely a false alarm may be.")
@click.option("--privacy", is_flag=True, help="Test the noise of private RUN by canaries instead; needs no data.")
@click.option(
    "--runs", type=int, help="With --privacy: fits with a canary, and as many without; about a minute's by default."
)
@click.option(
    "--canaries", type=int, help="With --privacy: of one more fit; 500 by default, or as many as the model bears."
)
@click.option(
    "--reconstruct", is_flag=True,
    help="Recover deleted samples from the models before and after simulated forgets instead (docs/explanation/reconstruction.md).",
)  # fmt: skip
@click.option("--picks", type=int, help="With --reconstruct: samples that are forgotten one by one; 20 by default.")
@click.option("--record", is_flag=True, help="Keep the outcome in RUN, for status, the page and dossiers.")
@answers
def audit(
    run: str,
    data: str | None,
    never_seen: str | None,
    ids: tuple[str, ...],
    level: float,
    privacy: bool,
    runs: int | None,
    canaries: int | None,
    reconstruct: bool,
    picks: int | None,
    record: bool,
    report: ProgressReport,
) -> Any:
    """Membership-inference attack on what RUN has forgotten; exits 1 when RUN remembers.

    With --privacy: lower bounds on the ε of a fit, beside the claimed one; exits 1 when one is above it.

    With --reconstruct: how near an attacker comes to a deleted sample. --never-seen is what the attacker knows.
    """
    from taft_ray.verbs.run import Run

    if reconstruct:
        given = {"--data": data, "--ids": ids or None, "--privacy": privacy or None, "--runs": runs}
        _check_unused("--reconstruct forgets samples that the run holds", {**given, "--canaries": canaries})
        return Run(run, progress=report).audit_reconstruction(
            never_seen=never_seen, picks=20 if picks is None else picks, record=record
        )
    _check_unused("it needs --reconstruct", {"--picks": picks})
    if privacy:
        _check_unused(
            "--privacy makes its own data", {"--data": data, "--never-seen": never_seen, "--ids": ids or None}
        )
        return Run(run, progress=report).audit_privacy(level=level, runs=runs, canaries=canaries, record=record)
    _check_unused("it needs --privacy", {"--runs": runs, "--canaries": canaries})
    if data is None or never_seen is None:
        missing = " and ".join(
            name for name, value in (("--data", data), ("--never-seen", never_seen)) if value is None
        )
        raise UsageError(f"an audit of what {run} has forgotten needs {missing}; --privacy audits its noise")
    named = ids_from(ids) or None
    with explaining_commas(named or ()):
        return Run(run, progress=report).audit(data, never_seen, ids=named, level=level, record=record)


def _check_unused(why: str, given: dict[str, object]) -> None:
    if lost := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"{', '.join(lost)}: {why}; leave {'it' if len(lost) == 1 else 'them'} out")


@click.command()
@click.argument("run")
@click.option("--until", metavar="WHEN", help="Keep the key until then: 2027-06-30, or 90d.")
@click.option("--clear", is_flag=True, help="Have no date any more.")
@answers
def retention(run: str, until: str | None, clear: bool, report: ProgressReport) -> Any:
    """Until when RUN keeps the key of its id hashes; --until sets it.

    A hash of an id is personal data while the key is there. status and doctor say when the date has passed, and suggest destroy-key.
    """
    from taft_ray.verbs.run import Run

    return Run(run).retention(until, clear=clear)


@click.command("destroy-key")
@click.argument("run")
@click.option("--yes", is_flag=True, help="It cannot be undone.")
@answers
def destroy_key(run: str, yes: bool, report: ProgressReport) -> Any:
    """Destroy RUN's key of the id hashes: nobody can tell any more whom a tombstone names, nor read data in."""
    from taft_ray.verbs.run import Run

    if not yes:
        raise UsageError(
            "destroying the key cannot be undone, and nothing can be read into the run afterwards; add --yes"
        )
    return Run(run).destroy_key()
