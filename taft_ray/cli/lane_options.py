"""The options that say what each worker of a run takes of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from taft_ray.errors import UsageError
from taft_ray.plans.lane_resources import LaneResources

_OPTIONS = (
    click.option(
        "--gpus-per-lane", type=float, metavar="FRACTION", help="Of one GPU; 0.5 lets two workers share it. 1 by default."
    ),
    click.option("--cpus-per-lane", type=float, help="Cores of each worker; --threads by default, none beside a GPU."),
    click.option(
        "--resource-per-lane", "resources", multiple=True, metavar="NAME=AMOUNT", help="A custom resource of the cluster's nodes."
    ),
    click.option("--accelerator-type", metavar="NAME", help="Workers go to GPUs of this kind only, by Ray's name: L4, say."),
    click.option(
        "--label-selector", "labels", multiple=True, metavar="KEY=VALUE",
        help="Workers go to nodes with this label only; !VALUE and in(A,B) as Ray has them.",
    ),
)  # fmt: skip


def lane_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command ``per_lane``: what these options say, None where a person has given none of them."""

    @wraps(function)
    def call(
        gpus_per_lane: float | None, cpus_per_lane: float | None, resources: Sequence[str], accelerator_type: str | None,
        labels: Sequence[str], **others: Any,
    ) -> Any:  # fmt: skip
        given = {
            **({} if gpus_per_lane is None else {"gpus": gpus_per_lane}),
            **({} if cpus_per_lane is None else {"cpus": cpus_per_lane}),
            **({} if accelerator_type is None else {"accelerator_type": accelerator_type or None}),
            **({"resources": {name: _amount(name, text) for name, text in map(_pair, resources)}} if resources else {}),
            **({"label_selector": dict(map(_pair, labels))} if labels else {}),
        }
        return function(per_lane=LaneResources(**given) if given else None, **others)

    for option in reversed(_OPTIONS):
        call = option(call)
    return call


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{text!r}: expected NAME=VALUE")
    return name, value


def _amount(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"--resource-per-lane {name}={text}: expected a number") from error
