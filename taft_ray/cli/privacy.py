"""The command that shows what a private run has spent."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.cli.released import recipient_options
from taft_ray.errors import UsageError
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run")
@click.option("--statement", metavar="FILE", help="Write there, as JSON, what may be published beside the model.")
@click.option("--picture", metavar="FILE", help="Draw the shards' ε there, as SVG.")
@recipient_options
@answers
def privacy(
    run: str,
    statement: str | None,
    picture: str | None,
    to: str | None,
    contact: str | None,
    until: str | None,
    no_register: bool,
    report: ProgressReport,
) -> Any:
    """The privacy that RUN has spent, by shard, beside its budget.

    A statement is registered in RUN's ledger as exports are; --to, --contact, --until and --no-register are of it alone.
    """
    from taft_ray.verbs.run import Run

    if statement is not None and picture is not None:
        raise UsageError("--statement and --picture write different things; give one of them")
    if statement is not None:
        return Run(run).privacy_statement(statement, to=to, contact=contact, until=until, register=not no_register)
    if to or contact or until or no_register:
        raise UsageError("--to, --contact, --until and --no-register are of a statement; give --statement FILE")
    return Run(run).privacy(picture)
