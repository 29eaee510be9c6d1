"""`serve`: answer requests with composed models that forget, on Ray Serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from taft_ray.errors import UsageError
from taft_ray.extras import needed
from taft_ray.progress import Report, silent

if TYPE_CHECKING:
    from taft_ray.serving.started import Serving


@contextmanager
def serving(
    runs: Sequence[str],
    *,
    compose: str | None = None,
    owners: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | None = None,
    now: bool = False,
    report: Report = silent,
    **options: Any,
) -> Iterator[Serving]:
    """Models of these runs, served until the block ends, on the Ray of this process or of RAY_ADDRESS.

    runs: each as [NAME=]RUN[?owners=A,B&compose=MODE]. options: fields of `serving.options.ServingOptions`.

    PublicationHeld where the release gate of a run holds its model back, unless ``now``.
    """
    from taft_ray.orchestration import session
    from taft_ray.serving.options import ServingOptions, sources_of
    from taft_ray.serving.requests import token_digests

    sources = sources_of(runs, compose=compose, owners=owners)
    if token_file is not None:
        options["tokens"] = token_digests(token_file)
    asked = ServingOptions.of(options)
    _need_serve()
    with session.connected(report):
        from taft_ray.serving.started import start

        report("serve", 0, asked.replicas)
        with start(sources, asked, host=host, port=port, now=now) as started:
            report("serve", asked.replicas, asked.replicas)
            yield started


def _need_serve() -> None:
    try:
        import fastapi  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import starlette  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import uvicorn  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UsageError(needed("serving", error.name)) from error
