"""The command that chooses settings of an additive run's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from taft_ray.additive.settings import LEFT_OUT, WEIGHTS
from taft_ray.cli.answers import answers
from taft_ray.progress import ProgressReport

_WEIGHTS = ",".join(f"{weight:g}" for weight in WEIGHTS)


def _numbers(kind: type[int] | type[float]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Numbers with commas, as a tuple; None where the option was not given."""

    def read(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int | float, ...] | None:
        try:
            return None if text is None else tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            what = "whole numbers" if kind is int else "numbers"
            raise click.BadParameter(f"{text!r}: expected {what} with commas, such as 1,4") from error

    return read


@click.command()
@click.argument("run")
@click.option(
    "--sizes",
    callback=_numbers(int),
    metavar="S,S,…",
    help="How many of a row's first numbers; a quarter, a half and all by default.",
)
@click.option(
    "--weights",
    callback=_numbers(float),
    metavar="W,W,…",
    help=f"What a group of sites may weigh beside 1; {_WEIGHTS} by default, and 1 leaves the groups alike.",
)
@click.option(
    "--kappas",
    callback=_numbers(float),
    metavar="K,K,…",
    help="Factors of the logits, for probabilities; the run's own and 1 to 64 by default. One alone is taken as it is.",
)
@click.option(
    "--left-out", type=int, default=LEFT_OUT, show_default=True, help="Pictures, at most, that are left out one by one."
)
@click.option("--reset", is_flag=True, help="Give the policy up: λ by GCV and the run's own κ, as before.")
@answers
def tune(
    run: str,
    sizes: tuple[int, ...] | None,
    weights: tuple[float, ...] | None,
    kappas: tuple[float, ...] | None,
    left_out: int,
    reset: bool,
    report: ProgressReport,
) -> Any:
    """Choose settings of an additive RUN's model from its sums and rows, in seconds.

    Criteria are generalised cross-validation and pictures left out one by one; test data is not asked for. The candidates are kept
    as the run's policy: whenever a picture has left, the next command that uses the model chooses again among them.
    """
    from taft_ray.verbs.run import Run

    return Run(run, progress=report).tune(
        sizes=sizes or (), weights=weights, kappas=kappas or (), left_out=left_out, reset=reset
    )
