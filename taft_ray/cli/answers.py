"""How a command answers: `--json` puts one JSON object on stdout and everything else on stderr; errors become exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from taft_ray.errors import TaftError
from taft_ray.progress import ProgressReport

Verb = Callable[..., Any]
_WHOLE = frozenset({"rejected_rows"})  # lists that a person asked for


def answers(function: Verb) -> Verb:
    """Adds --json and --debug; turns the package's errors into one line and an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, everything else on stderr.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        log, said = logging.getLogger("taft_ray"), logging.StreamHandler(sys.stderr)
        said.setFormatter(logging.Formatter("taft-ray: %(message)s"))
        log.addHandler(said)
        try:
            # Ray prints warnings of its own on stdout, which belongs to the answer
            with contextlib.redirect_stdout(sys.stderr), ProgressReport() as report:
                answer = function(*args, report=report, **kwargs)
        except TaftError as error:
            if debug:
                traceback.print_exc()
            click.echo(f"taft-ray: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("taft-ray: interrupted; what was committed is kept, run the same command again", err=True)
            sys.exit(1)
        except Exception as error:
            if debug:
                raise
            click.echo(f"taft-ray: {type(error).__name__}: {error} (--debug shows where)", err=True)
            sys.exit(1)
        finally:
            log.removeHandler(said)
        if as_json:
            click.echo(json.dumps(answer))
        else:
            _show(_without_the_small_print(answer))
        if isinstance(answer, dict) and answer.get("ok") is False:
            sys.exit(1)

    return run


def _without_the_small_print(answer: Any) -> Any:
    """A certificate for a person: what became of the request, and where the whole of it is, which --json prints and verify checks."""
    if isinstance(answer, dict) and "certificates" in answer:
        return {**answer, "certificates": [_without_the_small_print(one) for one in answer["certificates"]]}
    if not isinstance(answer, dict) or "rests_on" not in answer:
        return answer
    short = (
        "request",
        "mode",
        "samples",
        "shards",
        "shards_after",
        "composed_after",
        "seconds",
        "cost",
        "does_not_cover",
    )
    from taft_ray.proof.certificate import certificate_bytes
    from taft_ray.storage import digest_bytes
    from taft_ray.storage.rundir import certificate_key

    key = certificate_key(answer["request"], digest_bytes(certificate_bytes(answer)))
    told = {**{name: answer[name] for name in short}, "certificate": f"{answer['run']['address']}/{key}"}
    if "forgotten_before" in answer:
        told = {"forgotten_before": answer["forgotten_before"], **told}
    if answer.get("repeated"):
        told = {
            "done_before": f"nothing was left to forget; this is what was certified then, by mode {answer['mode']}",
            **told,
        }
    return told


def _show(answer: Any, indent: str = "") -> None:
    """An answer for a person: short values a line each, lists counted."""
    if not isinstance(answer, dict):
        click.echo(f"{indent}{answer}")
        return
    for name, value in answer.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _show(value, indent + "  ")
        elif isinstance(value, list) and len(value) > 8 and name not in _WHOLE:
            click.echo(f"{indent}{name}: {len(value)} entries (--json shows them)")
        elif isinstance(value, list) and any(isinstance(item, dict) or " " in str(item) for item in value):
            click.echo(f"{indent}{name}:")
            for item in value:
                click.echo(f"{indent}  {item if isinstance(item, str) else json.dumps(item)}")
        else:
            click.echo(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
