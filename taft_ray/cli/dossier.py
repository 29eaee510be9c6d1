"""The command that writes a folder about a run for a regulator or a customer."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.cli.released import recipient_options
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run")
@click.argument("folder")
@recipient_options
@answers
def dossier(
    run: str,
    folder: str,
    to: str | None,
    contact: str | None,
    until: str | None,
    no_register: bool,
    report: ProgressReport,
) -> Any:
    """Write FOLDER about RUN for a regulator or a customer; exits 1 when something is wrong or cannot be read.

    It has a page, a model card, the certificates with their signatures, and VERIFY.md: how to check them without taft_ray.
    """
    from taft_ray.verbs.run import Run

    return Run(run).dossier(folder, to=to, contact=contact, until=until, register=not no_register)
