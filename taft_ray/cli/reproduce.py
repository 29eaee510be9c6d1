"""The command that makes the paper's tables and figures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.cli.spec import shared_spec_from, shared_spec_options
from taft_ray.errors import UsageError
from taft_ray.progress import ProgressReport

NAMES = (
    "table1", "table2", "fig1a", "fig1b", "fig1c", "fig2a", "fig2b", "fig2c", "table7", "epsilon", "joint", "rates", "choices", "slices", "baselines",
    "forgetting", "views", "table3", "table3-rows", "table3-nonlinear",
)  # fmt: skip


@click.command()
@click.argument("table", type=click.Choice(NAMES))
@click.argument("out")
@click.option("--eval", "test", required=True, metavar="URI", help="The evaluation data, of the same classes.")
@shared_spec_options
@click.option("--seeds", default="0,1,2", show_default=True, help="Comma-separated; each has its own shards and order.")
@click.option("--shards", default="10,25,50", show_default=True, help="Comma-separated; figures use the largest.")
@click.option(
    "--many-blocks", type=int, default=7, show_default=True, help="Of table1's deeper rows; 0 leaves them out."
)
@click.option("--rows", type=int, help="Use so many training pictures, chosen at random; all by default.")
@click.option("--eval-rows", "test_rows", type=int, help="The same of the evaluation data.")
@click.option("--public", metavar="URI", help="Pictures that nobody need hide, for table3's whitening.")
@click.option("--public-rows", type=int, help="Use so many of them.")
@click.option("--label", help="What the data is called in titles and file names; its own name by default.")
@click.option("--cell", metavar="DIGEST", help="Measure only this cell, again; exits 1 when its accuracy is another.")
@click.option("--workers", type=int, help="Cells at once; one a GPU, or as the cores allow, by default.")
@answers
def reproduce(table: str, out: str, test: str, seeds: str, shards: str, report: ProgressReport, **options: Any) -> Any:
    """Make TABLE, one of the paper's tables or figures, on any data; cells and tables are kept in OUT."""
    from taft_ray.answers import Reproduced
    from taft_ray.verbs.reproduce import reproduce as verb

    spec = shared_spec_from(options)
    answer = verb(
        table, out, spec, test, seeds=_numbers(seeds, "--seeds"), shards=_numbers(shards, "--shards"),
        command=_command(), report=report, **options,
    )  # fmt: skip
    return Reproduced.from_json(answer)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option}={text!r}: expected comma-separated whole numbers") from None


def _command() -> str:
    """The command as it was typed, for the line under the table; without the options about how it answers."""
    words = [word for word in sys.argv[1:] if word not in ("--json", "--debug")]
    program = Path(sys.argv[0])
    if program.suffix == ".py":
        return shlex.join(["python", f"jobs/{program.name}", *words])
    return shlex.join(["taft-ray", *words])
