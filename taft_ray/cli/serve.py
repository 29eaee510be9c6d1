"""`serve`: answers requests until it is interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from taft_ray.additive.options import ADDITIVE
from taft_ray.cli.answers import answers
from taft_ray.progress import ProgressReport
from taft_ray.sums.options import COMPOSITIONS


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--compose", type=click.Choice((*COMPOSITIONS, ADDITIVE)), help="The run's own by default.")
@click.option(
    "--owner", "--owners", "owners", multiple=True, help="The model of these owners' pictures alone (additive)."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one needs --token-file.")
@click.option("--port", type=int, default=8000, show_default=True)
@click.option("--token-file", metavar="FILE", help="A token per line; callers send one as 'Authorization: Bearer'.")
@click.option("--now", is_flag=True, help="Begin although RUN's release gate holds the model back; the ledger says so.")
@click.option("--replicas", type=int, default=1, show_default=True, help="Processes that answer.")
@click.option("--cpus", type=float, help="Of each replica; as many as the runs' threads by default.")
@click.option(
    "--gpus", type=float, help="Of each replica; 1 where a run was made on a GPU and there is one, by default."
)
@click.option("--lease", type=float, default=5.0, show_default=True, help="Seconds without the ledger before a 503.")
@click.option("--drain", type=float, default=5.0, show_default=True, help="Seconds within which an answer is given.")
@click.option("--poll", type=float, default=0.25, show_default=True, help="Seconds between two looks at the ledger.")
@click.option("--max-bytes", type=int, default=32 << 20, show_default=True, help="Of a request.")
@click.option("--max-pictures", type=int, default=64, show_default=True, help="Of a request.")
@click.option("--max-pixels", type=int, default=89_478_485, show_default=True, help="Of a picture.")
@click.option("--max-batch", type=int, default=16, show_default=True, help="Requests that are computed together.")
@click.option(
    "--batch-wait", type=float, default=0.002, show_default=True, help="Seconds for which one waits for others."
)
@answers
def serve(
    runs: tuple[str, ...], compose: str | None, owners: tuple[str, ...], host: str, port: int, token_file: str | None,
    now: bool, report: ProgressReport, say: Callable[[Any], None], **options: Any,
) -> None:  # fmt: skip
    """Answer requests with the models of RUN..., each [NAME=]RUN[?owners=A,B&compose=MODE], until it is interrupted.

    POST /predict takes the bytes of a picture, or several as multipart/form-data. GET /model and GET /healthz tell how it
    stands. After a forget no answer comes from the model before it.
    """
    from taft_ray.answers import Serving
    from taft_ray.verbs.serve import serving

    given = {name: value for name, value in options.items() if value is not None}
    with _until_interrupted() as wait, serving(
        runs, compose=compose, owners=owners, host=host, port=port, token_file=token_file, now=now, report=report, **given
    ) as started:  # fmt: skip
        say(Serving.from_json(started.to_json()))
        wait()


@contextmanager
def _until_interrupted() -> Iterator[Callable[[], None]]:
    """A call that returns on the first interrupt, or when the process is asked to end."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()

    def wait() -> None:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            asked.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    yield wait
