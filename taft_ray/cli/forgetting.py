"""The commands that forget: estimate, forget, sign."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.cli.selection import explaining_commas, selection_from, selection_options
from taft_ray.errors import UsageError
from taft_ray.plans.forget import MODES
from taft_ray.privacy import SigningKey, read_signing_key
from taft_ray.progress import ProgressReport


def _deadline(text: str | None) -> float | None:
    """A deadline as unix seconds: a date or time (ISO 8601), or how long from now: 30d, 12h, 90m, 60s."""
    if text is None:
        return None
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    try:
        if text[-1:] in units:
            when = time.time() + float(text[:-1]) * units[text[-1]]
            datetime.fromtimestamp(when)  # refuses nan, inf and what no calendar has
            return when
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"--deadline {text!r}: expected 30d, 12h, 90m, 60s, or a time such as 2027-01-31T12:00"
        ) from error


@click.command()
@click.argument("run")
@selection_options
@click.option("--mode", type=click.Choice(MODES), default="retrain", show_default=True)
@answers
def estimate(
    run: str,
    ids: tuple[str, ...],
    owners: tuple[str, ...],
    shards: tuple[int, ...],
    with_identical: bool,
    gpu_hour_price: float | None,
    mode: str,
    report: ProgressReport,
) -> Any:
    """What a forget would touch and take; nothing happens."""
    from taft_ray.verbs import forget as requests

    chosen = selection_from(ids, owners, shards, with_identical)
    with explaining_commas(chosen.ids):
        return requests.estimate(run, chosen, mode, gpu_hour_price=gpu_hour_price)


@click.command()
@click.argument("run")
@selection_options
@click.option("--mode", type=click.Choice(MODES), help="drop, retrain or resolve.")
@click.option("--dry-run", is_flag=True, help="Only estimate.")
@click.option(
    "--deadline",
    metavar="WHEN",
    help="Gather with other requests and run in time for this: 30d, 12h, or an ISO time; then --due carries it out.",
)
@click.option("--due", is_flag=True, help="Carry out the requests whose time has come; nothing else is given.")
@click.option("--sign", metavar="FILE", help="Sign the certificate with this Ed25519 private key (PEM).")
@answers
def forget(
    run: str,
    ids: tuple[str, ...],
    owners: tuple[str, ...],
    shards: tuple[int, ...],
    with_identical: bool,
    gpu_hour_price: float | None,
    mode: str | None,
    dry_run: bool,
    deadline: str | None,
    due: bool,
    sign: str | None,
    report: ProgressReport,
) -> Any:
    """Forget samples of RUN; answers with the certificate."""
    from taft_ray.verbs import forget as requests

    key = None if sign is None else read_signing_key(sign)  # a wrong file must not be noticed after a forget
    if due:
        if ids or owners or shards or with_identical or mode or deadline or dry_run:
            raise UsageError("--due carries out what was asked before; leave the other options out")
        answer = requests.forget_due(run, gpu_hour_price=gpu_hour_price, report=report)
        return {**answer, "certificates": [_signed(run, certificate, key) for certificate in answer["certificates"]]}
    if mode is None:
        raise UsageError(f"how to forget? set --mode to one of {', '.join(MODES)}")
    chosen, when = selection_from(ids, owners, shards, with_identical), _deadline(deadline)
    with explaining_commas(chosen.ids):
        if dry_run:
            return requests.estimate(run, chosen, mode, gpu_hour_price=gpu_hour_price)
        answer = requests.forget(run, chosen, mode=mode, deadline=when, gpu_hour_price=gpu_hour_price, report=report)
    return _signed(run, answer, key)


def _signed(run: str, certificate: dict[str, Any], key: SigningKey | None) -> dict[str, Any]:
    """The certificate as it is, or with its signature; a request that still waits has none."""
    from taft_ray.proof.signature import sign_certificate
    from taft_ray.runs.address import run_address

    if key is None or certificate.get("waiting"):
        return certificate
    return {**certificate, **sign_certificate(run_address(run), certificate["request"], key)}


@click.command()
@click.argument("run")
@click.option("--request", required=True, help="The forget whose certificate is signed; taft-ray status lists them.")
@click.option("--key", required=True, metavar="FILE", help="An Ed25519 private key (PEM).")
@answers
def sign(run: str, request: str, key: str, report: ProgressReport) -> Any:
    """Sign a certificate of RUN; answers with the certificate and its signature."""
    return _signed(run, {"request": request}, read_signing_key(key))
