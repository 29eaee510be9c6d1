"""The commands on what left the house: recalls, check, release; and the options that say where a release goes."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import Verb, answers
from taft_ray.errors import UsageError
from taft_ray.progress import ProgressReport


def recipient_options(function: Verb) -> Verb:
    """The options that say where a release goes."""
    options = [
        click.option("--to", metavar="NAME-OR-URL", help="Where the file goes; the ledger keeps it."),
        click.option("--contact", metavar="TEXT", help="Whom a recall is told there; the ledger keeps it."),
        click.option("--until", metavar="WHEN", help="When it is to be deleted there: 90d, or 2027-06-30."),
        click.option(
            "--no-register",
            is_flag=True,
            help="Where the ledger cannot be written: write the file all the same, and let it say so.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("run")
@click.option("--notify", metavar="URL", help="Send a signed notice of each recalled release there, once; https.")
@click.option(
    "--write", metavar="FOLDER", help="Write a signed notice per recall that is not told there, to send by mail."
)
@click.option(
    "--sign", metavar="FILE", help="With --notify or --write: the Ed25519 private key (PEM) that signs the notices."
)
@click.option("--timeout", type=float, help="With --notify: seconds that an answer may take; 10 by default.")
@click.option(
    "--release",
    "releases",
    metavar="RELEASE",
    multiple=True,
    help="With --notify or --write: the notices of this release alone; may be repeated.",
)
@click.option(
    "--told", metavar="RELEASE", multiple=True, help="Note that its holder was told by other means; may be repeated."
)
@click.option("--by", metavar="TEXT", help="With --told: who told it, and how; the ledger keeps it, with the time.")
@answers
def recalls(
    run: str,
    notify: str | None,
    write: str | None,
    sign: str | None,
    timeout: float | None,
    releases: tuple[str, ...],
    told: tuple[str, ...],
    by: str | None,
    report: ProgressReport,
) -> Any:
    """The files that left RUN's house, and which hold what was forgotten since; exits 1 when a notice was not taken."""
    from taft_ray.verbs.run import Run

    if notify is None and timeout is not None:
        raise UsageError("--timeout is of notices that are sent; give --notify URL")
    if notify is None and write is None and sign is not None:
        raise UsageError("--sign is of notices; give --notify URL or --write FOLDER")
    return Run(run).recalls(notify=notify, sign=sign, timeout=timeout, write=write, releases=releases, told=told, by=by)


@click.command()
@click.argument("file")
@click.option("--run", required=True, metavar="RUN", help="The run that the file was exported from.")
@answers
def check(file: str, run: str, report: ProgressReport) -> Any:
    """Whether an exported FILE is RUN's current model; exits 0, 3 when superseded, 1 when recalled or not RUN's.

    It also exits 1 for a file that has expired, was changed, or is not in RUN's register.
    """
    from taft_ray.verbs.run import Run

    return Run(run).check(file)


@click.command()
@click.argument("run")
@click.option("--after", metavar="AMOUNT", help="10 (forgets), 30d (days), epsilon=0.5 (of private fits), or none.")
@answers
def release(run: str, after: str | None, report: ProgressReport) -> Any:
    """When a newer model of RUN may be published; --after sets it.

    It holds back exports and newer served models, and never a forget. The first release, and one after which nothing was forgotten,
    is never held. export --now overrides it, and the ledger says so.
    """
    from taft_ray.verbs.run import Run

    return Run(run).release(after)
