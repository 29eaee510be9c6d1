"""`predict`: the classes of pictures."""

from __future__ import annotations

import csv
from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run")
@click.argument("pictures", nargs=-1, required=True)
@click.option("--output", metavar="FILE", help="Write the predictions there, too: .parquet or .csv.")
@click.option(
    "--why", is_flag=True, help="Tell which shards and owners weigh most in each answer (docs/how-to/why.md)."
)
@click.option(
    "--owners", multiple=True, metavar="A,B",
    help="With --why: owners to show by name; a name with a comma goes into double quotes.",
)  # fmt: skip
@answers
def predict(
    run: str, pictures: tuple[str, ...], output: str | None, why: bool, owners: tuple[str, ...], report: ProgressReport
) -> Any:
    """The classes of PICTURES (files, folders, Parquet, tars) by RUN's composed model."""
    from taft_ray.verbs.run import Run
    from taft_ray.verbs.table_file import check_suffix, write_table

    check_suffix("output", output)
    names = tuple(dict.fromkeys(name for text in owners for name in next(csv.reader([text]), ()) if name))
    answer = Run(run, progress=report).predict(pictures, why=why, owners=names)
    if output is not None:
        write_table(answer.to_pandas(), output)
    return answer
