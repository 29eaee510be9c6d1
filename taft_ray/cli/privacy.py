"""The command that shows what a private run has spent."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.errors import UsageError
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run")
@click.option("--statement", metavar="FILE", help="Write there, as JSON, what may be published beside the model.")
@click.option("--picture", metavar="FILE", help="Draw the shards' ε there, as SVG.")
@answers
def privacy(run: str, statement: str | None, picture: str | None, report: ProgressReport) -> Any:
    """The privacy that RUN has spent, by shard, beside its budget."""
    from taft_ray.verbs.run import Run

    if statement is not None and picture is not None:
        raise UsageError("--statement and --picture write different things; give one of them")
    if statement is not None:
        return Run(run).privacy_statement(statement)
    return Run(run).privacy(picture)
