"""The command line: parse, call one verb, print."""

from __future__ import annotations

import click

from taft_ray import __version__
from taft_ray.cli.forgetting import estimate, forget, sign
from taft_ray.cli.proof import audit, destroy_key, verify
from taft_ray.cli.repair import repair
from taft_ray.cli.reproduce import reproduce
from taft_ray.cli.run import demo, evaluate, export_command, gc, report_command, status, train
from taft_ray.cli.sweep import sweep

__all__ = [
    "audit",
    "demo",
    "destroy_key",
    "estimate",
    "evaluate",
    "export_command",
    "forget",
    "gc",
    "main",
    "repair",
    "report_command",
    "reproduce",
    "sign",
    "status",
    "sweep",
    "train",
    "verify",
]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Fine-tune linearised vision transformers on shards that can be forgotten exactly."""


COMMANDS = (
    train,
    evaluate,
    sweep,
    export_command,
    estimate,
    forget,
    sign,
    status,
    verify,
    repair,
    audit,
    destroy_key,
    gc,
    report_command,
    reproduce,
    demo,
)
for command in COMMANDS:
    main.add_command(command)
