"""How a command answers: `--json` puts one JSON object on stdout and everything else on stderr; errors become exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage; an answer may have an `exit_code` of its own.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import click

from taft_ray.cli.ray_lines import RayLines
from taft_ray.errors import TaftError
from taft_ray.log import JsonLines, WithContext, is_json
from taft_ray.progress import ProgressReport


@contextlib.contextmanager
def _beside_the_answer(debug: bool) -> Iterator[None]:
    """Print to stderr inside the block; Ray's own lines only with --debug."""
    if debug:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    lines = RayLines(sys.stderr)
    try:
        with contextlib.redirect_stdout(lines):
            yield
    finally:
        lines.finish()


def _left(run: Any) -> str:
    """The state of a run after an interruption, and what to do."""
    again = "what was committed is kept, run the same command again"
    if not isinstance(run, str):
        return again
    from taft_ray.verbs.interrupted import what_is_left

    left = what_is_left(run)
    return f"{left}; run the same command again to go on" if left else again


def _without_a_folder() -> str | None:
    """The way out where the folder that a command was begun in is gone, as a job's is when its package is unpacked again."""
    with contextlib.suppress(FileNotFoundError):
        os.getcwd()
        return None
    return (
        "the folder that this command was begun in was removed. Several nodes of Ray on one machine do that to a job's "
        "checkout: submit it again, and start each node with a --temp-dir of its own"
    )


Verb = Callable[..., Any]  # a command's function; what it returns is an `answers.Answer`


def answers(function: Verb) -> Verb:
    """Adds --json and --debug; turns the package's errors into one line and an exit code.

    A function with a parameter ``say`` gets a call that answers at once, and returns None in the end.
    """

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, everything else on stderr.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error, and what is done (the log) on stderr.")
    @functools.wraps(function)
    def run(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        log, said = logging.getLogger("taft_ray"), logging.StreamHandler(sys.stderr)
        said.setFormatter(
            JsonLines() if is_json() else (WithContext if debug else logging.Formatter)("taft-ray: %(message)s")
        )
        said.setLevel(logging.INFO if debug else logging.WARNING)
        level = log.level
        if debug:
            log.setLevel(logging.INFO)
        log.addHandler(said)
        out = sys.stdout

        def say(answer: Any) -> None:
            """Answer now, of a command that goes on."""
            click.echo(json.dumps(answer.to_json()) if as_json else str(answer), file=out)
            out.flush()

        if "say" in inspect.signature(function).parameters:
            kwargs["say"] = say
        try:
            # Ray prints lines of its own on stdout, which belongs to the answer
            with _beside_the_answer(debug), ProgressReport() as report:
                answer = function(*args, report=report, **kwargs)
        except TaftError as error:
            if debug:
                traceback.print_exc()
            click.echo(f"taft-ray: {error}", err=True)
            sys.exit(error.exit_code)
        except click.UsageError:
            raise  # click shows the usage
        except KeyboardInterrupt:
            click.echo(f"taft-ray: interrupted; {_left(kwargs.get('run'))}", err=True)
            sys.exit(1)
        except Exception as error:
            if debug:
                raise
            why = _without_a_folder() or f"{error} (--debug shows where)"
            click.echo(f"taft-ray: {type(error).__name__}: {why}", err=True)
            sys.exit(1)
        finally:
            log.removeHandler(said)
            log.setLevel(level)
        if answer is not None:
            say(answer)
        if code := getattr(answer, "exit_code", int(getattr(answer, "ok", None) is False)):
            sys.exit(code)

    return run
