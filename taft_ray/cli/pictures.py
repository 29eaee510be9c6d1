"""`predict`: the classes of pictures."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run")
@click.argument("pictures", nargs=-1, required=True)
@click.option("--output", metavar="FILE", help="Write the predictions there, too: .parquet or .csv.")
@answers
def predict(run: str, pictures: tuple[str, ...], output: str | None, report: ProgressReport) -> Any:
    """The classes of PICTURES (files, folders, Parquet, tars) by RUN's composed model."""
    from taft_ray.verbs.run import Run
    from taft_ray.verbs.table_file import check_suffix, write_table

    check_suffix("output", output)
    answer = Run(run, progress=report).predict(pictures)
    if output is not None:
        write_table(answer.to_pandas(), output)
    return answer
