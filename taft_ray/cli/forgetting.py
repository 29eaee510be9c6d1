"""The commands that forget: estimate, forget, sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taft_ray.cli.answers import answers
from taft_ray.cli.selection import explaining_commas, selection_from, selection_options
from taft_ray.errors import UsageError
from taft_ray.plans.forget import MODES
from taft_ray.progress import ProgressReport

if TYPE_CHECKING:
    from taft_ray.composer.selection import Selection

MODE_HELP = (
    "subtract: the samples alone leave the sums, at once, and no shard leaves; a delta beside the sums is fitted again behind it. "
    "drop: at once, and the whole shard (of N shards, a part of 1/N of the data) leaves the model until the same is asked with retrain. "
    "retrain: the shard is fitted again without the samples, from nothing. "
    "resolve: it is fitted again from where it was, to a certified distance of its optimum (ridge only). "
    "[default: subtract; retrain in a run of deltas alone]"
)


@click.command()
@click.argument("run")
@selection_options
@click.option("--mode", type=click.Choice(MODES), help=MODE_HELP)
@answers
def estimate(
    run: str,
    ids: tuple[str, ...],
    owners: tuple[str, ...],
    shards: tuple[int, ...],
    with_identical: bool,
    gpu_hour_price: float | None,
    mode: str | None,
    report: ProgressReport,
) -> Any:
    """Estimate what a forget would touch and take; nothing happens."""
    return _estimated(run, selection_from(ids, owners, shards, with_identical), mode, gpu_hour_price)


@click.command()
@click.argument("run")
@selection_options
@click.option("--mode", type=click.Choice(MODES), help=MODE_HELP)
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
    from taft_ray.privacy import read_signing_key
    from taft_ray.verbs.run import Run

    key = None if sign is None else read_signing_key(sign)  # a wrong file must not be noticed after a forget
    if due:
        if ids or owners or shards or with_identical or mode or deadline or dry_run:
            raise UsageError("--due carries out what was asked before; leave the other options out")
        return Run(run, progress=report).forget_due(gpu_hour_price=gpu_hour_price, sign=key)
    chosen = selection_from(ids, owners, shards, with_identical)
    if dry_run:
        return _estimated(run, chosen, mode, gpu_hour_price)
    with explaining_commas(chosen.ids):
        return Run(run, progress=report).forget(
            chosen.ids, mode=mode, owners=chosen.owners, shards=chosen.shards, with_identical=with_identical,
            deadline=deadline, gpu_hour_price=gpu_hour_price, sign=key,
        )  # fmt: skip


def _estimated(run: str, chosen: Selection, mode: str | None, gpu_hour_price: float | None) -> Any:
    from taft_ray.verbs.run import Run

    with explaining_commas(chosen.ids):
        return Run(run).estimate(
            chosen.ids, owners=chosen.owners, shards=chosen.shards, with_identical=chosen.with_identical, mode=mode,
            gpu_hour_price=gpu_hour_price,
        )  # fmt: skip


@click.command()
@click.argument("run")
@click.option("--request", required=True, help="The forget whose certificate is signed; taft-ray status lists them.")
@click.option("--key", required=True, metavar="FILE", help="An Ed25519 private key (PEM).")
@answers
def sign(run: str, request: str, key: str, report: ProgressReport) -> Any:
    """Sign a certificate of RUN; answers with the certificate and its signature."""
    from taft_ray.privacy import read_signing_key
    from taft_ray.verbs.run import Run

    return Run(run).sign(request, read_signing_key(key))
