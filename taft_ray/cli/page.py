"""The command of the page."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from taft_ray.cli.answers import answers
from taft_ray.progress import ProgressReport


@click.command("page")
@click.argument("uri", default=".")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8550, show_default=True, help="0 takes any that is free."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Any but this machine's own needs a token.")
@click.option("--token-file", metavar="FILE", help="The token that a browser, or a bearer, has to give.")
@click.option("--allow-forget", is_flag=True, help="Add the form that forgets; needs a token.")
@answers
def page(uri: str, port: int, host: str, token_file: str | None, allow_forget: bool, report: ProgressReport) -> Any:
    """A page of the runs at URI, live in a browser, from their storage alone; until it is interrupted.

    It shows state, requests and certificates, shards, exports with recalls, privacy, audits and costs. It changes nothing, unless
    --allow-forget is given.
    """
    from taft_ray.answers import Paged
    from taft_ray.web.access import read_token
    from taft_ray.web.server import page_server

    token = None if token_file is None else read_token(token_file)
    with page_server(uri, host=host, port=port, token=token, allow_forget=allow_forget) as server:
        click.echo(f"{server.url} shows the runs at {server.site.readings.place.uri}; Ctrl-C ends it", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        return Paged(url=server.url, place=server.site.readings.place.uri)
