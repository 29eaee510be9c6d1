"""The plain classes as deployments of Ray Serve: gateways take requests and ask replicas, which hold the models."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from taft_ray.serving.answering import Asked, answered, decoded
from taft_ray.serving.asking import ask
from taft_ray.serving.loading import Loader, Model
from taft_ray.serving.options import ServingOptions, Source
from taft_ray.serving.replica import OfRun, Replica, Unconfirmed
from taft_ray.serving.requests import Refused, check_access, pictures_in, read_body

COMPOSED, LEDGER, HELD = "X-Taft-Composed", "X-Taft-Ledger", "X-Taft-Held"
_FIRST_S = (
    120.0  # for which a replica's constructor waits for its models; what takes longer is answered with 503 until then
)
_SOON_S = 0.02


def seconds_since_boot() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps, where there is such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class ModelReplica:
    """A replica in its process: a thread follows the ledgers, one loads, one decodes and one computes."""

    def __init__(self, serving: str, sources: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> None:
        self.options = ServingOptions.from_json(options)
        # nothing reads memory that nothing wrote; filling it costs 2 % of a picture
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # made at import
        named = serve.get_replica_context().replica_id.unique_id
        self._loads, self._decodes, self._computes = (ThreadPoolExecutor(1) for _ in range(3))
        self._wakes: dict[OfRun, threading.Event] = {}
        self._threads: list[threading.Thread] = []
        self.replica = self._made(serving, [Source.from_json(one) for one in sources], named)
        self._wakes |= {of_run: threading.Event() for of_run in self.replica.runs}
        batched: Any = self._batched
        batched.set_max_batch_size(self.options.max_batch)
        batched.set_batch_wait_timeout_s(self.options.batch_wait)
        self._ended = threading.Event()
        until = time.monotonic() + _FIRST_S
        self.replica.poll()
        while self.replica.waits() and time.monotonic() < until:
            time.sleep(_SOON_S)
            self.replica.poll()
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through it again would hold answers up
        # a thread per run: storage that does not answer holds up its own alone
        self._threads = [threading.Thread(target=self._follow, args=one, daemon=True) for one in self._wakes.items()]
        for thread in self._threads:
            thread.start()

    def _made(self, serving: str, sources: Sequence[Source], named: str) -> Replica:
        return Replica(
            sources, serving=serving, replica=named, lease=self.options.lease, clock=seconds_since_boot, load=Loader(),
            submit=self._submit,
        )  # fmt: skip

    def _submit(self, load: Any, *arguments: Any) -> Future[Model]:
        loading = self._loads.submit(load, *arguments)
        loading.add_done_callback(self._loaded)
        return loading

    def _loaded(self, _: Future[Model]) -> None:
        for wake in self._wakes.values():
            wake.set()

    def _follow(self, of_run: OfRun, wake: threading.Event) -> None:
        while not self._ended.is_set():
            wake.wait(self.options.poll)
            wake.clear()
            of_run.poll()

    def check_health(self) -> None:
        """Ray Serve starts another replica where this raises."""
        if not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError("a thread that follows a ledger has ended")

    async def predict(self, name: str, pictures: list[bytes]) -> dict[str, Any]:
        """The classes of encoded pictures; {"unreadable": [...]} where one is none, {"unconfirmed": why} without a lease."""
        loop = asyncio.get_running_loop()
        try:
            pixels, unreadable = await loop.run_in_executor(
                self._decodes, decoded, self.replica, name, pictures, self.options.max_pixels
            )
        except Unconfirmed as error:
            return {"unconfirmed": str(error)}
        return {"unreadable": unreadable} if unreadable else await self._batched(Asked(name, pixels))

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)
    async def _batched(self, questions: list[Asked]) -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._computes, answered, self.replica, questions)

    async def told(self, name: str) -> dict[str, Any]:
        """The answer to GET /model."""
        return self.replica.told(name)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the process is ending
            self._ended.set()
            self.replica.close()


class Gateway:
    """Requests of callers: let in or refused, read up to their limits, and passed on."""

    def __init__(self, replicas: Any, names: Sequence[str], options: Mapping[str, Any]) -> None:
        self.options = ServingOptions.from_json(options)
        self._replicas, self._names = replicas, list(names)

    async def __call__(self, request: Request) -> Response:
        try:
            return await self._routed(request)
        except Refused as error:
            headers = {"Retry-After": "1"} if error.status == 503 else {}
            if error.status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            return JSONResponse({"error": error.why}, error.status, headers)

    async def _routed(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", "")).strip("/")
        what, _, name = path.partition("/")
        if path == "healthz":
            return await self._health()
        caller = request.client.host if request.client else ""
        check_access(request.headers.get("authorization", ""), caller, self.options.tokens)
        if what == "predict":
            self._allow(request, "POST")
            return await self._predict(request, self._named(name))
        if what == "model":
            self._allow(request, "GET")
            return await self._model(self._named(name))
        raise Refused(404, "known are POST /predict, GET /model and GET /healthz")

    @staticmethod
    def _allow(request: Request, method: str) -> None:
        if request.method != method:
            raise Refused(405, f"expected {method}, got {request.method}")

    def _named(self, name: str) -> str:
        if not name and len(self._names) > 1:
            raise Refused(400, f"several models are served; name one in the path: {', '.join(self._names)}")
        if name and name not in self._names:
            raise Refused(404, f"there is no model of that name; known are {', '.join(self._names)}")
        return name or self._names[0]

    async def _predict(self, request: Request, name: str) -> Response:
        declared = request.headers.get("content-length", "")
        body = await read_body(request.stream(), declared, self.options.max_bytes)
        pictures = pictures_in(body, request.headers.get("content-type", ""), self.options.max_pictures)
        answer = await self.ask(name, pictures)
        if "unreadable" in answer:
            return JSONResponse({"error": "these pictures cannot be read; nothing was predicted", **answer}, 422)
        headers = {COMPOSED: answer["composed"], LEDGER: str(answer["ledger"])}
        if "held" in answer:
            headers[HELD] = answer["held"].replace("ε", "epsilon").encode("ascii", "replace").decode()
        return JSONResponse(answer, headers=headers)

    async def ask(self, name: str, pictures: list[bytes]) -> dict[str, Any]:
        """The answer of a replica: what POST /predict answers, or {"unreadable"}. Refused (503) where there is none."""
        return dict(await ask(lambda: self._replicas.predict.remote(name, pictures), self.options.drain))

    async def told(self, name: str) -> dict[str, Any]:
        """The answer to GET /model."""
        return dict(await ask(lambda: self._replicas.told.remote(name), self.options.drain))

    async def _model(self, name: str) -> Response:
        return JSONResponse({**await self.told(name), "models": self._names})

    async def _health(self) -> Response:
        several = await asyncio.gather(*(self.told(name) for name in self._names))
        fine = any(one["confirmed"] for one in several)
        return JSONResponse({"ok": fine}, 200 if fine else 503)
