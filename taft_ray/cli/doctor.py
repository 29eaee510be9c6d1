"""The command that says what would go wrong, before anything is begun."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run", required=False)
@answers
def doctor(run: str | None, report: ProgressReport) -> Any:
    """Find out what would go wrong with runs here, or in RUN; exits 1 when something would.

    It looks at packages, disk and clocks, and at every node of the cluster of RAY_ADDRESS. RUN need not exist yet: its storage
    is tried. Nothing is started, and nothing stays behind.
    """
    from taft_ray.verbs.run import doctor as verb

    return verb(run)
