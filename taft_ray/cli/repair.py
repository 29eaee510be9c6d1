"""The command that mends: repair."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run")
@click.option("--data", metavar="URI", help="Where the source data lies now; where RUN was read from by default.")
@answers
def repair(run: str, data: str | None, report: ProgressReport) -> Any:
    """Make again what is damaged or missing in RUN; exits 1 while a shard stays in quarantine."""
    from taft_ray.verbs.run import Run

    return Run(run, progress=report).repair(data)
