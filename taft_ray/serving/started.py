"""A serving that this process has started: where it listens, how to ask it, and its end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve.context import _get_global_client  # there is no public way

from taft_ray.errors import StorageError, TaftError, UsageError
from taft_ray.serving.application import built, register, unregister
from taft_ray.serving.options import ServingOptions, Source
from taft_ray.serving.requests import Refused

_OWN = "127.0.0.1"
_SLOWEST_S = 60.0  # within which a request has to be sent, and answered


class Serving:
    """Models that are served by the Ray of this process, until ``stop`` or the end of a with-block. Made by `start`.

    url: where it listens. name: of this serving, in ledgers.
    """

    def __init__(self, name: str, url: str, sources: Sequence[Source], options: ServingOptions, handle: Any) -> None:
        self.name, self.url, self.sources, self.options = name, url, tuple(sources), options
        self._handle = handle
        self._stopped = False

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def predict(self, pictures: bytes | Sequence[bytes], model: str = "") -> dict[str, Any]:
        """The answer to POST /predict of encoded pictures; TaftError where it is an error.

        {"composed": digest, "ledger": number, "classes", "predictions": [{"label", "probability", "probabilities"}]}.

        With "held", the reason why, predictions have labels alone: a release gate holds the model back.
        """
        several = [pictures] if isinstance(pictures, bytes) else list(pictures)
        answer = self._asked("ask", self._named(model), several)
        if "unreadable" in answer:
            told = "; ".join(f"picture {one['picture']}: {one['reason']}" for one in answer["unreadable"])
            raise UsageError(f"{told}; nothing was predicted")
        return answer

    def told(self, model: str = "") -> dict[str, Any]:
        """The answer to GET /model: {"name", "composed", "classes", "ledger", "confirmed", "requests_open"}."""
        return self._asked("told", self._named(model))

    def _named(self, model: str) -> str:
        names = [source.name for source in self.sources]
        if model not in names and (model or len(names) > 1):
            raise UsageError(f"model={model!r}: expected one of {', '.join(names)}")
        return model or names[0]

    def _asked(self, what: str, *arguments: Any) -> dict[str, Any]:
        try:
            return getattr(self._handle, what).remote(*arguments).result()
        except Refused as error:
            raise TaftError(error.why) from None

    def to_json(self) -> dict[str, Any]:
        """The answer of `taft-ray serve`, once it listens."""
        told = [{**source.to_json(), **self.told(source.name)} for source in self.sources]
        shown = ("name", "run", "compose", "owners", "composed", "classes", "ledger")
        return {
            "serving": self.name,
            "url": self.url,
            "models": [{name: one[name] for name in shown if name in one} for one in told],
            "replicas": self.options.replicas,
            "lease": self.options.lease,
            "drain": self.options.drain,
            "tokens": len(self.options.tokens),
        }

    def stop(self) -> None:
        """End the application and commit that it has ended. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(Exception):  # a Ray that has ended took the replicas with it
            serve.delete(application_name(self.name))
        unregister(self.name, self.sources)


def application_name(serving: str) -> str:
    """The name of a serving's application in Ray Serve."""
    return f"taft-ray-{serving}"


def start(
    sources: Sequence[Source], options: ServingOptions, *, host: str = _OWN, port: int = 8000, route: str = "/",
    now: bool = False,
) -> Serving:  # fmt: skip
    """Serve these models on the Ray of this process; returns when every replica has its models.

    UsageError for a host that others reach without tokens. StorageError where the port is taken. PublicationHeld where a
    release gate holds a model back, unless ``now``.
    """
    if host not in (_OWN, "localhost", "::1") and not options.tokens:
        raise UsageError(f"--host {host} is reached from elsewhere; give --token-file, or leave --host out")
    name = register(sources, options, now=now)
    quiet = {"log_level": "WARNING"}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            http_options={"host": host, "port": port, "request_timeout_s": _SLOWEST_S},
            proxy_location="HeadOnly",
            logging_config=quiet,
        )
        _check_listens(host, port)
        application = built(name, sources, options)
        handle = serve.run(application, name=application_name(name), route_prefix=route, logging_config=quiet)
    except Exception as error:
        unregister(name, sources)
        if isinstance(error, TaftError):
            raise
        cause = getattr(error, "cause", None) or error  # inside what a controller's call raised
        raise StorageError(f"Ray Serve did not start: {str(cause).strip().splitlines()[0]}") from error
    shown = f"[{host}]" if ":" in host else host
    return Serving(name, f"http://{shown}:{port}{route.rstrip('/')}", sources, options, handle)


def _check_listens(host: str, port: int) -> None:
    """UsageError where Ray Serve listens elsewhere: it keeps to the address that it was first started with, and says so in its log."""
    client = _get_global_client()
    there = client.http_config if client is not None else None
    if there is not None and (there.host, there.port) != (host, port):
        raise UsageError(
            f"Ray Serve of this cluster listens at {there.host}:{there.port} since something was served there first. Give "
            f"--host {there.host} --port {there.port}, or end it by `serve shutdown` and run the same command again"
        )
