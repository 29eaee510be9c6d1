"""The options that say which samples are meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taft_ray.cli.answers import Verb
from taft_ray.errors import UsageError


def read_ids(text: str) -> list[str]:
    """IDS: a comma-separated list, or @file with one id a line."""
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"ids file {path} cannot be read: {error}; expected UTF-8 text, one id a line") from error
        ids = [line.strip() for line in lines if line.strip()]
    else:
        ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise UsageError(f"no ids in {text!r}; expected a comma-separated list, or @file with one id a line")
    return ids


def selection_options(function: Verb) -> Verb:
    """The options that say what to forget, for `forget` and `estimate`."""
    options = [
        click.option("--ids", metavar="IDS", help="Comma-separated sample ids, or @file with one id a line."),
        click.option("--owner", "owners", multiple=True, help="Everything of an owner (the data's owner column)."),
        click.option("--shard", "shards", type=int, multiple=True, help="Everything in a shard, by number."),
        click.option(
            "--gpu-hour-price",
            type=click.FloatRange(min=0),
            help="What an hour of a worker costs, for the cost of the fits.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def selection_from(ids: str | None, owners: tuple[str, ...], shards: tuple[int, ...]) -> Any:
    from taft_ray.orchestration.selection import Selection

    return Selection(ids=tuple(dict.fromkeys(read_ids(ids))) if ids is not None else (), owners=owners, shards=shards)
