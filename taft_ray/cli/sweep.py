"""The command that tries settings on a run's tokens."""

from __future__ import annotations

from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.plans.space import VARIED, parse_space
from taft_ray.plans.sweep import OBJECTIVES, SCHEDULERS, Sweep
from taft_ray.progress import ProgressReport


@click.command()
@click.argument("run")
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=VALUES",
    help=f"What is tried: NAME=VALUE,VALUE,… or NAME=LOW..HIGH, once a name; of {', '.join(VARIED)}. "
    "The paper's choices and wide ranges by default.",
)
@click.option("--trials", type=int, default=24, show_default=True, help="At most.")
@click.option(
    "--held-out", type=float, default=0.2, show_default=True, help="Fraction of the run's samples to choose by."
)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="composed",
    show_default=True,
    help="The model that the shards compose to, or one model over the whole.",
)
@click.option(
    "--scheduler",
    type=click.Choice(SCHEDULERS),
    default="asha",
    show_default=True,
    help="Who is stopped early: successive halving, below the others' median, or nobody.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the trials drawn.")
@click.option("--mlflow", metavar="URI", help="Log the trials to this MLflow server, too.")
@answers
def sweep(run: str, vary: tuple[str, ...], mlflow: str | None, report: ProgressReport, **options: Any) -> Any:
    """Try settings of RUN's deltas on the tokens that it has cached; writes the best as a spec for train --spec."""
    from taft_ray.verbs.run import Run

    return Run(run, progress=report).sweep(Sweep(space=parse_space(vary), **options), mlflow=mlflow)
