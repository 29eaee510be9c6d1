"""The command line: parse, call one verb, print."""

from __future__ import annotations

import click

from taft_ray import __version__
from taft_ray.cli.commands import Commands, Program

__all__ = ["main"]


@click.group(
    cls=Program,
    commands=Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
def main() -> None:
    """Fine-tune linearised vision transformers on shards that can be forgotten exactly."""
